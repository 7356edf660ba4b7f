// Panels of outputs that stay in registers over all columns, layout
// [panel][in][width]. Compiled once per target.
//
// Every output is one FMA chain over the visited columns in ascending order, as
// in column_batch-inl.h: results of both are equal bit for bit.
#if defined(RANKFORGE_KERNELS_GEMV_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_PANEL_INL_H_
#undef RANKFORGE_KERNELS_GEMV_PANEL_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_PANEL_INL_H_
#endif

#include <algorithm>

#include "kernels/gemv/cursor.h"
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Blocks of outputs whose sums fit eight registers. A wider panel is walked in
// strips of as many.
inline constexpr size_t kStripBlocks =
    8 / kBlockVectors > 0 ? 8 / kBlockVectors : 1;

// y (size,) of one strip. `strip` points at the strip in column 0 of its panel.
template <VariantSpec spec, size_t blocks, class Cursor>
HWY_INLINE void Strip(const std::byte* strip, Cursor cursor,
                      float* HWY_RESTRICT y, size_t size) {
  constexpr size_t kVectors = blocks * kBlockVectors;
  constexpr size_t kBytes = BlockBytes(spec.type);
  constexpr size_t kColumn = BlockBytes(spec.type, spec.panel);
  const FloatTag d;
  // Sums start at y; a partial strip works on a copy.
  HWY_ALIGN float padded[blocks * kBlock] = {};
  const bool partial = size < blocks * kBlock;
  if (partial) {
    for (size_t i = 0; i < size; ++i) padded[i] = y[i];
  }
  float* HWY_RESTRICT sums = partial ? padded : y;
  Vec sum[kVectors];
  Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
    sum[v] = hn::LoadU(d, sums + v * LanesOf());
  });

  Batch<spec.per_pass> current, next;
  cursor.Next(current);
  const auto add_column = [&](size_t c) RANKFORGE_LAMBDA {
    const auto* column = strip + current.position[c] * kColumn;
    if constexpr (spec.prefetch != Prefetch::kNone) {
      const auto* ahead =
          c < next.size ? strip + next.position[c] * kColumn : column;
      Unroll<blocks>([&](auto b) RANKFORGE_LAMBDA {
        FetchBlock<spec.prefetch, kBytes>(ahead + b * kBytes);
      });
    }
    const Vec factor = hn::Set(d, current.value[c]);
    Unroll<blocks>([&](auto b) RANKFORGE_LAMBDA {
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        constexpr size_t kIndex = b * kBlockVectors + v;
        sum[kIndex] = hn::MulAdd(
            Weights<spec.type>::template Load<v>(column + b * kBytes), factor,
            sum[kIndex]);
      });
    });
  };
  while (current.size == spec.per_pass) {
    cursor.Next(next);
    for (size_t c = 0; c < spec.per_pass; ++c) add_column(c);
    current = next;
  }
  next.size = 0;
  while (current.size > 0) {
    for (size_t c = 0; c < current.size; ++c) add_column(c);
    cursor.Next(current);
  }

  Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
    hn::StoreU(sum[v], d, sums + v * LanesOf());
  });
  if (partial) {
    for (size_t i = 0; i < size; ++i) y[i] = padded[i];
  }
}

template <VariantSpec spec, class Shape>
void Panel(const KernelArgs& args) {
  constexpr Layout kLayout =
      *std::find_if(kLayouts.begin(), kLayouts.end(),
                    [](Layout layout) { return Accepts(spec, layout); });
  const size_t cols = Shape::kCols != 0 ? Shape::kCols : args.cols;
  const size_t stride =
      Shape::kCols != 0
          ? PackedStride(kLayout, spec.type, Shape::kRows, Shape::kCols)
          : args.stride;
  const std::byte* HWY_RESTRICT w = static_cast<const std::byte*>(args.w);
  StartSums(args);
  constexpr size_t kBlocks =
      kStripBlocks < spec.panel / kBlock ? kStripBlocks : spec.panel / kBlock;
  for (size_t row = args.row_begin; row < args.row_end;
       row += kBlocks * kBlock) {
    const std::byte* strip =
        w + row / spec.panel * stride + BlockBytes(spec.type, row % spec.panel);
    Strip<spec, kBlocks>(strip, ColumnCursor<spec>(args, cols), args.y + row,
                         std::min(kBlocks * kBlock, args.row_end - row));
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_PANEL_INL_H_
