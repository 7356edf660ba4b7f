#include "integrations/ggml/linear.h"

#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

namespace rankforge {
namespace ggml {
namespace {

constexpr size_t kFloat = sizeof(float);

// What ggml's formats become where nobody says. Others become I8_GROUP32.
struct StoredType {
  ggml_type source;
  int32_t weights;
};
constexpr StoredType kStoredTypes[] = {
    {GGML_TYPE_F32, RANKFORGE_F32},
    {GGML_TYPE_F16, RANKFORGE_F16},
    {GGML_TYPE_BF16, RANKFORGE_BF16},
    {GGML_TYPE_Q4_0, RANKFORGE_I4_GROUP32},
    {GGML_TYPE_Q4_1, RANKFORGE_I4M_GROUP32},
    {GGML_TYPE_Q4_K, RANKFORGE_I4M_GROUP32},
};

int32_t TypeFor(int32_t source) {
  for (const StoredType& stored : kStoredTypes) {
    if (stored.source == source) return stored.weights;
  }
  return RANKFORGE_I8_GROUP32;
}

// Formats have ggml's numbers in rankforge.h.
static_assert(RANKFORGE_SOURCE_F16 == static_cast<int>(GGML_TYPE_F16) &&
              RANKFORGE_SOURCE_Q8_0 == static_cast<int>(GGML_TYPE_Q8_0) &&
              RANKFORGE_SOURCE_Q6_K == static_cast<int>(GGML_TYPE_Q6_K) &&
              RANKFORGE_SOURCE_IQ4_NL == static_cast<int>(GGML_TYPE_IQ4_NL) &&
              RANKFORGE_SOURCE_BF16 == static_cast<int>(GGML_TYPE_BF16));

Error Bad(std::string message) {
  return {RANKFORGE_ERROR_ARGUMENT, std::move(message)};
}

std::string Named(const ggml_tensor* tensor) {
  return std::string("ggml tensor '") + tensor->name + "'";
}

// Fails unless `tensor` is f32 with `width` contiguous values per token, and as
// many tokens as `x`.
Result<void> CheckRows(const ggml_tensor* tensor, size_t width,
                       const ggml_tensor* x) {
  if (tensor->type != GGML_TYPE_F32) {
    return Bad(Named(tensor) + ": is " + ggml_type_name(tensor->type) +
               ", not f32; cast it");
  }
  if (static_cast<size_t>(tensor->ne[0]) != width) {
    return Bad(Named(tensor) + ": has " + std::to_string(tensor->ne[0]) +
               " values per token, the layer " + std::to_string(width));
  }
  bool even = tensor->nb[0] == kFloat;
  bool same = true;
  for (int i = 1; i < GGML_MAX_DIMS; ++i) {
    even = even && tensor->nb[i] % kFloat == 0;
    same = same && tensor->ne[i] == x->ne[i];
  }
  if (!even) return Bad(Named(tensor) + ": its rows are not contiguous");
  if (!same) return Bad(Named(tensor) + ": has other tokens than x");
  return {};
}

// The tokens of matrix (i2, i3) of a tensor.
template <class Float>
TokenRows<Float> RowsAt(const ggml_tensor* tensor, int64_t i2, int64_t i3) {
  const size_t offset = static_cast<size_t>(i2) * tensor->nb[2] +
                        static_cast<size_t>(i3) * tensor->nb[3];
  return {reinterpret_cast<Float*>(static_cast<char*>(tensor->data) + offset),
          tensor->nb[1] / kFloat};
}

// Scratch of this thread, which grows to what its layers need. Null where
// memory runs out.
Scratch* ScratchOf(size_t bytes) {
  thread_local std::optional<Scratch> scratch;
  try {
    if (!scratch || scratch->bytes() < bytes) scratch.emplace(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  return &*scratch;
}

Result<Weights> Store(const Context& context, const Problem& problem,
                      Span<const Source> sources, bool in_place,
                      const Table& table) {
  if (in_place && sources.size() == 1) {
    Result<Weights> adopted =
        Weights::Adopt(context, problem, sources.data()[0]);
    // What cannot be read in place is packed.
    const bool packs =
        !adopted && adopted.error().status == RANKFORGE_ERROR_UNSUPPORTED;
    if (!packs) return adopted;
  }
  return Weights::Pack(context, problem, sources, table);
}

Result<void> CheckRule(const Rule& rule, size_t channels) {
  if (rule.kind != RANKFORGE_MASK_THRESHOLD &&
      rule.kind != RANKFORGE_MASK_TOP_K) {
    return Bad("rule: kind is " + std::to_string(rule.kind) +
               "; nodes have thresholds and top-k");
  }
  if (!rule.taus.empty() && rule.taus.size() != channels) {
    return Bad("rule: has " + std::to_string(rule.taus.size()) +
               " thresholds for " + std::to_string(channels) + " channels");
  }
  return {};
}

}  // namespace

Result<Source> SourceOf(const ggml_tensor* tensor) {
  if (tensor->ne[2] != 1 || tensor->ne[3] != 1) {
    return Bad(Named(tensor) + ": is no matrix");
  }
  const bool host =
      tensor->buffer == nullptr || ggml_backend_buffer_is_host(tensor->buffer);
  if (!host || tensor->data == nullptr) {
    return Bad(Named(tensor) +
               ": is not in memory, or in an order of the backend's own there; "
               "keep it in a plain CPU buffer");
  }
  Source source(tensor->data, static_cast<size_t>(tensor->ne[1]),
                static_cast<size_t>(tensor->ne[0]),
                static_cast<int32_t>(tensor->type));
  source.line_stride = tensor->nb[1];
  return source;
}

Linear::Linear(Plan plan, const rankforge_weights_info& info,
               const LinearOptions& options)
    : plan_(std::move(plan)),
      info_(info),
      options_(options),
      rows_(info.rows),
      cols_(info.cols) {}

Result<std::unique_ptr<Linear>> Linear::Make(const Context& context,
                                             Span<const Source> sources,
                                             const LinearOptions& options,
                                             const Table& table) {
  if (sources.empty()) return Bad("sources: there are none");
  size_t rows = 0;
  for (size_t i = 0; i < sources.size(); ++i) rows += sources.data()[i].rows;
  const Source& first = sources.data()[0];
  const int32_t type = options.weight_type == kStoredType
                           ? TypeFor(first.format)
                           : options.weight_type;
  Problem problem(options.operation, rows, first.cols, type);
  problem.tokens = options.tokens;
  problem.activations = options.activations;
  if (options.operation != RANKFORGE_DENSE) {
    const bool row_mask = options.operation == RANKFORGE_ROW_MASK;
    Result<void> rule = CheckRule(options.rule, row_mask ? rows : first.cols);
    if (!rule) return rule.error();
  }
  Result<Weights> weights =
      Store(context, problem, sources, options.in_place, table);
  if (!weights) return weights.error();
  Result<Plan> plan = Plan::Gemv(context, problem, *weights, table);
  if (!plan) return plan.error();
  Result<rankforge_weights_info> info = weights->Describe();
  if (!info) return info.error();
  std::unique_ptr<Linear> linear(new Linear(std::move(*plan), *info, options));
  const rankforge_status status =
      rankforge_plan_scratch_size(linear->plan_.get(), &linear->scratch_bytes_);
  if (status != RANKFORGE_OK) return LastError(status);
  return linear;
}

Result<std::unique_ptr<Linear>> Linear::Make(const Context& context,
                                             const ggml_tensor* w,
                                             const LinearOptions& options,
                                             const Table& table) {
  Result<Source> source = SourceOf(w);
  if (!source) return source.error();
  return Make(context, Span<const Source>(&*source, 1), options, table);
}

double Linear::density() const {
  const uint64_t judged = judged_.load(std::memory_order_relaxed);
  const uint64_t kept = kept_.load(std::memory_order_relaxed);
  return judged == 0 ? 1
                     : static_cast<double>(kept) / static_cast<double>(judged);
}

std::string Linear::error() const {
  const std::lock_guard<std::mutex> lock(failing_);
  return error_;
}

Result<ggml_tensor*> Linear::Build(ggml_context* graph, ggml_tensor* x,
                                   ggml_tensor* score) {
  Result<void> checked = CheckRows(x, cols_, x);
  if (checked && score != nullptr) checked = CheckRows(score, rows_, x);
  if (!checked) return checked.error();
  const bool row_mask = options_.operation == RANKFORGE_ROW_MASK;
  if (row_mask != (score != nullptr)) {
    return Bad(row_mask ? "score: is null, but the layer is a row mask"
                        : "score: is set, but the layer is no row mask");
  }
  std::array<ggml_tensor*, 2> inputs = {x, score};
  return ggml_custom_4d(graph, GGML_TYPE_F32, static_cast<int64_t>(rows_),
                        x->ne[1], x->ne[2], x->ne[3], inputs.data(),
                        score == nullptr ? 1 : 2, Compute, GGML_N_TASKS_MAX,
                        this);
}

void Linear::Compute(ggml_tensor* y, int thread, int threads, void* linear) {
  auto& self = *static_cast<Linear*>(linear);
  const ggml_tensor* x = y->src[0];
  const ggml_tensor* score = y->src[1];
  for (int64_t i3 = 0; i3 < y->ne[3]; ++i3) {
    for (int64_t i2 = 0; i2 < y->ne[2]; ++i2) {
      TokenRows<const float> judged;
      if (score != nullptr) judged = RowsAt<const float>(score, i2, i3);
      self.RunShare(RowsAt<const float>(x, i2, i3), judged,
                    RowsAt<float>(y, i2, i3), static_cast<size_t>(y->ne[1]),
                    static_cast<size_t>(thread), static_cast<size_t>(threads));
    }
  }
}

Mask Linear::MaskFor(const float* score) const {
  const Rule& rule = options_.rule;
  Mask mask;
  mask.kind = rule.kind;
  mask.score = score;
  mask.tau = rule.tau;
  mask.taus = rule.taus.empty() ? nullptr : rule.taus.data();
  mask.k = rule.k;
  return mask;
}

void Linear::RunShare(TokenRows<const float> x, TokenRows<const float> score,
                      TokenRows<float> y, size_t tokens, size_t share,
                      size_t shares) {
  for (size_t begin = 0; begin < tokens; begin += options_.tokens) {
    RunArgs args;
    args.tokens = static_cast<uint32_t>(
        std::min<size_t>(options_.tokens, tokens - begin));
    args.x = x.data + begin * x.stride;
    args.x_stride = x.stride;
    args.y = y.data + begin * y.stride;
    args.y_stride = y.stride;
    TokenRows<const float> judged = score;
    if (judged.data != nullptr) judged.data += begin * judged.stride;
    const rankforge_status status = RunTurn(args, judged, share, shares);
    if (status != RANKFORGE_OK) {
      Fail({args.y, y.stride}, args.tokens,
           status == RANKFORGE_ERROR_MEMORY ? "memory ran out"
                                            : rankforge_last_error());
    }
  }
}

// At most the tokens of the plan.
rankforge_status Linear::RunTurn(const RunArgs& turn,
                                 TokenRows<const float> score, size_t share,
                                 size_t shares) {
  Scratch* scratch = ScratchOf(scratch_bytes_);
  if (scratch == nullptr) return RANKFORGE_ERROR_MEMORY;
  RunArgs args = turn;
  std::array<rankforge_mask, RANKFORGE_MOST_TOKENS> masks;
  std::array<size_t, RANKFORGE_MOST_TOKENS> kept;
  args.kept = kept.data();
  if (options_.operation != RANKFORGE_DENSE) {
    // A column mask for all tokens judges each token's own x.
    args.mask_count = score.data == nullptr ? 1 : args.tokens;
    for (size_t t = 0; t < args.mask_count; ++t) {
      masks[t] = MaskFor(score.data == nullptr ? nullptr
                                               : score.data + t * score.stride);
    }
    args.masks = masks.data();
  }
  const rankforge_status status = rankforge_run_share(
      plan_.get(), &args, share, shares, scratch->data(), scratch->bytes());
  if (status == RANKFORGE_OK && share == 0) {
    uint64_t sum = 0;
    for (uint32_t t = 0; t < args.tokens; ++t) sum += kept[t];
    const size_t channels =
        options_.operation == RANKFORGE_COLUMN_MASK ? cols_ : rows_;
    kept_.fetch_add(sum, std::memory_order_relaxed);
    judged_.fetch_add(uint64_t{args.tokens} * channels,
                      std::memory_order_relaxed);
  }
  return status;
}

void Linear::Fail(TokenRows<float> y, size_t tokens, const char* reason) {
  const std::lock_guard<std::mutex> lock(failing_);
  for (size_t t = 0; t < tokens; ++t) {
    std::fill_n(y.data + t * y.stride, rows_,
                std::numeric_limits<float>::quiet_NaN());
  }
  if (error_.empty()) error_.assign(reason);
}

Result<ggml_tensor*> BuildRankAdapter(ggml_context* graph, Linear& b, Linear& a,
                                      ggml_tensor* x) {
  if (a.cols() != b.rows()) {
    return Bad("rank adapter: A has " + std::to_string(a.cols()) +
               " cols, but B has " + std::to_string(b.rows()) + " rows");
  }
  Result<ggml_tensor*> z = b.Build(graph, x);
  if (!z) return z;
  return a.Build(graph, *z);
}

}  // namespace ggml
}  // namespace rankforge
