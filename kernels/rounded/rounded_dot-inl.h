// Dot products of integer rows with an x that is rounded to integers.
// Neighbours are multiplied and added as integers, exactly. Their sum, over
// four (8-bit weights) or eight (4-bit) of them, is converted to f32 once.
// Compiled for the targets that multiply bytes.
//
// Every dot has the same virtual shape on every target: kLineSums partial sums
// by place in a cache line of weights, each one FMA chain over the lines, then
// one reduction tree.
//
// Operations per 64 weights of a row on AVX2: 4-bit 11 (kRowDot 33), 8-bit 12
// (kRowDot 26).
#if defined(RANKFORGE_KERNELS_ROUNDED_ROUNDED_DOT_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_ROUNDED_DOT_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_ROUNDED_DOT_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_ROUNDED_DOT_INL_H_
#endif

#include "kernels/gemv/row_passes-inl.h"
#include "kernels/rounded/bytes-inl.h"
#include "kernels/rounded/rounded_input.h"

#if RANKFORGE_MULTIPLIES_BYTES
HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Vector v of a line of x. Dot(weights): its products with vector v of a line
// of weights, summed by place.
template <WeightType type>
class LineDot {
 public:
  HWY_INLINE LineDot(const RoundedInput& x, size_t line, size_t v)
      : x_(LoadBytes(x.integers + line * kCacheLine + v * kVectorBytes)) {}
  HWY_INLINE Sums Dot(Bytes w) const {
    return SumOfProducts(Magnitudes(w), CopySigns(x_, w));
  }

 private:
  Bytes x_;
};

template <WeightType type>
requires(kNibbles<type>) class LineDot<type> {
 public:
  HWY_INLINE LineDot(const RoundedInput& x, size_t line, size_t v)
      : low_(LoadBytes(x.integers + line * 2 * kCacheLine + v * kVectorBytes)),
        high_(LoadBytes(x.integers + (line * 2 + 1) * kCacheLine +
                        v * kVectorBytes)),
        zeros_(kMinimums<type>
                   ? hn::Zero(SumTag())
                   : hn::LoadU(SumTag(),
                               x.zeros + line * kLineSums + v * LanesOf())) {}
  HWY_INLINE Sums Dot(Bytes w) const {
    return AddProducts(zeros_, Nibbles<0>(w), low_, Nibbles<1>(w), high_);
  }

 private:
  Bytes low_, high_;
  Sums zeros_;
};

inline constexpr size_t kLineVectors = kCacheLine / kVectorBytes;

// The products of the scales of the next kScaledBlocks blocks of each row of a
// pass with those of x. Rows without groups have those of x.
template <WeightType type, size_t rows>
class RoundedScales {
 public:
  // Call it for the lines of a pass in turn. The scale and the minimum of block
  // 0 of a row lie at row[r] + offsets. Adds minimums times the sums of x to
  // partial sums, by block modulo their number. Fetches the scales and minimums
  // of the next pass.
  HWY_INLINE void Advance(size_t block, size_t blocks,
                          const std::byte* const* row,
                          const std::byte* const* next, GroupOffsets offsets,
                          const RoundedInput& x,
                          Vec (&partial)[rows][kLineVectors]) {
    if constexpr (kGrouped) {
      if (block % kScaledBlocks != 0) return;
      const auto group =
          static_cast<ptrdiff_t>(block / kBlocksPerGroup<type> * 2);
      offsets.scale += group;
      offsets.minimum += group;
      const size_t count = std::min(blocks - block, kScaledBlocks);
      for (size_t r = 0; r < rows; ++r) {
        // May read a few bytes of weights after the last scale. The analyzer
        // takes row[r] for unset: it does not see that ForEachRowBatch sets
        // all rows of a pass.
        // NOLINTBEGIN(clang-analyzer-core.UndefinedBinaryOperatorResult)
        for (size_t i = 0; i < count; i += LanesOf()) {
          hn::Store(hn::Mul(BlockScales<type>(row[r] + offsets.scale, i),
                            hn::LoadU(FloatTag(), x.scales + block + i)),
                    FloatTag(), scale_[r] + i);
        }
        if constexpr (kMinimums<type>) {
          AddMinimums(row[r] + offsets.minimum, x.sums + block, count,
                      partial[r]);
        }
        // NOLINTEND(clang-analyzer-core.UndefinedBinaryOperatorResult)
        for (size_t i = 0; i < count / kBlocksPerGroup<type> * 2;
             i += kCacheLine) {
          __builtin_prefetch(next[r] + offsets.scale + i, 0, 3);
          if constexpr (kMinimums<type>) {
            __builtin_prefetch(next[r] + offsets.minimum + i, 0, 3);
          }
        }
      }
    } else {
      x_scales_ = x.scales;
    }
  }
  HWY_INLINE const float* Of(size_t r, size_t block) const {
    if constexpr (kGrouped) {
      return scale_[r] + block % kScaledBlocks;
    } else {
      return x_scales_ + block;
    }
  }

 private:
  static constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;

  // Minimums and sums beyond the row are zero.
  static HWY_INLINE void AddMinimums(const std::byte* minimums,
                                     const float* sums, size_t count,
                                     Vec (&partial)[kLineVectors]) {
    static_assert(kBlocksPerGroup<type> == 1);
    static_assert(kScaledBlocks % kLineSums == 0);
    for (size_t i = 0; i < count; i += kLineSums) {
      Unroll<kLineVectors>([&](auto v) RANKFORGE_LAMBDA {
        const size_t at = i + v * LanesOf();
        partial[v] = hn::MulAdd(LoadHalves(minimums + at * 2),
                                hn::LoadU(FloatTag(), sums + at), partial[v]);
      });
    }
  }

  HWY_ALIGN float scale_[rows][kGrouped ? kScaledBlocks : 1];
  const float* x_scales_ = nullptr;
};

// sums (rows,) = row[i] . x. `next` are the rows of the next pass. The scale of
// a row is the caller's.
template <WeightType type, Prefetch prefetch>
struct RoundedPass {
  template <size_t rows>
  static HWY_NOINLINE void Run(const std::byte* const* row,
                               const std::byte* const* next,
                               const RowInput& input,
                               float* HWY_RESTRICT sums) {
    const FloatTag d;
    constexpr size_t kLine = kLineBlocks<type>;
    constexpr size_t kBlocks = kLine / kLineVectors;  // of a vector
    RoundedScales<type, rows> scales;
    const size_t all_blocks =
        RoundUp(input.blocks + (input.tail != nullptr), kLine);
    Vec partial[rows][kLineVectors];
    for (size_t r = 0; r < rows; ++r) {
      for (size_t v = 0; v < kLineVectors; ++v) partial[r][v] = hn::Zero(d);
    }
    const auto add_line = [&](size_t block, const std::byte* const* fetched,
                              ptrdiff_t ahead) RANKFORGE_LAMBDA {
      const size_t line = block / kLine;
      const size_t at = line * kCacheLine;
      scales.Advance(block, all_blocks, row, next, input.groups, input.rounded,
                     partial);
      Unroll<kLineVectors>([&](auto v) RANKFORGE_LAMBDA {
        const LineDot<type> dot(input.rounded, line, v);
        UnrollRuns<rows>([&](auto r) RANKFORGE_LAMBDA {
          // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult)
          if (v == 0) FetchBlock<prefetch, kCacheLine>(fetched[r] + at + ahead);
          const Bytes w = LoadBytes(row[r] + at + v * kVectorBytes);
          partial[r][v] = hn::MulAdd(
              hn::ConvertTo(d, dot.Dot(w)),
              SpreadBlocks<kBlocks>(scales.Of(r, block + v * kBlocks)),
              partial[r][v]);
        });
      });
    };
    size_t block = 0;
    const FetchPlan fetches =
        PlanFetches<type, prefetch, kLine>(row, next, all_blocks, input.ahead);
    for (const auto& stretch : fetches.stretches) {
      for (; block < stretch.end; block += kLine) {
        add_line(block, stretch.streams, stretch.ahead);
      }
    }
    ReduceRows(partial, sums);
  }
};

template <VariantSpec spec, class Shape>
void RoundedDot(const KernelArgs& args) {
  ForEachRowBatch<spec, Shape>(
      args, &RowPasses<RoundedPass<spec.type, spec.prefetch>, spec.per_pass>);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();
#endif  // RANKFORGE_MULTIPLIES_BYTES

#endif  // RANKFORGE_KERNELS_ROUNDED_ROUNDED_DOT_INL_H_
