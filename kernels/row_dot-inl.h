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

#include "kernels/selection.h"
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

// sums (rows,) = row[i] . x. `next` are the rows of the next pass. Integer
// weights are multiplied by the scale of their group first, which is exact;
// the scale of a row is the caller's.
//
// Four rows need 16 accumulators of 8 lanes and spill on AVX2; two rows fit,
// and share each load of x. AVX-512 fits eight.
template <WeightType type, size_t rows, Prefetch prefetch>
HWY_NOINLINE void RowPass(const std::byte* const* row,
                          const std::byte* const* next, const RowInput& input,
                          float* HWY_RESTRICT sums) {
  const FloatTag d;
  constexpr size_t kBytes = BlockBytes(type);
  constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;
  GroupScales<type, rows> scales;
  const size_t all_blocks = input.blocks + (input.tail != nullptr);
  Vec partial[rows][kBlockVectors];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t v = 0; v < kBlockVectors; ++v) partial[r][v] = hn::Zero(d);
    FetchHead<prefetch>(next[r]);
  }
  const auto add_block = [&](size_t block, const std::byte* const* fetched,
                             ptrdiff_t ahead,
                             const float* HWY_RESTRICT xb) RANKFORGE_LAMBDA {
    UnrollRuns<rows>([&](auto r) RANKFORGE_LAMBDA {
      const std::byte* weights = row[r] + block * kBytes;
      FetchBlock<prefetch, kBytes>(fetched[r] + block * kBytes + ahead);
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        Vec w = Weights<type>::template Load<v>(weights);
        if constexpr (kGrouped) w = hn::Mul(w, scales.Of(r, block));
        partial[r][v] =
            hn::MulAdd(w, hn::LoadU(d, xb + v * LanesOf()), partial[r][v]);
      });
    });
  };
  size_t block = 0;
  const FetchPlan fetches =
      PlanFetches<type, prefetch, 1>(row, next, input.blocks);
  for (const auto& stretch : fetches.stretches) {
    for (; block < stretch.end; ++block) {
      scales.Advance(block, all_blocks, row, next, input.scales, nullptr);
      add_block(block, stretch.streams, stretch.ahead,
                input.x + block * kBlock);
    }
  }
  if (input.tail != nullptr) {
    scales.Advance(block, all_blocks, row, next, input.scales, nullptr);
    add_block(block, next, 0, input.tail);
  }
  for (size_t r = 0; r < rows; ++r) sums[r] = ReduceBlock(partial[r]);
}

// Runs `size` <= rows rows through passes of rows, rows / 2, ..., 1.
template <WeightType type, size_t rows, Prefetch prefetch>
HWY_NOINLINE void RowPasses(const std::byte* const* row,
                            const std::byte* const* next, size_t size,
                            const RowInput& input, float* sums) {
  if (size >= rows) {
    RowPass<type, rows, prefetch>(row, next, input, sums);
    row += rows;
    next += rows;
    sums += rows;
    size -= rows;
  }
  if constexpr (rows > 1) {
    if (size > 0) {
      RowPasses<type, rows / 2, prefetch>(row, next, size, input, sums);
    }
  }
}

template <VariantSpec spec, class Shape>
void RowDot(const KernelArgs& args) {
  ForEachRowBatch<spec, Shape>(
      args, &RowPasses<spec.type, spec.batch, spec.prefetch>);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_ROW_DOT_INL_H_
