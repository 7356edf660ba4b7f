// The entries of the algorithms that round inputs: on the targets that multiply
// bytes, AVX2 and AVX-512 (vpmaddubsw), and generic ones on the others.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rounded/rounded.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/rounded/rounded_columns-inl.h"
#include "kernels/rounded/rounded_dot-inl.h"
#include "kernels/rounded/rounded_generic-inl.h"
#include "kernels/rounded/rounded_interleaved-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

#if RANKFORGE_MULTIPLIES_BYTES
template <VariantSpec spec, class Shape>
struct RoundedKernel {
  static void Run(const KernelArgs& args) {
    if constexpr (spec.algorithm == Algorithm::kRoundedDot) {
      RoundedDot<spec, Shape>(args);
    } else if constexpr (spec.algorithm == Algorithm::kRoundedInterleaved) {
      RoundedInterleaved<spec>(args);
    } else {
      RoundedColumns<spec>(args);
    }
  }
};

#endif

std::span<const KernelEntry> RoundedEntriesOfTarget() {
  return MakeEntries<RoundedKernel, DynamicShape, &RoundsInput>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(RoundedEntriesOfTarget);
std::span<const KernelEntry> RoundedEntries() {
  return HWY_DYNAMIC_DISPATCH(RoundedEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
