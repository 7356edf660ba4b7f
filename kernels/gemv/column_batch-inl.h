// Several columns per pass over the outputs, layout [in][out]. Compiled once
// per target.
//
// Every output is one FMA chain over the visited columns in ascending order, so
// columns per pass, tails and prefetching do not change the result.
#if defined(RANKFORGE_KERNELS_GEMV_COLUMN_BATCH_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_COLUMN_BATCH_INL_H_
#undef RANKFORGE_KERNELS_GEMV_COLUMN_BATCH_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_COLUMN_BATCH_INL_H_
#endif

#include <algorithm>
#include <bit>

#include "kernels/gemv/cursor.h"
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

inline constexpr size_t kStepBlocks = kColumnStep / kBlock;

// y (size,) += sum over c of column[c] * value[c], in that order. `next` are
// the columns of the next pass.
//
// kColumnStep outputs are held while all columns add to them, so each weight
// costs 1 / columns of a load and a store of y. Integer weights are multiplied
// by scale * value, rounded once.
template <WeightType type, size_t columns, Prefetch prefetch>
HWY_NOINLINE void ColumnPass(const std::byte* const* column,
                             const std::byte* const* next,
                             const float* HWY_RESTRICT value,
                             const ColumnRange& range, float* HWY_RESTRICT y) {
  const FloatTag d;
  constexpr size_t kBytes = BlockBytes(type);
  constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;
  const size_t blocks = RunWeights(range.size) / kBlock;
  GroupScales<type, columns> scales;
  const auto add_step = [&](size_t block, const std::byte* const* fetched,
                            ptrdiff_t ahead,
                            float* HWY_RESTRICT ys) RANKFORGE_LAMBDA {
    constexpr size_t kVectors = kStepBlocks * kBlockVectors;
    scales.Advance(block, blocks, column, next, range.groups, value,
                   range.group_sums);
    Vec sum[kVectors];
    Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
      sum[v] =
          Rescale<type, v % kBlockVectors, 1>(hn::LoadU(d, ys + v * LanesOf()));
    });
    UnrollRuns<columns>([&](auto c) RANKFORGE_LAMBDA {
      const std::byte* weights = column[c] + block * kBytes;
      FetchBlock<prefetch, kStepBlocks * kBytes>(fetched[c] + block * kBytes +
                                                 ahead);
      Unroll<kStepBlocks>([&](auto b) RANKFORGE_LAMBDA {
        const Vec factor = [&]() RANKFORGE_LAMBDA {
          if constexpr (kGrouped) return scales.Of(c, block + b);
          return hn::Set(d, value[c]);
        }();
        Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
          constexpr size_t kIndex = b * kBlockVectors + v;
          sum[kIndex] =
              hn::MulAdd(Weights<type>::template Load<v>(weights + b * kBytes),
                         factor, sum[kIndex]);
        });
      });
    });
    Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
      hn::StoreU(Rescale<type, v % kBlockVectors, -1>(sum[v]), d,
                 ys + v * LanesOf());
    });
  };
  for (size_t c = 0; c < columns; ++c) FetchHead<prefetch>(next[c]);
  size_t block = 0;
  const FetchPlan fetches = PlanFetches<type, prefetch, kStepBlocks>(
      column, next, range.size / kColumnStep * kStepBlocks, range.ahead);
  for (const auto& stretch : fetches.stretches) {
    for (; block < stretch.end; block += kStepBlocks) {
      add_step(block, stretch.streams, stretch.ahead, y + block * kBlock);
    }
  }
  if (block < blocks) {
    // Weights are padded to a step, y is not.
    const size_t begin = block * kBlock;
    HWY_ALIGN float tail[kColumnStep] = {};
    for (size_t i = begin; i < range.size; ++i) tail[i - begin] = y[i];
    add_step(block, next, 0, tail);
    for (size_t i = begin; i < range.size; ++i) y[i] = tail[i - begin];
  }
}

// The columns of the next smaller pass for the rest of a batch of `columns`: a
// power of two, and at least half, so that one pass of each size is enough.
constexpr size_t SmallerPass(size_t columns) {
  return std::bit_floor(columns - 1);
}

// Adds `count` <= columns columns through passes of that many, ..., 4, 2, 1.
template <WeightType type, size_t columns, Prefetch prefetch>
HWY_NOINLINE void ColumnPasses(const std::byte* const* column,
                               const std::byte* const* next, const float* value,
                               size_t count, const ColumnRange& range,
                               float* y) {
  if (count >= columns) {
    ColumnPass<type, columns, prefetch>(column, next, value, range, y);
    column += columns;
    next += columns;
    value += columns;
    count -= columns;
  }
  if constexpr (columns > 1) {
    if (count > 0) {
      ColumnPasses<type, SmallerPass(columns), prefetch>(column, next, value,
                                                         count, range, y);
    }
  }
}

// The loop over batches. It does not depend on the type and the prefetch, which
// `passes` knows: compiling it for every variant would take half of the build
// time.
template <size_t batch, class Cursor>
HWY_NOINLINE void ForEachBatch(const KernelArgs& args, const std::byte* first,
                               size_t stride, const ColumnRange& range,
                               Cursor cursor, ColumnPassesFn passes) {
  ForEachColumnBatch<batch>(args, first, stride, range, cursor, passes);
}

template <VariantSpec spec, class Shape>
void ColumnBatch(const KernelArgs& args) {
  const size_t rows = Shape::kRows != 0 ? Shape::kRows : args.rows;
  const size_t cols = Shape::kCols != 0 ? Shape::kCols : args.cols;
  const size_t stride =
      Shape::kCols != 0
          ? PackedStride(Layout::kInOut, spec.type, Shape::kRows, Shape::kCols)
          : args.stride;
  constexpr size_t kGroup = FormatOf(spec.type).group;
  // Outputs of 4-bit types are walked in tiles, so that the sums of their
  // groups fit into 16 KiB. A tile has room for all outputs of a layer.
  constexpr size_t kTile = size_t{1} << 17;
  StartSums(args);
  const auto add_columns = [&](size_t begin, size_t end, float* group_sums) {
    const size_t weights =
        ScaleBytes(spec.type, rows) + BlockBytes(spec.type, begin);
    const ColumnRange range = {begin, end - begin,
                               GroupOffsetsOf(spec.type, rows, begin),
                               group_sums, args.ahead};
    ForEachBatch<spec.per_pass>(
        args, static_cast<const std::byte*>(args.w) + weights, stride, range,
        ColumnCursor<spec>(args, cols),
        &ColumnPasses<spec.type, spec.per_pass, spec.prefetch>);
  };
  if constexpr (kNibbles<spec.type>) {
    for (size_t begin = args.row_begin; begin < args.row_end; begin += kTile) {
      const size_t end = std::min(begin + kTile, args.row_end);
      // Whole vectors of sums are written.
      HWY_ALIGN float group_sums[kTile / kGroup + kBlock];
      std::fill_n(group_sums, (end - begin) / kGroup + kBlock, 0.0f);
      add_columns(begin, end, group_sums);
      AddGroupSums<spec.type>(group_sums, end - begin, args.y + begin);
    }
  } else {
    add_columns(args.row_begin, args.row_end, nullptr);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_COLUMN_BATCH_INL_H_
