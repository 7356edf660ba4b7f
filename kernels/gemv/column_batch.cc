// The entries of Algorithm::kColumnBatch for any shape, on every target.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv/column_batch.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/column_batch-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct ColumnBatchKernel {
  static void Run(const KernelArgs& args) { ColumnBatch<spec, Shape>(args); }
};

std::span<const KernelEntry> ColumnBatchEntriesOfTarget() {
  return MakeEntries<ColumnBatchKernel, DynamicShape,
                     [](const VariantSpec& spec) {
                       return spec.algorithm == Algorithm::kColumnBatch;
                     }>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(ColumnBatchEntriesOfTarget);
std::span<const KernelEntry> ColumnBatchEntries() {
  return HWY_DYNAMIC_DISPATCH(ColumnBatchEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
