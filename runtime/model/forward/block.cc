#include "runtime/model/forward/block.h"

#include <algorithm>
#include <utility>

#include "kernels/layer/activation.h"
#include "kernels/layer/elementwise.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

void GrowTo(size_t size, std::vector<float>& values) {
  if (values.size() < size) values.resize(size);
}

// hidden (tokens, hidden) += x
void AddResidual(const float* x, const BlockRun& run) {
  const size_t width = run.context.config.hidden;
  ParallelFor(run.context.executor, run.tokens, [&](size_t token, size_t) {
    AddInPlace(x + token * width, width, run.hidden + token * width);
  });
}

// y (tokens, rows) = W x.
void RunProjection(Projection& projection, const float* x, size_t tokens,
                   float* y, ForwardContext& context) {
  Executor& executor = context.executor;
  if (context.fitting) {
    projection.FitAndRun(x, tokens, y, executor, context.products);
  } else if (context.decoding) {
    projection.RunEach(x, tokens, y, executor, context.products);
  } else {
    projection.Run(x, tokens, y, executor, context.products);
  }
}

}  // namespace

void Activity::Reserve(const ModelConfig& config, size_t count) {
  if (count <= tokens) return;
  for (std::vector<float>* values : {&normed, &output}) {
    values->resize(count * config.hidden);
  }
  for (size_t layer = 0; layer < config.layers; ++layer) {
    GrowTo(count * config.qkv_rows(layer), qkv);
    GrowTo(count * config.o_cols(layer), heads);
    GrowTo(count * config.mlp_in_rows(layer), gate_up);
    GrowTo(count * config.mlp_width(layer), mlp);
  }
  tokens = count;
}

void RunNorm(const Norm& norm, const float* x, size_t tokens, float* out,
             ForwardContext& context) {
  const size_t width = context.config.hidden;
  ParallelFor(context.executor, tokens, [&](size_t token, size_t) {
    norm.Run(x + token * width, out + token * width);
  });
}

Result<Block> Block::Create(size_t layer, const BlockSpec& spec,
                            const ModelConfig& config, WeightType type,
                            ProductFactory& factory) {
  Block block;
  block.layer_ = layer;
  for (const auto& [norm, norm_spec] :
       {std::pair(&block.attention_norm_, &spec.attention_norm),
        std::pair(&block.mlp_norm_, &spec.mlp_norm),
        std::pair(&block.attention_out_norm_, &spec.attention_out_norm),
        std::pair(&block.mlp_out_norm_, &spec.mlp_out_norm),
        std::pair(&block.q_norm_, &spec.q_norm),
        std::pair(&block.k_norm_, &spec.k_norm)}) {
    RANKFORGE_ASSIGN_OR_RETURN(*norm,
                               Norm::Load(*norm_spec, config, factory.source));
  }
  for (const Site site : kSites) {
    RANKFORGE_ASSIGN_OR_RETURN(block.projections_[site],
                               Projection::Create(spec[site], type, factory));
  }
  for (const auto& [turn, turn_spec] :
       {std::pair(&block.enter_, &spec.enter),
        std::pair(&block.leave_, &spec.leave)}) {
    if (!*turn_spec) continue;
    RANKFORGE_ASSIGN_OR_RETURN(*turn,
                               Projection::Create(**turn_spec, type, factory));
  }
  return block;
}

void Block::Run(const BlockRun& run) {
  Activity& activity = run.context.activity;
  float* const x = activity.normed.data();       // (tokens, hidden)
  float* const heads = activity.heads.data();    // (tokens, o_cols)
  float* const mlp = activity.mlp.data();        // (tokens, mlp)
  float* const output = activity.output.data();  // (tokens, hidden)

  // x = norm(hidden)
  AttentionInput(run.hidden, run.tokens, x, run.context);
  // heads = attention(W_qkv x)
  RunSite(Site::kAttentionInput, x, heads, run);
  // hidden += W_o heads, x = norm(hidden), with a norm before the sum in models
  // that have one there
  RunSite(Site::kAttentionOutput, heads, x, run);
  // hidden += W_down (act(W_gate x) * W_up x)
  if (FusedMlp(x, output, run)) {
    AddToHidden(mlp_out_norm_, output, run);
    Turn(leave_, run.hidden, run.tokens, run.context);
    return;
  }
  RunSite(Site::kMlpInput, x, mlp, run);
  RunSite(Site::kMlpHidden, mlp, nullptr, run);
}

void Block::PassBy(const BlockRun& run) {
  Turn(enter_, run.hidden, run.tokens, run.context);
  Turn(leave_, run.hidden, run.tokens, run.context);
}

void Block::AttentionInput(float* hidden, size_t tokens, float* x,
                           ForwardContext& context) {
  Turn(enter_, hidden, tokens, context);
  RunNorm(attention_norm_, hidden, tokens, x, context);
}

void Block::RunSite(Site site, const float* x, float* next,
                    const BlockRun& run) {
  ForwardContext& context = run.context;
  Activity& activity = context.activity;
  float* const output = activity.output.data();
  // In a parallel block, attention and the MLP read the same hidden values.
  const bool parallel = context.config.parallel_blocks;
  switch (site) {
    case Site::kAttentionInput:
      Project(site, x, activity.qkv.data(), run);
      NormHeads(activity.qkv.data(), run);
      if (context.decoding) {
        DecodeAttention(context.config, layer_, run.tokens, activity.qkv.data(),
                        run.cache, context.executor, next);
      } else {
        CausalAttention(context.config, layer_, run.tokens, activity.qkv.data(),
                        run.cache, context.executor, context.attention, next);
      }
      return;
    case Site::kAttentionOutput:
      if (parallel) RunNorm(mlp_norm_, run.hidden, run.tokens, next, context);
      Project(site, x, output, run);
      AddToHidden(attention_out_norm_, output, run);
      if (!parallel) RunNorm(mlp_norm_, run.hidden, run.tokens, next, context);
      return;
    case Site::kMlpInput:
      GateAndUp(x, next, run);
      return;
    case Site::kMlpHidden:
      Down(x, output, run);
      AddToHidden(mlp_out_norm_, output, run);
      Turn(leave_, run.hidden, run.tokens, context);
      return;
  }
}

void Block::Project(Site site, const float* x, float* y, const BlockRun& run) {
  Projection& projection = projections_[site];
  ForwardContext& context = run.context;
  ActivationObserver* const observer = context.observer;
  const size_t tokens = run.tokens;
  if (observer != nullptr) {
    observer->Observe(layer_, site, x, tokens, projection.cols());
  }
  RunProjection(projection, x, tokens, y, context);
  if (observer != nullptr) {
    observer->ObserveOutput(layer_, site, y, tokens, projection.rows());
  }
}

void Block::NormHeads(float* qkv, const BlockRun& run) const {
  if (!q_norm_.exists()) return;
  const ModelConfig& config = run.context.config;
  const size_t q_rows = config.q_rows(layer_);
  const size_t k_end = q_rows + config.k_rows(layer_);
  ParallelFor(run.context.executor, run.tokens, [&](size_t token, size_t) {
    float* const values = qkv + token * config.qkv_rows(layer_);
    for (size_t at = 0; at < q_rows; at += q_norm_.size()) {
      q_norm_.Run(values + at, values + at);
    }
    for (size_t at = q_rows; at < k_end; at += k_norm_.size()) {
      k_norm_.Run(values + at, values + at);
    }
  });
}

void Block::AddToHidden(const Norm& norm, float* x, const BlockRun& run) const {
  if (norm.exists()) RunNorm(norm, x, run.tokens, x, run.context);
  AddResidual(x, run);
}

void Block::Turn(std::optional<Projection>& turn, float* hidden, size_t tokens,
                 ForwardContext& context) {
  if (!turn) return;
  float* const turned = context.activity.output.data();
  RunProjection(*turn, hidden, tokens, turned, context);
  std::copy_n(turned, tokens * context.config.hidden, hidden);
}

void Block::GateAndUp(const float* x, float* mlp, const BlockRun& run) {
  ForwardContext& context = run.context;
  const ModelConfig& config = context.config;
  Projection& gate_up = projections_[Site::kMlpInput];
  float* const values = context.activity.gate_up.data();
  if (gate_up.GateDecides()) {
    if (context.observer != nullptr) {
      context.observer->Observe(layer_, Site::kMlpInput, x, run.tokens,
                                config.hidden);
    }
    kept_by_gate_ += RunGateFirstHidden(gate_up,
                                        {.x = x,
                                         .tokens = run.tokens,
                                         .activation = config.activation,
                                         .fit = context.fitting,
                                         .gate_up_values = values,
                                         .hidden = mlp},
                                        context.executor, context.products);
    return;
  }
  Project(Site::kMlpInput, x, values, run);
  const size_t width = config.mlp_width(layer_);
  ParallelFor(context.executor, run.tokens, [&](size_t token, size_t) {
    const float* const gate = values + token * config.mlp_in_rows(layer_);
    Activate(config.activation, gate, config.gated_mlp ? gate + width : nullptr,
             width, mlp + token * width);
  });
}

void Block::Down(const float* mlp, float* y, const BlockRun& run) {
  if (!projections_[Site::kMlpInput].GateDecides()) {
    Project(Site::kMlpHidden, mlp, y, run);
    return;
  }
  ForwardContext& context = run.context;
  Projection& down = projections_[Site::kMlpHidden];
  ActivationObserver* const observer = context.observer;
  if (observer != nullptr) {
    observer->Observe(layer_, Site::kMlpHidden, mlp, run.tokens, down.cols());
  }
  down.RunKept(mlp, run.tokens, std::exchange(kept_by_gate_, 0), y,
               context.executor, context.products);
  if (observer != nullptr) {
    observer->ObserveOutput(layer_, Site::kMlpHidden, y, run.tokens,
                            down.rows());
  }
}

bool Block::FusedMlp(const float* x, float* y, const BlockRun& run) {
  ForwardContext& context = run.context;
  const bool one = run.tokens == 1;
  if (!(one || context.decoding) || context.observer != nullptr ||
      context.fitting) {
    return false;
  }
  Projection& gate_up = projections_[Site::kMlpInput];
  Projection& down = projections_[Site::kMlpHidden];
  const Activation activation = context.config.activation;
  float* const values = context.activity.gate_up.data();
  if (gate_up.GateDecides() && !one) {
    DecodeGateFirstMlps(gate_up, down, activation, x, run.tokens, values, y,
                        context.executor, context.products);
    return true;
  }
  if (gate_up.GateDecides()) {
    DecodeGateFirstMlp(gate_up, down, activation, x, values, y,
                       context.executor, context.products);
    return true;
  }
  if (one && down.MasksInput()) {
    DecodeGatedMlp(gate_up, down, activation, x, values, y, context.executor,
                   context.products);
    return true;
  }
  return false;
}

}  // namespace rankforge
