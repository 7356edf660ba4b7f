// Dot products of several rows at once, layout [out][in]. Compiled once per
// target.
//
// Every dot has the same virtual shape on every target: kBlock partial sums by
// position, each one FMA chain over the blocks, then one reduction tree
// (halves onto halves). Vector width and rows per pass do not show.
#if defined(RANKFORGE_KERNELS_ROW_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROW_DOT_INL_H_
#undef RANKFORGE_KERNELS_ROW_DOT_INL_H_
#else
#define RANKFORGE_KERNELS_ROW_DOT_INL_H_
#endif

#include "kernels/selection-inl.h"
#include "kernels/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Sum of kBlock partial sums: p_i + p_(i + 16), then + p_(i + 8), ... + p_1.
HWY_INLINE float ReduceBlock(Vec* HWY_RESTRICT partial) {
  const FloatTag d;
  for (size_t half = kBlockVectors / 2; half > 0; half /= 2) {
    for (size_t v = 0; v < half; ++v) {
      partial[v] = hn::Add(partial[v], partial[v + half]);
    }
  }
  HWY_ALIGN float lanes[LanesOf()];
  hn::Store(partial[0], d, lanes);
  for (size_t half = LanesOf() / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// sums (rows,) = row[i] . x over `blocks` whole blocks of x plus one block
// `tail` (zero-padded; null: none). `next` are the rows of the next pass.
//
// Four rows need 16 accumulators of 8 lanes and spill on AVX2; two rows fit,
// and share each load of x. AVX-512 fits eight.
template <WeightType type, size_t rows, Prefetch prefetch>
HWY_NOINLINE void RowPass(const typename Weights<type>::Stored* const* row,
                          const typename Weights<type>::Stored* const* next,
                          const float* HWY_RESTRICT x, size_t blocks,
                          const float* HWY_RESTRICT tail,
                          float* HWY_RESTRICT sums) {
  using Stored = typename Weights<type>::Stored;
  const FloatTag d;
  Vec partial[rows][kBlockVectors];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t v = 0; v < kBlockVectors; ++v) partial[r][v] = hn::Zero(d);
    FetchHead<prefetch>(next[r]);
  }
  const auto add_block = [&](size_t b, const Stored* const* fetched,
                             ptrdiff_t ahead,
                             const float* HWY_RESTRICT xb) RANKFORGE_LAMBDA {
    Unroll<rows>([&](auto r) RANKFORGE_LAMBDA {
      const auto* block = row[r] + b * kBlock;
      FetchBlock<prefetch>(fetched[r] + b * kBlock + ahead);
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        partial[r][v] =
            hn::MulAdd(Weights<type>::template Load<v>(block),
                       hn::LoadU(d, xb + v * LanesOf()), partial[r][v]);
      });
    });
  };
  size_t b = 0;
  const FetchPlan<Stored> fetches = PlanFetches<prefetch>(row, next, blocks);
  for (const auto& stretch : fetches.stretches) {
    const auto ahead = stretch.ahead * static_cast<ptrdiff_t>(kBlock);
    for (; b < stretch.end; ++b) {
      add_block(b, stretch.streams, ahead, x + b * kBlock);
    }
  }
  if (tail != nullptr) add_block(blocks, next, 0, tail);
  for (size_t r = 0; r < rows; ++r) sums[r] = ReduceBlock(partial[r]);
}

// Runs `size` <= rows rows through passes of rows, rows / 2, ..., 1.
template <WeightType type, size_t rows, Prefetch prefetch>
HWY_NOINLINE void RowPasses(const typename Weights<type>::Stored* const* row,
                            const typename Weights<type>::Stored* const* next,
                            size_t size, const float* x, size_t blocks,
                            const float* tail, float* sums) {
  if (size >= rows) {
    RowPass<type, rows, prefetch>(row, next, x, blocks, tail, sums);
    row += rows;
    next += rows;
    sums += rows;
    size -= rows;
  }
  if constexpr (rows > 1) {
    if (size > 0) {
      RowPasses<type, rows / 2, prefetch>(row, next, size, x, blocks, tail,
                                          sums);
    }
  }
}

template <VariantSpec spec, class Shape>
void RowDot(const KernelArgs& args) {
  using Stored = typename Weights<spec.type>::Stored;
  const size_t cols = Shape::kCols != 0 ? Shape::kCols : args.cols;
  const size_t stride =
      Shape::kCols != 0
          ? PackedStride(Layout::kOutIn, spec.type, Shape::kRows, Shape::kCols)
          : args.stride;
  const Stored* HWY_RESTRICT w = static_cast<const Stored*>(args.w);

  // x need not be padded: its last, partial block is copied.
  const size_t blocks = cols / kBlock;
  HWY_ALIGN float tail[kBlock] = {};
  for (size_t i = blocks * kBlock; i < cols; ++i) {
    tail[i - blocks * kBlock] = args.x[i];
  }
  const float* tail_or_null = cols % kBlock == 0 ? nullptr : tail;

  if constexpr (spec.operation == Operation::kRowMask) {
    if (!args.accumulate && spec.form != MaskForm::kZeroed) {
      for (size_t i = args.row_begin; i < args.row_end; ++i) args.y[i] = 0.0f;
    }
  }
  const auto keeps = [&](size_t position) RANKFORGE_LAMBDA {
    if constexpr (spec.form == MaskForm::kZeroed) {
      const size_t group = position / args.mask.granularity;
      return (args.mask.bits[group / 64] >> (group % 64) & 1) != 0;
    } else {
      // The last group may reach beyond the matrix.
      return position < args.row_end;
    }
  };

  auto cursor = RowCursor<spec>(args);
  Batch<spec.batch> current, next;
  cursor.Next(current);
  while (current.size > 0) {
    cursor.Next(next);
    const Stored* row[spec.batch];
    const Stored* row_ahead[spec.batch];
    for (size_t i = 0; i < spec.batch; ++i) {
      const size_t position = current.position[i < current.size ? i : 0];
      row[i] = w + position * stride;
      row_ahead[i] = i < next.size ? w + next.position[i] * stride : row[i];
    }
    float sums[spec.batch];
    RowPasses<spec.type, spec.batch, spec.prefetch>(
        row, row_ahead, current.size, args.x, blocks, tail_or_null, sums);
    for (size_t i = 0; i < current.size; ++i) {
      const size_t position = current.position[i];
      if (keeps(position)) {
        const float start = args.accumulate        ? args.y[position]
                            : args.bias != nullptr ? args.bias[position]
                                                   : 0.0f;
        args.y[position] = start + sums[i];
      } else if (spec.form == MaskForm::kZeroed && !args.accumulate) {
        args.y[position] = 0.0f;
      }
    }
    current = next;
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_ROW_DOT_INL_H_
