// The entries of Algorithm::kPanel for any shape, on every target.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv/panel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct PanelKernel {
  static void Run(const KernelArgs& args) { Panel<spec, Shape>(args); }
};

std::span<const KernelEntry> PanelEntriesOfTarget() {
  return MakeEntries<PanelKernel, DynamicShape, [](const VariantSpec& spec) {
    return spec.algorithm == Algorithm::kPanel;
  }>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(PanelEntriesOfTarget);
std::span<const KernelEntry> PanelEntries() {
  return HWY_DYNAMIC_DISPATCH(PanelEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
