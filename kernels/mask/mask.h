// Mask producers: values, bits, bytes or indices in, a compacted mask out. The
// models of runtime/model make masks by thresholds. Top-k, groups, and masks
// from outside are for callers of the C ABI; the tuner takes masks from
// indices.
#ifndef RANKFORGE_KERNELS_MASK_MASK_H_
#define RANKFORGE_KERNELS_MASK_MASK_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/kernel_args.h"
#include "kernels/layer/activation.h"
#include "meta/variant.h"

namespace rankforge {

// Memory for one mask over `count` values. index and value need room for
// MaskCapacity(count) elements because whole vectors are stored.
struct MaskStorage {
  uint32_t* index;
  float* value;
  uint64_t* bits;  // (MaskWords(count),)
  float* zeroed;   // (count rounded up to kBlock,)
};
constexpr size_t MaskCapacity(size_t count) { return (count + 127) / 64 * 64; }
constexpr size_t MaskWords(size_t count) { return (count + 63) / 64; }

// Which arrays of a mask are made besides its bits; the others stay null in the
// view. Each costs a vector store every few channels, and stores limit the
// speed of a producer (bench/mask_bench.cc).
struct MaskArrays {
  bool index = true;
  bool value = true;
  bool zeroed = true;

  constexpr bool operator==(const MaskArrays&) const = default;
};

// The arrays that kernels of this form read. Row masks always have `index`:
// threads share the kept rows by it.
constexpr MaskArrays ArraysRead(Operation operation, MaskForm form) {
  if (operation != Operation::kColumnMask) {
    return {operation == Operation::kRowMask, false, false};
  }
  const bool list = form == MaskForm::kIndexList || form == MaskForm::kPrefix;
  return {list, list, form != MaskForm::kIndexList && form != MaskForm::kNone};
}
constexpr MaskArrays operator|(const MaskArrays& a, const MaskArrays& b) {
  return {a.index || b.index, a.value || b.value, a.zeroed || b.zeroed};
}

enum class Comparison : uint8_t { kGreaterEqual, kGreater };

// Keeps channel j iff |s_j - mu_j| >= tau_j (or > tau_j): the one formula of
// all methods. With signed_score (scores of predictors) the
// absolute value is not taken. tau = +inf drops a channel, and so does a NaN in
// s, mu or tau, which compares false.
struct ThresholdRule {
  const float* tau = nullptr;  // (count,) or null: common_tau for all
  const float* mu = nullptr;   // (count,) or null: zero
  Comparison comparison = Comparison::kGreaterEqual;
  bool signed_score = false;
  const float* score = nullptr;  // s (count,); null: the values themselves
  float common_tau = 0;
};

// The default rule for one value, outside kernels: v is kept iff |v| >= tau.
inline bool Keeps(float v, float tau) { return std::fabs(v) >= tau; }

// The mask over v (count,), of single channels: bits, the dense prefix of
// kPrefix, and those `arrays` that are asked for: ascending indices, kept
// values, the zeroed copy. v may be null if rule.score is not (row masks): then
// only index and bits are made.
MaskView MakeMask(const float* v, size_t count, const ThresholdRule& rule,
                  const MaskStorage& storage, MaskArrays arrays = {});

// h (count,) = act(gate) * up, as Activate computes it, bit for bit.
struct GatedValues {
  const float* gate = nullptr;
  const float* up = nullptr;  // null: act(gate) alone
  Activation activation = Activation::kSilu;
};

// The mask over h. Values of h are computed on the way and stored only in
// `arrays`. Scores are those of h: rule.score is not read.
MaskView MakeGatedMask(const GatedValues& values, size_t count,
                       const ThresholdRule& rule, const MaskStorage& storage,
                       MaskArrays arrays = {});

// Multiplies the values (compacted and zeroed) of a mask by factor (count,).
// The mask is of single channels, lies in `storage` and has an index. `factor`
// is zero where the mask drops: it is what a row mask of the same channels
// writes.
void MultiplyKept(const MaskView& view, const float* factor,
                  const MaskStorage& storage);

// MakeMask over groups of `granularity` neighbours (a divisor of 64, at most
// kMaxGranularity): a group is kept if any of its channels is.
MaskView MakeGroupMask(const float* v, size_t count, size_t granularity,
                       const ThresholdRule& rule, const MaskStorage& storage,
                       MaskArrays arrays = {});

// Keeps the k largest |s_j - mu_j| (signed: s_j - mu_j), and of equal ones the
// first; -0 equals +0. NaN is never kept: fewer than k channels remain where
// fewer scores are numbers.
struct TopKRule {
  size_t k = 0;
  const float* mu = nullptr;  // (count,) or null: zero
  bool signed_score = false;
  const float* score = nullptr;  // s (count,); null: the values themselves
};

// Exactly those. Overwrites storage.value, whatever the arrays.
MaskView MakeTopKMask(const float* v, size_t count, const TopKRule& rule,
                      const MaskStorage& storage, MaskArrays arrays = {});

// Masks from outside over groups of `granularity` <= kMaxGranularity neighbours
// of v (count,); the last group may reach beyond the end. `v` may be null for a
// row mask: then only index and bits are made. The three forms of what is kept:
//   bits (MaskWords(groups),); those beyond the last group are ignored
//   bytes (groups,); not zero where kept
//   index (kept,), ascending group numbers, as CheckMaskIndex
//         (runtime/plan/mask_check.h) demands; overwrites storage.value
MaskView MaskFromBits(const uint64_t* bits, const float* v, size_t count,
                      size_t granularity, const MaskStorage& storage,
                      MaskArrays arrays = {});
MaskView MaskFromBytes(const uint8_t* bytes, const float* v, size_t count,
                       size_t granularity, const MaskStorage& storage,
                       MaskArrays arrays = {});
MaskView MaskFromIndex(const uint32_t* index, size_t kept, const float* v,
                       size_t count, size_t granularity,
                       const MaskStorage& storage, MaskArrays arrays = {});

// Sets `prefix` and `prefix_kept` of a view with bits. The prefix is as many
// leading words of 64 groups as have at least 7/8 of their bits set.
void FindPrefix(MaskView& view);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_MASK_MASK_H_
