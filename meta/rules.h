// Which combinations of tunables make sense, and where a variant applies. Each
// rule stands here once, for the list, the registry, the tuner and the tests.
#ifndef RANKFORGE_META_RULES_H_
#define RANKFORGE_META_RULES_H_

#include <cstddef>

#include "meta/types.h"
#include "meta/variant.h"

namespace rankforge {

// Whether the product of the axes keeps this combination.
constexpr bool Allowed(const VariantSpec& spec) {
  if (spec.per_pass == 0 || spec.granularity == 0) return false;
  if ((spec.algorithm == Algorithm::kPanel) != (spec.panel != 0)) return false;
  // A group is cut into whole passes.
  if (spec.granularity > 1 && spec.granularity % spec.per_pass != 0)
    return false;
  if (spec.granularity > 1) {
    // Groups are contiguous, so that only the best prefetch of each algorithm
    // is worth a variant.
    if (spec.per_pass < 4) return false;
    const Prefetch best = spec.algorithm == Algorithm::kPanel
                              ? Prefetch::kNextL2
                              : Prefetch::kAhead;
    if (spec.prefetch != Prefetch::kNone && spec.prefetch != best) return false;
  }
  // Types with minimums load as those without. Of what was measured there, only
  // variants that fetch ahead are worth their build time.
  if (FormatOf(spec.type).has_minimum && spec.prefetch == Prefetch::kNone) {
    return false;
  }
  // These are seldom the best, and then by no more than the noise. One of each
  // stays, for CPUs that differ.
  if (spec.algorithm != Algorithm::kPanel &&
      (spec.prefetch == Prefetch::kNextL2 ||
       spec.prefetch == Prefetch::kNextL1 ||
       spec.prefetch == Prefetch::kHeads)) {
    return spec.per_pass == (spec.algorithm == Algorithm::kRowDot ? 4 : 8);
  }
  return true;
}

// Whether `spec` needs a CPU that multiplies bf16 (vdpbf16ps). Such specs are
// compiled in kernels/rounded/rounded_bf16.cc, and for no target of Highway.
constexpr bool NeedsNativeBf16(const VariantSpec& spec) {
  return RoundsInput(spec) && spec.type == WeightType::kBf16;
}

// Whether the xsimd backend has a kernel of the algorithm and type of `spec`.
constexpr bool InXsimd(const VariantSpec& spec) {
  return (spec.algorithm == Algorithm::kRowDot ||
          spec.algorithm == Algorithm::kColumnBatch) &&
         (spec.type == WeightType::kF32 || spec.type == WeightType::kBf16 ||
          spec.type == WeightType::kI8);
}

// Whether an entry of `spec` can serve this mask granularity. Zeroed forms read
// everything and serve all. Granularities 8 and 32 are for masks that callers
// of the C ABI bring; the models of runtime/model mask single channels.
constexpr bool Serves(const VariantSpec& spec, size_t granularity) {
  return spec.granularity == granularity || spec.form == MaskForm::kZeroed ||
         spec.operation == Operation::kDense;
}

// Whether an entry of `spec` computes problems of `batch` inputs.
constexpr bool ServesBatch(const VariantSpec& spec, size_t batch) {
  return TakesTokens(spec) == (batch > 1);
}

}  // namespace rankforge

#endif  // RANKFORGE_META_RULES_H_
