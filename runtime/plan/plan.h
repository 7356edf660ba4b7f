// A layer bound to packed weights and to one function per density interval.
// Everything that could be looked up is looked up when the plan is made; a call
// costs one array access, takes no lock and allocates nothing.
#ifndef RANKFORGE_RUNTIME_PLAN_PLAN_H_
#define RANKFORGE_RUNTIME_PLAN_PLAN_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"
#include "kernels/kernel_args.h"
#include "kernels/mask/mask.h"
#include "kernels/registry.h"
#include "kernels/rounded/rounded_input.h"
#include "kernels/tokens/token_mask.h"
#include "meta/packing.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/table/choice.h"
#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Memory that callers hand out is cut into arrays on cache lines of their own:
// Take returns the next one. Over a null beginning it only counts.
class ScratchCursor {
 public:
  explicit ScratchCursor(std::byte* begin) : begin_(begin) {}
  template <class T>
  T* Take(size_t count) {
    const size_t at = bytes_;
    bytes_ += RoundUp(count * sizeof(T), kCacheLine);
    return begin_ == nullptr ? nullptr : reinterpret_cast<T*>(begin_ + at);
  }
  size_t bytes() const { return bytes_; }  // taken so far

 private:
  std::byte* begin_;  // 64-byte aligned
  size_t bytes_ = 0;
};

// What take(cursor) takes, in bytes.
template <class Take>
size_t ScratchBytes(const Take& take) {
  ScratchCursor cursor(nullptr);
  take(cursor);
  return cursor.bytes();
}

// The parts of one mask over `count` values, of one rounded input of `cols`
// values, and of the union of the masks of `tokens` tokens over `count`
// channels. Each serves one run at a time.
MaskStorage TakeMask(ScratchCursor& memory, size_t count);
inline size_t MaskBytes(size_t count) {
  return ScratchBytes([&](ScratchCursor& memory) { TakeMask(memory, count); });
}
RoundedStorage TakeRoundedInput(ScratchCursor& memory, size_t cols);
UnionStorage TakeUnion(ScratchCursor& memory, size_t tokens, size_t count);

// Memory for one mask; one per concurrent run.
class MaskScratch {
 public:
  explicit MaskScratch(size_t count);
  MaskStorage storage();

 private:
  std::vector<uint32_t> index_;
  std::vector<float> value_;
  std::vector<uint64_t> bits_;
  std::vector<float> zeroed_;
};

// Memory for one rounded input; one per concurrent run.
class InputScratch {
 public:
  explicit InputScratch(size_t cols);
  // In memory of the caller.
  explicit InputScratch(const RoundedStorage& storage) : storage_(storage) {}
  const RoundedStorage& storage() const { return storage_; }

 private:
  PageBuffer buffer_;
  RoundedStorage storage_;
};

// Memory for the union of the masks of up to `tokens` tokens over `count`
// channels; one per concurrent run.
class UnionScratch {
 public:
  UnionScratch(size_t tokens, size_t count);
  UnionStorage storage() const { return storage_; }

 private:
  PageBuffer buffer_;
  UnionStorage storage_;
};

// Where a call on a layout of several sums (SumsOf) keeps them. The first sum
// of an output is y itself.
struct PartialSums {
  float* values = nullptr;  // (sums - 1, rows)
  // How many sums of each range of outputs are done; 0 between runs.
  std::atomic<uint32_t>* done = nullptr;
};

// One kernel call over all outputs, ready to be cut into parts.
struct GemvCall {
  KernelFn fn = nullptr;
  KernelArgs args;
  size_t parts = 1;
  size_t quantum = kBlock;  // outputs of a part are a multiple of this
  bool row_mask = false;    // parts get equal shares of the kept rows
  size_t sums = 1;
  // Neighbouring parts compute one sum each, of the same outputs, and the last
  // of them to be done adds up. Otherwise a part computes all sums of its
  // outputs.
  bool sum_each = false;
  PartialSums partial;
};

// Cuts into so many parts of outputs, which may run without the others.
void CutOutputs(GemvCall& call, size_t parts);
// Runs part `part` of [0, call.parts); nothing for larger ones.
void RunPart(const GemvCall& call, size_t part);
// Outputs [begin, end) of a call that masks no rows.
void RunOutputs(const GemvCall& call, size_t begin, size_t end);
// Parts of the call that is cut into most.
size_t PartsOf(std::span<const GemvCall> calls);
// Runs all calls in one hand-over; they must not read each other's outputs.
void RunCalls(std::span<const GemvCall> calls, Executor& executor);
// Cuts calls on the same `weights`, one per token, so that a part of them stays
// in the caches of a core while all tokens read it.
void CutForReuse(const PackedMatrix& weights, std::span<GemvCall> calls);

struct GemvOutput {
  float* y = nullptr;           // (rows,)
  const float* bias = nullptr;  // (rows,) or null
  bool accumulate = false;      // y += instead of y =
  PartialSums partial = {};     // where the layout has several sums
};

// The inputs of a call: how many, and how many floats lie between those of
// neighbouring tokens. y_t of rows * 4 bytes that are a multiple of 4 KiB all
// meet in the same sets of L1; an odd number of cache lines avoids it.
struct TokenBatch {
  size_t tokens = 1;
  size_t x_stride = 0;  // unused by column masks, which bring their values
  size_t y_stride = 0;
};

// A problem of batch 1 takes calls of one token. Another takes calls of up to
// so many (at most kMostTokens), whose masks are their union (UnionOfMasks,
// kernels/tokens/token_mask.h): the problem has granularity 1 and one of the
// layouts [out][in] and [in][out]. Each token's outputs are bit for bit those
// of a call of its own, but for the sign of zeros and for weights that are no
// finite numbers (kernels/tokens/column_tokens-inl.h).
// Its activations are f32: no kernel rounds several inputs.
class GemvPlan {
 public:
  // Binds `weights` (not owned; packed in choice.layout) to the kernels of
  // `choice`, which fit the problem.
  static GemvPlan Bind(const PackedMatrix& weights, const Problem& problem,
                       const Choice& choice);

  // x as the functions of rows read it, in `scratch`, which must outlive the
  // calls. Nothing where the problem's activations are f32: then scratch may be
  // null, here and below.
  RoundedInput Round(const float* x, InputScratch* scratch) const;

  // y = w @ x.
  GemvCall Dense(const float* x, const GemvOutput& output,
                 const TokenBatch& batch = {},
                 InputScratch* scratch = nullptr) const;
  // y = sum over the kept columns; the function depends on mask.kept. Masks
  // have at least the arrays that mask_arrays() names.
  GemvCall ColumnMask(const MaskView& mask, const GemvOutput& output,
                      const TokenBatch& batch = {}) const;
  // y_i = w[i, :] . x for the kept rows, else 0.
  GemvCall RowMask(const float* x, const MaskView& mask,
                   const GemvOutput& output, const TokenBatch& batch = {},
                   InputScratch* scratch = nullptr) const;
  // The same with Round(x): for several masks, or threads, over one x.
  GemvCall RowMask(const float* x, const RoundedInput& rounded,
                   const MaskView& mask, const GemvOutput& output) const;

  // The plan of up to kMostTokens tokens at once whose outputs are those of
  // this plan of one token. None where the layout has no kernels for several,
  // or where this plan may run one that adds otherwise or rounds its input.
  std::optional<GemvPlan> ForSeveral() const;

  const PackedMatrix& weights() const { return *weights_; }
  const Problem& problem() const { return problem_; }
  size_t threads() const { return threads_; }
  // The entry that runs at this density.
  const KernelEntry& EntryAt(double density) const;
  // What the functions of all densities read of a mask.
  const MaskArrays& mask_arrays() const { return mask_arrays_; }

 private:
  // Density intervals of 1/64: bucket b serves (b - 1, b] / 64, and 0 serves
  // the empty mask.
  static constexpr size_t kBuckets = 65;
  static size_t BucketOf(size_t kept, size_t groups);
  GemvCall Call(const KernelEntry& entry, const GemvOutput& output,
                const TokenBatch& batch) const;
  GemvCall RowCall(const KernelEntry& entry, const float* x,
                   const RoundedInput& rounded, const GemvOutput& output,
                   const TokenBatch& batch) const;
  GemvCall RowMaskCall(const float* x, const RoundedInput& rounded,
                       const MaskView& mask, const GemvOutput& output,
                       const TokenBatch& batch) const;

  const PackedMatrix* weights_ = nullptr;
  Problem problem_;
  size_t threads_ = 1;
  std::array<const KernelEntry*, kBuckets> entries_{};
  MaskArrays mask_arrays_;
};

// The sums of one call of `plan` at a time; takes nothing where the layout has
// one sum.
PartialSums TakePartialSums(ScratchCursor& memory, const GemvPlan& plan);

// Memory for them. It grows with the plans that it serves.
class SumsScratch {
 public:
  // For the next call of `plan`; those of earlier ones are gone.
  PartialSums For(const GemvPlan& plan);

 private:
  PageBuffer buffer_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_PLAN_H_
