// The entries of Algorithm::kRowDot for any shape, on every target.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv/row_dot.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/row_dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct RowDotKernel {
  static void Run(const KernelArgs& args) { RowDot<spec, Shape>(args); }
};

std::span<const KernelEntry> RowDotEntriesOfTarget() {
  return MakeEntries<RowDotKernel, DynamicShape, [](const VariantSpec& spec) {
    return spec.algorithm == Algorithm::kRowDot;
  }>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(RowDotEntriesOfTarget);
std::span<const KernelEntry> RowDotEntries() {
  return HWY_DYNAMIC_DISPATCH(RowDotEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
