// The entries of one unit of a plug-in: variants whose trip counts, strides and
// tails are constants. Compiled for the one target of the plug-in.
#if defined(RANKFORGE_KERNELS_GEMV_STATIC_ENTRIES_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_STATIC_ENTRIES_INL_H_
#undef RANKFORGE_KERNELS_GEMV_STATIC_ENTRIES_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_STATIC_ENTRIES_INL_H_
#endif

#include <span>

#include "hwy/highway.h"
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/column_batch-inl.h"
#include "kernels/gemv/panel-inl.h"
#include "kernels/gemv/row_dot-inl.h"
#include "meta/static_variants.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct StaticKernel {
  static void Run(const KernelArgs& args) {
    if constexpr (spec.algorithm == Algorithm::kRowDot) {
      RowDot<spec, Shape>(args);
    } else if constexpr (spec.algorithm == Algorithm::kColumnBatch) {
      ColumnBatch<spec, Shape>(args);
    } else {
      static_assert(spec.algorithm == Algorithm::kPanel);
      Panel<spec, Shape>(args);
    }
  }
};

template <StaticUnit unit>
constexpr bool HeldBy(const VariantSpec& spec) {
  return Holds(unit, spec);
}

template <StaticUnit unit>
std::span<const KernelEntry> StaticEntries() {
  return MakeEntries<StaticKernel, StaticShape<unit.rows, unit.cols>,
                     &HeldBy<unit>>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_STATIC_ENTRIES_INL_H_
