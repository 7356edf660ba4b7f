// Mask producers: values in, compacted mask out, in one vector pass.
#ifndef RANKFORGE_KERNELS_MASK_H_
#define RANKFORGE_KERNELS_MASK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/kernel_args.h"

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

enum class Comparison : uint8_t { kGreaterEqual, kGreater };

// keep j iff |v_j - mu_j| >= tau_j (or > tau_j); methods/rana 6.1 in one
// formula. `mu` may be null (zero). tau = +inf drops a channel. A NaN in v, mu
// or tau compares false and drops the channel; with signed_score the absolute
// value is not taken (predictor scores).
struct ThresholdRule {
  const float* tau = nullptr;  // (count,)
  const float* mu = nullptr;   // (count,) or null
  Comparison comparison = Comparison::kGreaterEqual;
  bool signed_score = false;
};

// All forms of the mask over v (count,): ascending indices, kept values, bits,
// zeroed copy, and the dense prefix of kPrefix. Every channel is its own group.
MaskView MakeMask(const float* v, size_t count, const ThresholdRule& rule,
                  const MaskStorage& storage);

// The same from an external index list (ascending, < groups) over groups of
// `granularity` neighbours. `v` (count,) may be null for a row mask, then only
// index and bits are made. `groups` is count / granularity rounded up.
MaskView MaskFromIndex(const uint32_t* index, size_t kept, const float* v,
                       size_t count, size_t granularity,
                       const MaskStorage& storage);

// Sets `prefix` and `prefix_kept` of a view with bits: as many leading words of
// 64 groups as have at least 7/8 of their bits set.
void FindPrefix(MaskView& view);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_MASK_H_
