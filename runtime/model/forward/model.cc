#include "runtime/model/forward/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "kernels/layer/elementwise.h"
#include "runtime/model/forward/blas.h"
#include "runtime/model/forward/block.h"
#include "runtime/model/forward/layer_skipper.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/forward/projection.h"
#include "runtime/model/weights/adapter_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

namespace {

// Tokens that go through the layers together. With 256, widening the weights
// takes one operation per 256 multiply-adds, so more tokens would gain little.
// The largest activations of a Llama-2-7b layer, gate and up, are 22 MiB.
constexpr size_t kPrefillTokens = 256;

Status OutOfMemory() {
  return EnvironmentError(
      "not enough memory for the packed weights of this model; use a smaller "
      "model or --dtype bf16");
}

// What ProductScratch has room for.
struct ScratchSizes {
  size_t input = 0;
  size_t mask = 0;
  size_t z = 0;

  ScratchSizes Max(const ScratchSizes& other) const {
    return {std::max(input, other.input), std::max(mask, other.mask),
            std::max(z, other.z)};
  }
};

// Sets a flag for as long as a run lasts, also for one that throws.
class FlagWhile {
 public:
  FlagWhile(bool& flag, bool value) : flag_(flag) { flag_ = value; }
  ~FlagWhile() { flag_ = false; }
  FlagWhile(const FlagWhile&) = delete;
  FlagWhile& operator=(const FlagWhile&) = delete;

 private:
  bool& flag_;
};

}  // namespace

struct Model::Impl {
  Impl(const ModelConfig& config, const WeightSource& source,
       const ModelOptions& options, std::shared_ptr<Executor> executor,
       const ModelSpec& spec);

  Status CreateProducts(const ModelSpec& spec, const WeightSource& weights,
                        const Dispatcher& dispatcher);
  // Calls build(factory, spec), which builds all or part of block `layer`, and
  // makes the scratch memory as large as the new products need.
  template <class Build>
  Status Rebuild(size_t layer, const WeightSource& weights,
                 const Adapter* adapter, Build build);
  Status CheckInput(std::span<const int> ids, const KvCache& cache,
                    size_t logits, bool all_logits) const;
  // Remembers `layer` if `output` (tokens, hidden) is the first that is not
  // finite.
  void Examine(size_t layer, const float* output, size_t tokens);
  ProductScratch MakeScratch() const {
    return {executor->threads(), scratch_sizes.input, scratch_sizes.mask,
            scratch_sizes.z};
  }

  ModelConfig config;
  const WeightSource* source;  // of embeddings
  ModelOptions options;
  std::shared_ptr<Executor> executor;
  std::vector<std::optional<Block>> blocks;  // none: not packed
  LayerSkipper skipper;
  Norm final_norm;
  std::optional<WeightProduct> lm_head;
  StageClock lm_head_clock{"lm_head"};

  uint64_t tokens_seen = 0;
  std::optional<size_t> not_finite;  // the first such layer
  std::vector<float> hidden;         // (tokens, hidden), of a chunk
  ScratchSizes scratch_sizes;
  ForwardContext context;
};

namespace {

// The largest size(projection) over all projections.
template <class Size>
size_t Largest(const ModelSpec& spec, Size size) {
  size_t largest = 0;
  for (const BlockSpec& block : spec.blocks) {
    ForEachProjection(block, [&](const ProjectionSpec& projection) {
      largest = std::max(largest, size(projection));
    });
  }
  return largest;
}

ScratchSizes ScratchSizesOf(const ModelSpec& spec) {
  return {Largest(spec, InputSize), Largest(spec, MaskSize),
          Largest(spec, ZSize)};
}

}  // namespace

Model::Impl::Impl(const ModelConfig& config, const WeightSource& source,
                  const ModelOptions& options,
                  std::shared_ptr<Executor> executor, const ModelSpec& spec)
    : config(config),
      source(&source),
      options(options),
      executor(std::move(executor)),
      hidden(config.hidden),
      scratch_sizes(ScratchSizesOf(spec)),
      context{.config = this->config,
              .executor = *this->executor,
              .products = MakeScratch()} {
  context.activity.Reserve(config, 1);
}

Status Model::Impl::CreateProducts(const ModelSpec& spec,
                                   const WeightSource& weights,
                                   const Dispatcher& dispatcher) {
  // Fails here, not at the first token, if the embedding is not usable.
  RANKFORGE_RETURN_IF_ERROR(weights.Embedding(0, std::span(hidden)));
  RANKFORGE_ASSIGN_OR_RETURN(final_norm,
                             Norm::Load(spec.final_norm, config, weights));
  // Packing copies or generates every weight once. Threads take a block each;
  // the lm_head, the largest matrix, goes first.
  ProductFactory factory{weights,
                         dispatcher,
                         options.threads,
                         options.tau_scale,
                         options.stored_types.get(),
                         options.activations,
                         {}};
  blocks.resize(spec.blocks.size());
  const size_t packed = options.blocks_on_demand ? 0 : blocks.size();
  std::vector<Status> statuses(packed + 1);
  std::atomic<bool> failed{false};
  const auto create = [&](size_t item) -> Status {
    if (item == 0) {
      RANKFORGE_ASSIGN_OR_RETURN(
          lm_head,
          WeightProduct::Create(spec.lm_head, options.lm_head_type, factory));
    } else {
      RANKFORGE_ASSIGN_OR_RETURN(blocks[item - 1],
                                 Block::Create(item - 1, spec.blocks[item - 1],
                                               config, options.type, factory));
    }
    return {};
  };
  ParallelFor(*executor, statuses.size(), [&](size_t item, size_t) {
    if (failed) return;
    try {
      statuses[item] = create(item);
    } catch (const std::bad_alloc&) {
      statuses[item] = OutOfMemory();
    }
    if (!statuses[item].ok()) failed = true;
  });
  for (const Status& status : statuses) RANKFORGE_RETURN_IF_ERROR(status);
  return {};
}

Status Model::Impl::CheckInput(std::span<const int> ids, const KvCache& cache,
                               size_t logits, bool all_logits) const {
  if (ids.empty()) {
    return UsageError("forward: no token ids; give at least one");
  }
  if (!cache.Fits(config)) {
    return UsageError(
        "forward: the KV cache was made for a model of another shape; make one "
        "for this model");
  }
  if (ids.size() > cache.capacity() - cache.length()) {
    return Failed(fmt::format(
        "forward: the KV cache holds {} positions, {} are taken and {} more "
        "are asked for; use a larger context or fewer tokens",
        cache.capacity(), cache.length(), ids.size()));
  }
  if (cache.ChangesFrequencies(ids.size())) {
    return UsageError(fmt::format(
        "forward: the sequence passes 'original_max_position_embeddings' {}, "
        "where the rotary factors of longrope change; run it again from its "
        "first token, or use a shorter context",
        config.rope_scaling.positions));
  }
  if (cache.decision() && ids.size() > 1 && !context.decoding) {
    return UsageError(fmt::format(
        "forward: the prompt of this sequence has ended, and {} layers may be "
        "left out since: {} tokens at once are another prompt, which needs all "
        "layers; clear the KV cache and run all tokens",
        cache.decision()->skipped.size(), ids.size()));
  }
  const size_t expected = config.vocab * (all_logits ? ids.size() : 1);
  if (logits != 0 && logits != expected) {
    return UsageError(
        fmt::format("forward: room for {} logits, {} are needed; "
                    "size the buffer for the model",
                    logits, expected));
  }
  return {};
}

void ActivationObserver::ObserveOutput(size_t, Site, const float*, size_t,
                                       size_t) {}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

Result<Model> Model::Create(const ModelConfig& config,
                            const WeightSource& source, const Adapter* adapter,
                            const Dispatcher& dispatcher,
                            const ModelOptions& options,
                            std::shared_ptr<Executor> executor) {
  PrepareBlas();
  if (adapter != nullptr) {
    RANKFORGE_RETURN_IF_ERROR(CheckAdapter(config, *adapter));
  }
  try {
    const ModelSpec spec = DescribeModel(config, adapter);
    auto impl = std::make_unique<Impl>(config, source, options,
                                       std::move(executor), spec);
    RANKFORGE_ASSIGN_OR_RETURN(
        impl->skipper, LayerSkipper::Create(config, adapter, options.skip));
    const AdapterWeights adapted(source, adapter);
    RANKFORGE_RETURN_IF_ERROR(impl->CreateProducts(
        spec, FoldedWeights(config, adapted, adapter), dispatcher));
    return Model(std::move(impl));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

template <class Build>
Status Model::Impl::Rebuild(size_t layer, const WeightSource& weights,
                            const Adapter* adapter, Build build) {
  if (layer >= config.layers) {
    return UsageError(fmt::format(
        "block {}: the model has {}; name one of them", layer, config.layers));
  }
  if (adapter != nullptr) {
    RANKFORGE_RETURN_IF_ERROR(CheckAdapter(config, *adapter));
  }
  try {
    const ModelSpec spec = DescribeModel(config, adapter);
    const AdapterWeights adapted(weights, adapter);
    const FoldedWeights folded(config, adapted, adapter);
    const Dispatcher defaults(nullptr);
    ProductFactory factory{folded,
                           defaults,
                           options.threads,
                           options.tau_scale,
                           options.stored_types.get(),
                           options.activations,
                           {}};
    RANKFORGE_RETURN_IF_ERROR(build(factory, spec.blocks[layer]));
    scratch_sizes = scratch_sizes.Max(ScratchSizesOf(spec));
    context.products = MakeScratch();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
  return {};
}

Status Model::AdaptBlock(size_t layer, const WeightSource& weights,
                         const Adapter* adapter) {
  return impl_->Rebuild(
      layer, weights, adapter,
      [&](ProductFactory& factory, const BlockSpec& spec) -> Status {
        RANKFORGE_ASSIGN_OR_RETURN(impl_->blocks[layer],
                                   Block::Create(layer, spec, impl_->config,
                                                 impl_->options.type, factory));
        return {};
      });
}

Status Model::AdaptSite(size_t layer, Site site, const WeightSource& weights,
                        const Adapter* adapter) {
  return impl_->Rebuild(
      layer, weights, adapter,
      [&](ProductFactory& factory, const BlockSpec& spec) -> Status {
        RANKFORGE_ASSIGN_OR_RETURN(
            impl_->blocks[layer]->projections()[site],
            Projection::Create(spec[site], impl_->options.type, factory));
        return {};
      });
}

void Model::DropBlock(size_t layer) { impl_->blocks[layer].reset(); }

Result<KvCache> Model::NewCache(size_t capacity) const {
  const size_t most = impl_->config.max_positions;
  if (capacity > most) {
    return Failed(fmt::format(
        "{} positions are asked for, 'max_position_embeddings' of this model "
        "is {}; use a shorter prompt, fewer tokens or a smaller window",
        capacity, most));
  }
  try {
    return KvCache(impl_->config, impl_->options.kv_type, capacity);
  } catch (const std::exception&) {  // bad_alloc or length_error
    return EnvironmentError(fmt::format(
        "not enough memory for a KV cache of {} positions; use fewer tokens or "
        "--kv-dtype i8",
        capacity));
  }
}

Status Model::Forward(std::span<const int> ids, KvCache& cache,
                      std::span<float> logits, bool all_logits) {
  return Run(ids, cache, logits, all_logits);
}

Status Model::Decode(std::span<const int> ids, KvCache& cache,
                     std::span<float> logits) {
  if (ids.size() > kMostTokens) {
    return UsageError(
        fmt::format("decode: {} tokens at once, at most {} are possible; "
                    "call it several times",
                    ids.size(), kMostTokens));
  }
  ForwardContext& context = impl_->context;
  if (context.observer != nullptr) {
    return UsageError(
        "decode: an observer sees tokens one at a time; call Forward");
  }
  const FlagWhile decoding(context.decoding, ids.size() > 1);
  return Run(ids, cache, logits, /*all_logits=*/true);
}

Status Model::Run(std::span<const int> ids, KvCache& cache,
                  std::span<float> logits, bool all_logits) {
  RANKFORGE_RETURN_IF_ERROR(
      impl_->CheckInput(ids, cache, logits.size(), all_logits));
  const ModelConfig& config = impl_->config;
  impl_->not_finite.reset();
  cache.Begin(ids.size());
  try {
    for (size_t begin = 0; begin < ids.size(); begin += kPrefillTokens) {
      const auto chunk =
          ids.subspan(begin, std::min(kPrefillTokens, ids.size() - begin));
      const size_t size = chunk.size() * config.hidden;
      if (impl_->hidden.size() < size) impl_->hidden.resize(size);
      float* const hidden = impl_->hidden.data();
      RANKFORGE_RETURN_IF_ERROR(Embed(chunk, hidden));
      impl_->context.activity.Reserve(config, chunk.size());
      impl_->tokens_seen += chunk.size();
      for (size_t layer = 0; layer < config.layers; ++layer) {
        const BlockRun run{impl_->context, chunk.size(), cache, hidden};
        if (!cache.Runs(layer)) {
          impl_->blocks[layer]->PassBy(run);
          continue;
        }
        if (!cache.decision()) {
          impl_->skipper.Judge(layer, hidden, chunk.size(), *impl_->executor,
                               cache);
        }
        impl_->blocks[layer]->Run(run);
        impl_->Examine(layer, hidden, chunk.size());
      }
      cache.Advance(chunk.size());
      RANKFORGE_RETURN_IF_ERROR(CheckFinite());
      if (logits.empty()) continue;
      if (all_logits) {
        FinalLogits(hidden, chunk.size(), logits.data() + begin * config.vocab);
      } else if (begin + chunk.size() == ids.size()) {
        FinalLogits(hidden + (chunk.size() - 1) * config.hidden, 1,
                    logits.data());
      }
    }
  } catch (const std::bad_alloc&) {
    return EnvironmentError(
        "forward: not enough memory for the activations; use a shorter "
        "prompt or context");
  }
  return {};
}

bool Model::skips_layers() const { return impl_->skipper.skips(); }

Status Model::EndPrompt(KvCache& cache) {
  KvCache* const one = &cache;
  return EndPrompts({&one, 1});
}

Status Model::EndPrompts(std::span<KvCache* const> caches) {
  if (!skips_layers()) return {};
  for (const KvCache* cache : caches) {
    if (cache->Fits(impl_->config)) continue;
    return UsageError(
        "end of prompt: the KV cache was made for a model of another shape; "
        "make one for this model");
  }
  RANKFORGE_ASSIGN_OR_RETURN(const LayerDecision decision,
                             impl_->skipper.Decide(caches));
  for (KvCache* cache : caches) cache->LeaveOut(decision);
  return {};
}

Status Model::Embed(std::span<const int> ids, float* hidden) const {
  const ModelConfig& config = impl_->config;
  const float scale = std::sqrt(static_cast<float>(config.hidden));
  for (const int id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= config.vocab) {
      return Failed(
          fmt::format("forward: token id {} is outside the "
                      "vocabulary of {}; use this model's tokenizer",
                      id, config.vocab));
    }
    RANKFORGE_RETURN_IF_ERROR(impl_->source->Embedding(
        static_cast<size_t>(id), {hidden, config.hidden}));
    if (config.scaled_embedding) {
      std::for_each(hidden, hidden + config.hidden,
                    [scale](float& value) { value *= scale; });
    }
    hidden += config.hidden;
  }
  return {};
}

void Model::ForwardLayer(size_t layer, float* hidden, size_t tokens,
                         KvCache& cache) {
  cache.Begin(tokens);
  impl_->context.activity.Reserve(impl_->config, tokens);
  if (layer == 0) impl_->tokens_seen += tokens;
  impl_->blocks[layer]->Run({impl_->context, tokens, cache, hidden});
  impl_->Examine(layer, hidden, tokens);
}

void Model::AttentionInput(size_t layer, float* hidden, size_t tokens,
                           float* x) {
  const size_t width = impl_->config.hidden;
  for (size_t begin = 0; begin < tokens; begin += kPrefillTokens) {
    const size_t count = std::min(kPrefillTokens, tokens - begin);
    impl_->context.activity.Reserve(impl_->config, count);
    impl_->blocks[layer]->AttentionInput(hidden + begin * width, count,
                                         x + begin * width, impl_->context);
  }
}

void Model::ForwardSite(size_t layer, Site site, const float* x, size_t tokens,
                        KvCache& cache, float* hidden, float* next) {
  cache.Begin(tokens);
  impl_->context.activity.Reserve(impl_->config, tokens);
  if (layer == 0 && site == Site::kAttentionInput) {
    impl_->tokens_seen += tokens;
  }
  impl_->blocks[layer]->RunSite(site, x, next,
                                {impl_->context, tokens, cache, hidden});
  impl_->Examine(layer, hidden, tokens);
}

Status Model::CheckFinite() const {
  if (!impl_->not_finite) return {};
  return Failed(fmt::format(
      "layer {}: its output is NaN or infinite; the weights may be damaged, or "
      "too large for the type: try --dtype f32 and --kv-dtype f32",
      *impl_->not_finite));
}

void Model::Impl::Examine(size_t layer, const float* output, size_t tokens) {
  if (not_finite || AllFinite(output, tokens * config.hidden)) return;
  not_finite = layer;
}

void Model::FinalLogits(const float* hidden, size_t tokens, float* logits) {
  const ModelConfig& config = impl_->config;
  ForwardContext& context = impl_->context;
  for (size_t begin = 0; begin < tokens; begin += kPrefillTokens) {
    const size_t count = std::min(kPrefillTokens, tokens - begin);
    context.activity.Reserve(config, count);
    float* const normed = context.activity.normed.data();
    float* const out = logits + begin * config.vocab;
    RunNorm(impl_->final_norm, hidden + begin * config.hidden, count, normed,
            context);
    if (count == 1) {
      impl_->lm_head_clock.Run([&] {
        const GemvCall call =
            impl_->lm_head->Dense(normed, out, context.products.inputs[0]);
        RunCalls({&call, 1}, *impl_->executor);
      });
    } else if (context.decoding) {
      impl_->lm_head_clock.Run([&] {
        impl_->lm_head->DenseOfEach({normed, config.hidden}, count, out,
                                    config.vocab, *impl_->executor,
                                    context.products.ForBatch());
      });
    } else {
      impl_->lm_head->Multiply({normed, config.hidden}, count,
                               count * config.hidden, out, config.vocab,
                               *impl_->executor, context.products);
    }
    if (config.logit_cap > 0) {
      ParallelFor(*impl_->executor, count, [&](size_t token, size_t) {
        CapScores(static_cast<float>(config.logit_cap),
                  out + token * config.vocab, config.vocab);
      });
    }
  }
}

void Model::set_observer(ActivationObserver* observer) {
  impl_->context.observer = observer;
}
const ModelConfig& Model::config() const { return impl_->config; }
Executor& Model::executor() { return *impl_->executor; }
const ModelOptions& Model::options() const { return impl_->options; }

ForwardCounters Model::counters() const {
  ForwardCounters counters;
  counters.tokens = impl_->tokens_seen;
  for (const std::optional<Block>& block : impl_->blocks) {
    if (!block) continue;
    block->ForEachProjection(
        [&](const Projection& projection) { projection.AddTo(counters); });
  }
  const double bytes = impl_->lm_head->bytes_read();
  counters.weight_bytes += bytes;
  counters.stages[impl_->lm_head_clock.name] = {impl_->lm_head_clock.seconds,
                                                bytes};
  return counters;
}

void Model::ResetCounters() {
  impl_->tokens_seen = 0;
  for (std::optional<Block>& block : impl_->blocks) {
    if (!block) continue;
    block->ForEachProjection(
        [](Projection& projection) { projection.ResetCounters(); });
  }
  impl_->lm_head->ResetCounter();
  impl_->lm_head_clock.seconds = 0;
}

Status Model::FitThresholds(std::span<const int> ids) {
  if (ids.size() < 2) {
    return UsageError("fit thresholds: give at least two token ids");
  }
  KvCache cache(impl_->config, WeightType::kF32, ids.size());
  std::vector<float> hidden(ids.size() * impl_->config.hidden);
  RANKFORGE_RETURN_IF_ERROR(Embed(ids, hidden.data()));
  const FlagWhile fitting(impl_->context.fitting, true);
  for (size_t layer = 0; layer < impl_->config.layers; ++layer) {
    ForwardLayer(layer, hidden.data(), ids.size(), cache);
  }
  ResetCounters();
  return {};
}

size_t Model::packed_bytes() const {
  double bytes = impl_->lm_head->useful_bytes();
  for (const std::optional<Block>& block : impl_->blocks) {
    if (!block) continue;
    block->ForEachProjection([&](const Projection& projection) {
      bytes += projection.useful_bytes();
    });
  }
  return static_cast<size_t>(bytes);
}

QuantizationError Model::quantization_error() const {
  QuantizationError error = impl_->lm_head->quantization_error();
  for (const std::optional<Block>& block : impl_->blocks) {
    if (!block) continue;
    block->ForEachProjection([&](const Projection& projection) {
      error += projection.quantization_error();
    });
  }
  return error;
}

std::map<Activations, double> Model::activations() const {
  std::map<Activations, double> shares;
  const auto add = [&](const WeightProduct& product) {
    shares[product.plan().problem().activations] +=
        static_cast<double>(product.rows()) *
        static_cast<double>(product.cols());
  };
  add(*impl_->lm_head);
  for (const std::optional<Block>& block : impl_->blocks) {
    if (!block) continue;
    block->ForEachProjection(
        [&](const Projection& projection) { projection.ForEachProduct(add); });
  }
  double all = 0;
  for (const auto& [activations, weights] : shares) all += weights;
  for (auto& [activations, weights] : shares) weights /= all;
  return shares;
}

}  // namespace rankforge
