// What kernels of row dots share after their inner loop. Compiled once per
// target.
#if defined(RANKFORGE_KERNELS_GEMV_ROW_PASSES_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_ROW_PASSES_INL_H_
#undef RANKFORGE_KERNELS_GEMV_ROW_PASSES_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_ROW_PASSES_INL_H_
#endif

#include "kernels/gemv/cursor.h"
#include "kernels/numbers/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// sums (rows,): for each row the sum of its partial sums.
template <size_t rows, size_t vectors>
HWY_INLINE void ReduceRows(Vec (&partial)[rows][vectors],
                           float* HWY_RESTRICT sums) {
  if constexpr (rows % 4 == 0) {
    for (size_t r = 0; r < rows; r += 4) ReduceFour(partial + r, sums + r);
  } else {
    for (size_t r = 0; r < rows; ++r) sums[r] = ReduceBlock(partial[r]);
  }
}

// Runs `size` <= rows rows through Pass::Run of rows, rows / 2, ..., 1 rows.
template <class Pass, size_t rows>
HWY_NOINLINE void RowPasses(const std::byte* const* row,
                            const std::byte* const* next, size_t size,
                            const RowInput& input, float* sums) {
  if (size >= rows) {
    Pass::template Run<rows>(row, next, input, sums);
    row += rows;
    next += rows;
    sums += rows;
    size -= rows;
  }
  if constexpr (rows > 1) {
    if (size > 0) RowPasses<Pass, rows / 2>(row, next, size, input, sums);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_ROW_PASSES_INL_H_
