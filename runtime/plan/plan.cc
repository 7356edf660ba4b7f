#include "runtime/plan/plan.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <memory>

#include "meta/packing.h"
#include "meta/rules.h"

namespace rankforge {
namespace {

// Parts per thread of a product whose weights come from memory, in layouts that
// keep the weights of a part contiguous: the threads of a shared host are not
// equally quick. Share of the read bandwidth that dense 6144 x 4096 bf16
// reaches on two threads with 1, 2, 4 and 8 parts per thread: 0.69, 0.83, 0.83,
// 0.83. In [in][out] more parts mean shorter runs: 0.64, 0.60, 0.53 and 0.47.
constexpr size_t kPartsPerThread = 4;
constexpr size_t kManyPartsBytes = size_t{8} << 20;

size_t PartsFor(const PackedMatrix& weights, size_t threads) {
  const bool contiguous = !ColumnsAreContiguous(weights.layout());
  return threads > 1 && contiguous && weights.bytes() >= kManyPartsBytes
             ? threads * kPartsPerThread
             : threads;
}

// Weights that stay in the L2 of a core, beside inputs and outputs.
constexpr size_t kReusedBytes = size_t{256} << 10;

// Boundary `part` of `parts` equal shares of [0, size), on a multiple of
// `quantum`.
size_t Boundary(size_t size, size_t part, size_t parts, size_t quantum) {
  if (part >= parts) return size;
  return std::min(size, RoundUp(size * part / parts, quantum));
}

// The part of a row mask call: equal shares of the kept groups, and the gaps
// between them, so that together the parts cover all rows.
void NarrowRows(KernelArgs& args, size_t part, size_t parts) {
  MaskView& mask = args.mask;
  const size_t first = mask.kept * part / parts;
  const size_t last = mask.kept * (part + 1) / parts;
  const auto row_of = [&](size_t entry, size_t otherwise) {
    return entry == 0           ? size_t{0}
           : entry == mask.kept ? otherwise
                                : mask.index[entry] * mask.granularity;
  };
  const size_t rows = args.row_end;
  args.row_begin = part == 0 ? 0 : row_of(first, rows);
  args.row_end = part + 1 == parts ? rows : row_of(last, rows);
  mask.index += first;
  mask.kept = last - first;
}

// Entries of a list that a sum begins at are a multiple of this: kernels read
// so many columns together.
constexpr size_t kSumQuantum = 8;

// Sum `sum` of the outputs of `args`: over an equal share of the kept columns.
// The first one goes to y and has what sums start with.
void RunSum(const GemvCall& call, KernelArgs args, size_t sum) {
  MaskView& mask = args.mask;
  const size_t first = Boundary(mask.kept, sum, call.sums, kSumQuantum);
  const size_t last = Boundary(mask.kept, sum + 1, call.sums, kSumQuantum);
  mask.index += first;
  mask.value += first * mask.granularity;
  mask.kept = last - first;
  if (sum > 0) {
    args.y = call.partial.values + (sum - 1) * args.rows;
    args.bias = nullptr;
    args.accumulate = false;
  }
  call.fn(args);
}

void AddSums(const GemvCall& call, const KernelArgs& args) {
  for (size_t sum = 1; sum < call.sums; ++sum) {
    const float* const values = call.partial.values + (sum - 1) * args.rows;
    for (size_t i = args.row_begin; i < args.row_end; ++i) {
      args.y[i] += values[i];
    }
  }
}

}  // namespace

MaskScratch::MaskScratch(size_t count)
    : index_(MaskCapacity(count)),
      value_(MaskCapacity(count)),
      bits_(MaskWords(count)),
      zeroed_(RoundUp(count, kBlock)) {}

MaskStorage MaskScratch::storage() {
  return {index_.data(), value_.data(), bits_.data(), zeroed_.data()};
}

MaskStorage TakeMask(ScratchCursor& memory, size_t count) {
  return {memory.Take<uint32_t>(MaskCapacity(count)),
          memory.Take<float>(MaskCapacity(count)),
          memory.Take<uint64_t>(MaskWords(count)),
          memory.Take<float>(RoundUp(count, kBlock))};
}

RoundedStorage TakeRoundedInput(ScratchCursor& memory, size_t cols) {
  const size_t blocks = RoundedBlocks(cols);
  RoundedStorage storage;
  // As integers or as pairs, which no type uses both.
  storage.pairs = memory.Take<uint32_t>(blocks * kBlock / 2);
  storage.integers = reinterpret_cast<int8_t*>(storage.pairs);
  storage.scales = memory.Take<float>(blocks);
  storage.zeros = memory.Take<int32_t>(blocks * kBlockZeros);
  storage.sums = memory.Take<float>(blocks);
  return storage;
}

UnionStorage TakeUnion(ScratchCursor& memory, size_t tokens, size_t count) {
  return {memory.Take<uint32_t>(MaskCapacity(count)),
          memory.Take<float>(MaskCapacity(count) * tokens), MaskCapacity(count),
          memory.Take<uint64_t>(MaskWords(count) * (tokens + 1)),
          MaskWords(count)};
}

PartialSums TakePartialSums(ScratchCursor& memory, const GemvPlan& plan) {
  const size_t sums = SumsOf(plan.weights().layout());
  if (sums == 1) return {};
  PartialSums partial;
  partial.values = memory.Take<float>((sums - 1) * plan.problem().rows);
  partial.done = memory.Take<std::atomic<uint32_t>>(plan.threads());
  if (partial.done != nullptr) {
    std::uninitialized_value_construct_n(partial.done, plan.threads());
  }
  return partial;
}

PartialSums SumsScratch::For(const GemvPlan& plan) {
  const size_t bytes = ScratchBytes(
      [&](ScratchCursor& memory) { TakePartialSums(memory, plan); });
  if (bytes == 0) return {};
  if (buffer_.size() < bytes) buffer_ = PageBuffer(bytes);
  ScratchCursor memory(buffer_.data());
  return TakePartialSums(memory, plan);
}

InputScratch::InputScratch(size_t cols)
    : buffer_(ScratchBytes(
          [&](ScratchCursor& memory) { TakeRoundedInput(memory, cols); })) {
  ScratchCursor memory(buffer_.data());
  storage_ = TakeRoundedInput(memory, cols);
}

UnionScratch::UnionScratch(size_t tokens, size_t count)
    : buffer_(ScratchBytes(
          [&](ScratchCursor& memory) { TakeUnion(memory, tokens, count); })) {
  ScratchCursor memory(buffer_.data());
  storage_ = TakeUnion(memory, tokens, count);
}

void CutOutputs(GemvCall& call, size_t parts) {
  call.parts = parts;
  call.sum_each = false;
}

void RunOutputs(const GemvCall& call, size_t begin, size_t end) {
  KernelArgs args = call.args;
  args.row_begin = begin;
  args.row_end = end;
  if (begin >= end) return;
  if (call.sums == 1) {
    call.fn(args);
    return;
  }
  for (size_t sum = 0; sum < call.sums; ++sum) RunSum(call, args, sum);
  AddSums(call, args);
}

void RunPart(const GemvCall& call, size_t part) {
  if (part >= call.parts) return;
  KernelArgs args = call.args;
  if (call.row_mask) {
    NarrowRows(args, part, call.parts);
    if (args.row_begin < args.row_end) call.fn(args);
    return;
  }
  const size_t together = call.sum_each ? call.sums : 1;
  const size_t range = part / together;
  const size_t ranges = call.parts / together;
  args.row_begin = Boundary(args.rows, range, ranges, call.quantum);
  args.row_end = Boundary(args.rows, range + 1, ranges, call.quantum);
  if (!call.sum_each) {
    RunOutputs(call, args.row_begin, args.row_end);
    return;
  }
  if (args.row_begin >= args.row_end) return;
  RunSum(call, args, part % together);
  // Whoever is last adds, so that nobody waits: the order of the additions is
  // always the same.
  std::atomic<uint32_t>& done = call.partial.done[range];
  if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < call.sums) return;
  done.store(0, std::memory_order_relaxed);
  AddSums(call, args);
}

size_t PartsOf(std::span<const GemvCall> calls) {
  size_t parts = 0;
  for (const GemvCall& call : calls) parts = std::max(parts, call.parts);
  return parts;
}

void RunCalls(std::span<const GemvCall> calls, Executor& executor) {
  executor.Run(PartsOf(calls), [&](size_t part) {
    for (const GemvCall& call : calls) RunPart(call, part);
  });
}

void CutForReuse(const PackedMatrix& weights, std::span<GemvCall> calls) {
  // Shorter runs cost more.
  if (ColumnsAreContiguous(weights.layout())) return;
  for (GemvCall& call : calls) {
    const size_t fitting = (weights.bytes() + kReusedBytes - 1) / kReusedBytes;
    call.parts = RoundUp(std::max<size_t>(fitting, 1), call.parts);
  }
}

GemvPlan GemvPlan::Bind(const PackedMatrix& weights, const Problem& problem,
                        const Choice& choice) {
  assert(weights.rows() == problem.rows && weights.cols() == problem.cols);
  assert(weights.type() == problem.type);
  assert(weights.layout() == choice.layout);
  assert(problem.batch <= kMostTokens);
  assert(problem.batch == 1 || problem.granularity == 1);
  assert(problem.batch == 1 || problem.activations == Activations::kF32);
  GemvPlan plan;
  plan.weights_ = &weights;
  plan.problem_ = problem;
  plan.threads_ = std::clamp<size_t>(choice.threads, 1, problem.threads);
  plan.mask_arrays_ = {false, false, false};
  size_t first = 0;
  for (const DensityKernel& part : choice.by_density) {
    assert(Fits(*part.kernel, problem, choice.layout));
    const double bound = std::clamp(part.max_density, 0.0, 1.0);
    const auto last = static_cast<size_t>(std::lround(bound * (kBuckets - 1)));
    for (; first <= last; ++first) {
      plan.entries_[first] = part.kernel;
      plan.mask_arrays_ = plan.mask_arrays_ |
                          ArraysRead(problem.operation, part.kernel->spec.form);
    }
  }
  assert(first == kBuckets && "the densities do not end at 1");
  return plan;
}

std::optional<GemvPlan> GemvPlan::ForSeveral() const {
  const auto differs = [](const KernelEntry* entry) {
    return entry->reassociates;
  };
  if (problem_.activations != Activations::kF32 ||
      std::ranges::any_of(entries_, differs)) {
    return std::nullopt;
  }
  Problem problem = problem_;
  problem.batch = kMostTokens;
  problem.granularity = 1;
  const Layout layout = weights_->layout();
  const KernelEntry* const kernel = DefaultKernel(problem, layout);
  if (kernel == nullptr || kernel->is_reference()) return std::nullopt;
  return Bind(*weights_, problem, ChoiceOf(*kernel, layout, threads_));
}

size_t GemvPlan::BucketOf(size_t kept, size_t groups) {
  return groups == 0 ? 0 : (kept * (kBuckets - 1) + groups - 1) / groups;
}

const KernelEntry& GemvPlan::EntryAt(double density) const {
  return *entries_[static_cast<size_t>(
      std::lround(std::clamp(density, 0.0, 1.0) * (kBuckets - 1)))];
}

GemvCall GemvPlan::Call(const KernelEntry& entry, const GemvOutput& output,
                        const TokenBatch& batch) const {
  assert(batch.tokens <= problem_.batch);
  GemvCall call;
  call.fn = entry.fn;
  call.args.ahead = AheadBytes(entry.spec.prefetch);
  call.args.w = weights_->data();
  call.args.rows = problem_.rows;
  call.args.cols = problem_.cols;
  call.args.stride = weights_->stride();
  call.args.run_scales = weights_->run_scales();
  call.args.row_end = problem_.rows;
  call.args.y = output.y;
  call.args.bias = output.bias;
  call.args.accumulate = output.accumulate;
  call.args.tokens = batch.tokens;
  call.args.y_stride = batch.y_stride;
  call.parts = PartsFor(*weights_, threads_);
  call.quantum = PartQuantum(weights_->layout());
  call.sums = SumsOf(weights_->layout());
  call.sum_each = call.sums > 1 && call.parts % call.sums == 0;
  call.partial = output.partial;
  assert(call.sums == 1 || call.partial.values != nullptr);
  return call;
}

RoundedInput GemvPlan::Round(const float* x, InputScratch* scratch) const {
  if (problem_.activations == Activations::kF32) return {};
  assert(scratch != nullptr);
  return RoundInput(x, problem_.cols, problem_.type, weights_->layout(),
                    scratch->storage());
}

GemvCall GemvPlan::RowCall(const KernelEntry& entry, const float* x,
                           const RoundedInput& rounded,
                           const GemvOutput& output,
                           const TokenBatch& batch) const {
  GemvCall call = Call(entry, output, batch);
  call.args.x = x;
  call.args.x_stride = batch.x_stride;
  call.args.rounded = rounded;
  return call;
}

GemvCall GemvPlan::Dense(const float* x, const GemvOutput& output,
                         const TokenBatch& batch, InputScratch* scratch) const {
  assert(problem_.operation == Operation::kDense);
  return RowCall(*entries_.back(), x, Round(x, scratch), output, batch);
}

GemvCall GemvPlan::ColumnMask(const MaskView& mask, const GemvOutput& output,
                              const TokenBatch& batch) const {
  assert(problem_.operation == Operation::kColumnMask);
  GemvCall call =
      Call(*entries_[BucketOf(mask.kept, mask.groups)], output, batch);
  call.args.mask = mask;
  return call;
}

GemvCall GemvPlan::RowMaskCall(const float* x, const RoundedInput& rounded,
                               const MaskView& mask, const GemvOutput& output,
                               const TokenBatch& batch) const {
  assert(problem_.operation == Operation::kRowMask);
  GemvCall call = RowCall(*entries_[BucketOf(mask.kept, mask.groups)], x,
                          rounded, output, batch);
  call.args.mask = mask;
  call.row_mask = true;
  return call;
}

GemvCall GemvPlan::RowMask(const float* x, const MaskView& mask,
                           const GemvOutput& output, const TokenBatch& batch,
                           InputScratch* scratch) const {
  return RowMaskCall(x, Round(x, scratch), mask, output, batch);
}

GemvCall GemvPlan::RowMask(const float* x, const RoundedInput& rounded,
                           const MaskView& mask,
                           const GemvOutput& output) const {
  return RowMaskCall(x, rounded, mask, output, {});
}

}  // namespace rankforge
