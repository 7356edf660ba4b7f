// Dot products of several rows at once, layout [out][in]. Compiled once per
// target.
//
// Every dot has the same virtual shape on every target: kBlock partial sums by
// position, each one FMA chain over the blocks, then one reduction tree
// (halves onto halves). Vector width and rows per pass do not change the
// result.
#if defined(RANKFORGE_KERNELS_GEMV_ROW_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_ROW_DOT_INL_H_
#undef RANKFORGE_KERNELS_GEMV_ROW_DOT_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_ROW_DOT_INL_H_
#endif

#include "kernels/gemv/row_passes-inl.h"
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Adds one block of several rows times one block of x to partial sums. The
// constructor does the part that the rows share.
template <WeightType type>
class BlockDot {
 public:
  static constexpr size_t kPartials = kBlockVectors;

  explicit HWY_INLINE BlockDot(const float* HWY_RESTRICT x) : x_(x) {}
  // The weights are multiplied by the `scale` of their group first, which is
  // exact.
  HWY_INLINE void Add(const std::byte* weights, Vec scale, Vec /*minimum*/,
                      Vec* HWY_RESTRICT partial) const {
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      Vec w = Weights<type>::template Load<v>(weights);
      if constexpr (FormatOf(type).scaling == Scaling::kGroup) {
        w = hn::Mul(w, scale);
      }
      partial[v] =
          hn::MulAdd(w, hn::LoadU(FloatTag(), x_ + v * LanesOf()), partial[v]);
    });
  }

 private:
  const float* x_;
};

// Elements i and i + kBlock / 2 share a partial sum and are added together:
// p_i += scale * (n_i x_i + n_(i+16) x_(i+16) - 8 (x_i + x_(i+16))), where the
// stored n are 0 to 15. Multiplying every weight by the scale would cost a
// fourth instruction besides the three per weight. With minimums
// p_i += scale * (n_i x_i + n_(i+16) x_(i+16)), then
// p_i += minimum * (x_i + x_(i+16)).
template <WeightType type>
requires(kNibbles<type>) class BlockDot<type> {
 public:
  static constexpr size_t kPartials = kBlockVectors / 2;

  explicit HWY_INLINE BlockDot(const float* HWY_RESTRICT x) {
    const FloatTag d;
    Unroll<kPartials>([&](auto v) RANKFORGE_LAMBDA {
      const Vec low = hn::LoadU(d, x + v * LanesOf());
      const Vec high = hn::LoadU(d, x + (v + kPartials) * LanesOf());
      low_[v] = Rescale<type, v, -1>(low);
      high_[v] = Rescale<type, v + kPartials, -1>(high);
      both_[v] = hn::Add(low, high);
      if constexpr (!kMinimums<type>) {
        both_[v] = hn::Mul(hn::Set(d, -float{kNibbleZero}), both_[v]);
      }
    });
  }
  HWY_INLINE void Add(const std::byte* weights, Vec scale, Vec minimum,
                      Vec* HWY_RESTRICT partial) const {
    using Stored = Weights<type>;
    Unroll<kPartials>([&](auto v) RANKFORGE_LAMBDA {
      const Vec sum = AddOne(Stored::template Load<v>(weights), v);
      const Vec sums = hn::MulAdd(Stored::template Load<v + kPartials>(weights),
                                  high_[v], sum);
      partial[v] = hn::MulAdd(sums, scale, partial[v]);
      if constexpr (kMinimums<type>) {
        partial[v] = hn::MulAdd(both_[v], minimum, partial[v]);
      }
    });
  }

 private:
  HWY_INLINE Vec AddOne(Vec w, size_t v) const {
    if constexpr (kMinimums<type>) return hn::Mul(w, low_[v]);
    return hn::MulAdd(w, low_[v], both_[v]);
  }

  Vec low_[kPartials], high_[kPartials];
  // x_i + x_(i+16); times -8 for types without minimums.
  Vec both_[kPartials];
};

// sums (rows,) = row[i] . x. `next` are the rows of the next pass. The scale of
// a row is the caller's.
//
// Four rows need 16 accumulators of 8 lanes, which spill on AVX2; two rows fit
// and share each load of x. On AVX-512 eight rows fit.
template <WeightType type, Prefetch prefetch>
struct RowPass {
  template <size_t rows>
  static HWY_NOINLINE void Run(const std::byte* const* row,
                               const std::byte* const* next,
                               const RowInput& input,
                               float* HWY_RESTRICT sums) {
    const FloatTag d;
    constexpr size_t kBytes = BlockBytes(type);
    constexpr size_t kPartials = BlockDot<type>::kPartials;
    GroupScales<type, rows> scales;
    const size_t all_blocks = input.blocks + (input.tail != nullptr);
    Vec partial[rows][kPartials];
    for (size_t r = 0; r < rows; ++r) {
      for (size_t v = 0; v < kPartials; ++v) partial[r][v] = hn::Zero(d);
      FetchHead<prefetch>(next[r]);
    }
    const auto add_block = [&](size_t block, const std::byte* const* fetched,
                               ptrdiff_t ahead,
                               const float* HWY_RESTRICT xb) RANKFORGE_LAMBDA {
      scales.Advance(block, all_blocks, row, next, input.groups, nullptr,
                     nullptr);
      const BlockDot<type> dot(xb);
      UnrollRuns<rows>([&](auto r) RANKFORGE_LAMBDA {
        FetchBlock<prefetch, kBytes>(fetched[r] + block * kBytes + ahead);
        dot.Add(row[r] + block * kBytes, scales.Of(r, block),
                scales.MinimumOf(r, block), partial[r]);
      });
    };
    size_t block = 0;
    const FetchPlan fetches =
        PlanFetches<type, prefetch, 1>(row, next, input.blocks, input.ahead);
    for (const auto& stretch : fetches.stretches) {
      for (; block < stretch.end; ++block) {
        add_block(block, stretch.streams, stretch.ahead,
                  input.x + block * kBlock);
      }
    }
    if (input.tail != nullptr) add_block(block, next, 0, input.tail);
    ReduceRows(partial, sums);
  }
};

template <VariantSpec spec, class Shape>
void RowDot(const KernelArgs& args) {
  ForEachRowBatch<spec, Shape>(
      args, &RowPasses<RowPass<spec.type, spec.prefetch>, spec.per_pass>);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_ROW_DOT_INL_H_
