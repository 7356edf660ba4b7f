// The entries of Algorithm::kInterleaved for any shape, on every target.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv/interleaved.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/interleaved-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct InterleavedKernel {
  static void Run(const KernelArgs& args) { Interleaved<spec>(args); }
};

std::span<const KernelEntry> InterleavedEntriesOfTarget() {
  return MakeEntries<InterleavedKernel, DynamicShape,
                     [](const VariantSpec& spec) {
                       return spec.algorithm == Algorithm::kInterleaved;
                     }>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(InterleavedEntriesOfTarget);
std::span<const KernelEntry> InterleavedEntries() {
  return HWY_DYNAMIC_DISPATCH(InterleavedEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
