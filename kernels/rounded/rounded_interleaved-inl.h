// Products of interleaved integer rows with an x that is rounded to integers:
// 16 rows at once, an output per lane, so that nothing is added across lanes
// and a row may be short. Compiled for the targets that multiply bytes.
//
// Four neighbours of a row are a word; their inputs are the same word for all
// rows. Sums over a block are exact, and are converted to f32 once per block
// and row. Each output is one FMA chain over the blocks: results do not depend
// on the target.
//
// Operations per block of 16 rows of 4-bit weights with VNNI: 24, for 288
// bytes. Rows of 576 weights have 9 lines in kRoundedDot, and 16 rows as many
// sums across lanes.
#if defined(RANKFORGE_KERNELS_ROUNDED_ROUNDED_INTERLEAVED_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_ROUNDED_INTERLEAVED_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_ROUNDED_INTERLEAVED_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_ROUNDED_INTERLEAVED_INL_H_
#endif

#include "kernels/gemv/cursor.h"
#include "kernels/rounded/bytes-inl.h"
#include "kernels/rounded/rounded_input.h"

#if RANKFORGE_MULTIPLIES_BYTES
HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

inline constexpr size_t kRowsTogether = RowsTogether(Layout::kRows16);
// Vectors of a line, and of the sums of its rows.
inline constexpr size_t kRowVectors = kCacheLine / kVectorBytes;
static_assert(kRowVectors * LanesOf() == kRowsTogether);

// Four neighbours of x for all rows.
HWY_INLINE Bytes RepeatInputs(const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, sizeof(word));
  return hn::BitCast(ByteTag(), hn::Set(SumTag(), word));
}

// `sums` + the products of a block of weights with its inputs x. `lines` has
// vector v of its first line.
template <WeightType type>
HWY_INLINE Sums AddBlock(Sums sums, const std::byte* lines, const int8_t* x) {
  constexpr size_t kLines =
      BlockBytes(type, kRowsTogether * kBlock) / kCacheLine;
  if constexpr (!kNibbles<type>) {
    Sums other = hn::Zero(SumTag());
    Unroll<kLines>([&](auto i) RANKFORGE_LAMBDA {
      const Bytes w = LoadBytes(lines + i * kCacheLine);
      const Sums products =
          SumOfProducts(Magnitudes(w), CopySigns(RepeatInputs(x + 4 * i), w));
      Sums& to = i % 2 == 0 ? sums : other;
      to = hn::Add(to, products);
    });
    return hn::Add(sums, other);
  } else {
#ifdef __AVX512VNNI__
    __m512i low = sums.raw, high = _mm512_setzero_si512();
    Unroll<kLines>([&](auto i) RANKFORGE_LAMBDA {
      const Bytes w = LoadBytes(lines + i * kCacheLine);
      low = _mm512_dpbusd_epi32(low, Nibbles<0>(w).raw,
                                RepeatInputs(x + 8 * i).raw);
      high = _mm512_dpbusd_epi32(high, Nibbles<1>(w).raw,
                                 RepeatInputs(x + 8 * i + 4).raw);
    });
    return hn::Add(Sums{low}, Sums{high});
#else
    // 32 products of 15 and 127 at most, in two words of 16 bits.
    static_assert(kBlock / 2 * 15 * 127 < 1 << 15);
    Words words = hn::Zero(WordTag());
    Unroll<kLines>([&](auto i) RANKFORGE_LAMBDA {
      const Bytes w = LoadBytes(lines + i * kCacheLine);
      words = hn::Add(words, Products(Nibbles<0>(w), RepeatInputs(x + 8 * i)));
      words =
          hn::Add(words, Products(Nibbles<1>(w), RepeatInputs(x + 8 * i + 4)));
    });
    return hn::Add(sums, AddPairs(words));
#endif
  }
}

// sums (kRowsTogether,) of the rows at `panel`, without the scales of runs.
template <WeightType type, Prefetch prefetch>
HWY_INLINE void InterleavedRows(const std::byte* panel, size_t cols,
                                const RoundedInput& x, ptrdiff_t ahead,
                                float* HWY_RESTRICT sums) {
  constexpr WeightFormat kFormat = FormatOf(type);
  constexpr size_t kStepBlocks = InterleavedColumns(type) / kBlock;
  constexpr size_t kStepBytes = InterleavedStepBytes(type);
  constexpr size_t kBlockBytes = BlockBytes(type, kRowsTogether * kBlock);
  const FloatTag d;
  Vec sum[kRowVectors];
  for (size_t v = 0; v < kRowVectors; ++v) sum[v] = hn::Zero(d);
  const size_t blocks = RoundUp(cols, InterleavedColumns(type)) / kBlock;
  for (size_t first = 0; first < blocks;
       first += kStepBlocks, panel += kStepBytes) {
    for (size_t i = 0; i < InterleavedScaleBytes(type); i += kCacheLine) {
      FetchBlock<prefetch, kCacheLine>(panel + i + ahead);
    }
    Unroll<kStepBlocks>([&](auto b) RANKFORGE_LAMBDA {
      const size_t block = first + b;
      const std::byte* lines =
          panel + InterleavedScaleBytes(type) + b * kBlockBytes;
      for (size_t i = 0; i < kBlockBytes; i += kCacheLine) {
        FetchBlock<prefetch, kCacheLine>(lines + i + ahead);
      }
      Unroll<kRowVectors>([&](auto v) RANKFORGE_LAMBDA {
        const Sums zero = kNibbles<type> && !kMinimums<type>
                              ? hn::Set(SumTag(), x.zeros[block])
                              : hn::Zero(SumTag());
        const Vec products =
            hn::ConvertTo(d, AddBlock<type>(zero, lines + v * kVectorBytes,
                                            x.integers + block * kBlock));
        const Vec x_scale = hn::Set(d, x.scales[block]);
        if constexpr (kFormat.group == 0) {
          sum[v] = hn::MulAdd(products, x_scale, sum[v]);
        } else {
          constexpr size_t kGroup = b * kBlock / kFormat.group;
          const std::byte* scales =
              panel + (kGroup * kRowsTogether + v * LanesOf()) * 2;
          sum[v] = hn::MulAdd(products, hn::Mul(LoadHalves(scales), x_scale),
                              sum[v]);
          if constexpr (kMinimums<type>) {
            sum[v] = hn::MulAdd(LoadHalves(scales + kCacheLine),
                                hn::Set(d, x.sums[block]), sum[v]);
          }
        }
      });
    });
  }
  for (size_t v = 0; v < kRowVectors; ++v) {
    hn::StoreU(sum[v], d, sums + v * LanesOf());
  }
}

template <VariantSpec spec>
void RoundedInterleaved(const KernelArgs& args) {
  const auto* w = static_cast<const std::byte*>(args.w);
  for (size_t row = args.row_begin; row < args.row_end; row += kRowsTogether) {
    HWY_ALIGN float sums[kRowsTogether];
    InterleavedRows<spec.type, spec.prefetch>(
        w + row / kRowsTogether * args.stride, args.cols, args.rounded,
        static_cast<ptrdiff_t>(args.ahead), sums);
    StoreInterleavedSums<spec.type>(args, row, sums);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();
#endif  // RANKFORGE_MULTIPLIES_BYTES

#endif  // RANKFORGE_KERNELS_ROUNDED_ROUNDED_INTERLEAVED_INL_H_
