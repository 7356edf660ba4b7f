// Several columns a pass over the outputs, layout [in][out]. Compiled once per
// target.
//
// Every output is one FMA chain over the visited columns in ascending order:
// columns a pass, tails and prefetching do not show in the result.
#if defined(RANKFORGE_KERNELS_COLUMN_BATCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_COLUMN_BATCH_INL_H_
#undef RANKFORGE_KERNELS_COLUMN_BATCH_INL_H_
#else
#define RANKFORGE_KERNELS_COLUMN_BATCH_INL_H_
#endif

#include "kernels/selection-inl.h"
#include "kernels/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// y (size,) += sum over c of column[c] * value[c], in that order. `next` are
// the columns of the next pass.
//
// One cache line of y (two vectors of AVX-512, four of AVX2) is held while all
// columns add to it, so each weight costs 1 / columns of a load and a store of
// y, and one prefetch covers one line of each next column.
template <WeightType type, size_t columns, Prefetch prefetch>
HWY_NOINLINE void ColumnPass(
    const typename Weights<type>::Stored* const* column,
    const typename Weights<type>::Stored* const* next,
    const float* HWY_RESTRICT value, size_t size, float* HWY_RESTRICT y) {
  const FloatTag d;
  using Stored = typename Weights<type>::Stored;
  const auto add_block = [&](size_t begin, const Stored* const* fetched,
                             ptrdiff_t ahead,
                             float* HWY_RESTRICT yb) RANKFORGE_LAMBDA {
    Vec sum[kBlockVectors];
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      sum[v] = hn::LoadU(d, yb + v * LanesOf());
    });
    Unroll<columns>([&](auto c) RANKFORGE_LAMBDA {
      const auto* block = column[c] + begin;
      FetchBlock<prefetch>(fetched[c] + begin + ahead);
      const Vec factor = hn::Set(d, value[c]);
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        sum[v] =
            hn::MulAdd(Weights<type>::template Load<v>(block), factor, sum[v]);
      });
    });
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      hn::StoreU(sum[v], d, yb + v * LanesOf());
    });
  };
  for (size_t c = 0; c < columns; ++c) FetchHead<prefetch>(next[c]);
  size_t begin = 0;
  const FetchPlan<Stored> fetches =
      PlanFetches<prefetch>(column, next, size / kBlock);
  for (const auto& stretch : fetches.stretches) {
    const auto ahead = stretch.ahead * static_cast<ptrdiff_t>(kBlock);
    for (; begin < stretch.end * kBlock; begin += kBlock) {
      add_block(begin, stretch.streams, ahead, y + begin);
    }
  }
  if (begin < size) {
    // Weights are padded to a block, y is not.
    HWY_ALIGN float tail[kBlock] = {};
    for (size_t i = begin; i < size; ++i) tail[i - begin] = y[i];
    add_block(begin, next, 0, tail);
    for (size_t i = begin; i < size; ++i) y[i] = tail[i - begin];
  }
}

// The passes that a batch of `columns` may be cut into when fewer are left.
constexpr size_t SmallerPass(size_t columns) {
  return columns > 8 ? 8 : columns / 2;
}

// Adds `count` <= columns columns through passes of that many, eight, four, ...
template <WeightType type, size_t columns, Prefetch prefetch>
HWY_NOINLINE void ColumnPasses(
    const typename Weights<type>::Stored* const* column,
    const typename Weights<type>::Stored* const* next, const float* value,
    size_t count, size_t size, float* y) {
  if (count >= columns) {
    ColumnPass<type, columns, prefetch>(column, next, value, size, y);
    column += columns;
    next += columns;
    value += columns;
    count -= columns;
  }
  if constexpr (columns > 1) {
    if (count > 0) {
      ColumnPasses<type, SmallerPass(columns), prefetch>(column, next, value,
                                                         count, size, y);
    }
  }
}

// The loop over batches. It does not depend on the prefetch, which `passes`
// knows: instantiating it for every variant took half of the build time.
template <WeightType type, size_t batch, class Cursor>
HWY_NOINLINE void ForEachBatch(
    const KernelArgs& args, size_t stride, Cursor cursor,
    decltype(&ColumnPasses<type, batch, Prefetch::kNone>) passes) {
  using Stored = typename Weights<type>::Stored;
  const size_t size = args.row_end - args.row_begin;
  const Stored* w = static_cast<const Stored*>(args.w) + args.row_begin;
  float* y = args.y + args.row_begin;
  Batch<batch> current, next;
  cursor.Next(current);
  while (current.size > 0) {
    cursor.Next(next);
    const Stored* column[batch];
    const Stored* column_ahead[batch];
    for (size_t i = 0; i < batch; ++i) {
      const size_t position = current.position[i < current.size ? i : 0];
      column[i] = w + position * stride;
      column_ahead[i] =
          i < next.size ? w + next.position[i] * stride : column[i];
    }
    passes(column, column_ahead, current.value, current.size, size, y);
    current = next;
  }
}

template <VariantSpec spec, class Shape>
void ColumnBatch(const KernelArgs& args) {
  const size_t cols = Shape::kCols != 0 ? Shape::kCols : args.cols;
  const size_t stride =
      Shape::kCols != 0
          ? PackedStride(Layout::kInOut, spec.type, Shape::kRows, Shape::kCols)
          : args.stride;
  StartSums(args);
  ForEachBatch<spec.type, spec.batch>(
      args, stride, ColumnCursor<spec>(args, cols),
      &ColumnPasses<spec.type, spec.batch, spec.prefetch>);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_COLUMN_BATCH_INL_H_
