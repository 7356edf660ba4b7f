// The kernels that round their input, for targets without instructions that
// multiply bytes: loops over integers, of the same sums in the same order as
// rounded_dot-inl.h, rounded_interleaved-inl.h and rounded_columns-inl.h. They
// exist so that 8-bit activations mean the same everywhere.
#if defined(RANKFORGE_KERNELS_ROUNDED_ROUNDED_GENERIC_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_ROUNDED_GENERIC_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_ROUNDED_GENERIC_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_ROUNDED_GENERIC_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/gemv/row_passes-inl.h"
#include "kernels/numbers/float16.h"
#include "kernels/rounded/bytes-inl.h"
#include "kernels/rounded/rounded_input.h"

#if !RANKFORGE_MULTIPLIES_BYTES
HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// a * b + c, rounded once where the target can.
HWY_INLINE float Fma(float a, float b, float c) {
#if HWY_NATIVE_FMA
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

HWY_INLINE float HalfAt(const std::byte* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof(half));
  return FromF16(half);
}

template <WeightType type>
inline constexpr bool kHasGroups = FormatOf(type).group != 0;

// Bytes from the scale of block 0 of a run to that of another.
template <WeightType type>
constexpr size_t ScaleAt(size_t block) {
  return kHasGroups<type> ? block * kBlock / FormatOf(type).group * 2 : 0;
}

// The stored integers of a block, in order.
template <WeightType type>
HWY_INLINE void LoadIntegers(const std::byte* block,
                             int32_t (&integers)[kBlock]) {
  for (size_t i = 0; i < kBlock; ++i) {
    if constexpr (kNibbles<type>) {
      const NibblePosition at = NibblePositionOf(i);
      integers[i] =
          std::to_integer<int32_t>(block[at.byte]) >> (at.high * 4) & 15;
    } else {
      integers[i] = static_cast<int8_t>(block[i]);
    }
  }
}

// One row of kRoundedDot.
template <WeightType type>
float GenericRowDot(const std::byte* row, const RowInput& input) {
  constexpr size_t kBlockSums = kLineSums / kLineBlocks<type>;
  const RoundedInput& x = input.rounded;
  float partial[kLineSums] = {};
  const size_t blocks =
      RoundUp(input.blocks + (input.tail != nullptr), kLineBlocks<type>);
  for (size_t block = 0; block < blocks; ++block) {
    if (kMinimums<type> && block % kScaledBlocks == 0) {
      const size_t end = std::min(blocks, block + kScaledBlocks);
      for (size_t b = block; b < end; ++b) {
        float& sum = partial[b % kLineSums];
        sum = Fma(HalfAt(row + input.groups.minimum + ScaleAt<type>(b)),
                  x.sums[b], sum);
      }
    }
    int32_t w[kBlock];
    LoadIntegers<type>(row + block * BlockBytes(type), w);
    int32_t sums[kBlockSums] = {};
    if (kNibbles<type> && !kMinimums<type>) {
      std::copy_n(x.zeros + block * kBlockZeros, kBlockSums, sums);
    }
    for (size_t i = 0; i < kBlock; ++i) {
      const size_t place =
          kNibbles<type> ? NibblePositionOf(i).byte / 4 : i / 4;
      sums[place] +=
          w[i] * x.integers[RoundedPosition<type>(block * kBlock + i)];
    }
    float scale = x.scales[block];
    if (kHasGroups<type>) {
      scale *= HalfAt(row + input.groups.scale + ScaleAt<type>(block));
    }
    float* const to = partial + block % kLineBlocks<type> * kBlockSums;
    for (size_t s = 0; s < kBlockSums; ++s) {
      to[s] = Fma(static_cast<float>(sums[s]), scale, to[s]);
    }
  }
  for (size_t half = kLineSums / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

template <WeightType type>
void GenericRowPasses(const std::byte* const* row, const std::byte* const*,
                      size_t count, const RowInput& input, float* sums) {
  for (size_t i = 0; i < count; ++i) {
    sums[i] = GenericRowDot<type>(row[i], input);
  }
}

// kRoundedInterleaved.
template <VariantSpec spec>
void GenericInterleaved(const KernelArgs& args) {
  constexpr WeightType kType = spec.type;
  constexpr size_t kRows = RowsTogether(Layout::kRows16);
  constexpr size_t kStepBlocks = InterleavedColumns(kType) / kBlock;
  constexpr size_t kBlockBytes = BlockBytes(kType, kRows * kBlock);
  constexpr size_t kNeighbours = kCacheLine / kRows;
  constexpr size_t kHalves = kNibbles<kType> ? 2 : 1;
  const RoundedInput& x = args.rounded;
  const size_t blocks = RoundUp(args.cols, InterleavedColumns(kType)) / kBlock;
  for (size_t row = args.row_begin; row < args.row_end; row += kRows) {
    HWY_ALIGN float sums[kRows] = {};
    const std::byte* const panel =
        static_cast<const std::byte*>(args.w) + row / kRows * args.stride;
    for (size_t block = 0; block < blocks; ++block) {
      const std::byte* const step =
          panel + block / kStepBlocks * InterleavedStepBytes(kType);
      const std::byte* lines = step + InterleavedScaleBytes(kType) +
                               block % kStepBlocks * kBlockBytes;
      const int8_t* inputs = x.integers + block * kBlock;
      int32_t products[kRows] = {};
      if (kNibbles<kType> && !kMinimums<kType>) {
        std::fill_n(products, kRows, x.zeros[block]);
      }
      for (size_t at = 0; at < kBlockBytes; at += kCacheLine) {
        for (size_t i = 0; i < kCacheLine; ++i) {
          const std::byte stored = lines[at + i];
          const size_t n = i % kNeighbours;
          int32_t& sum = products[i / kNeighbours];
          if constexpr (kNibbles<kType>) {
            const auto byte = std::to_integer<int32_t>(stored);
            sum +=
                (byte & 15) * inputs[n] + (byte >> 4) * inputs[kNeighbours + n];
          } else {
            sum += static_cast<int8_t>(stored) * inputs[n];
          }
        }
        inputs += kNeighbours * kHalves;
      }
      for (size_t r = 0; r < kRows; ++r) {
        float scale = x.scales[block];
        const std::byte* scales = step + r * 2;
        if constexpr (kHasGroups<kType>) {
          scales +=
              block % kStepBlocks * kBlock / FormatOf(kType).group * kRows * 2;
          scale *= HalfAt(scales);
        }
        sums[r] = Fma(static_cast<float>(products[r]), scale, sums[r]);
        if (kMinimums<kType>) {
          sums[r] = Fma(HalfAt(scales + kCacheLine), x.sums[block], sums[r]);
        }
      }
    }
    StoreInterleavedSums<kType>(args, row, sums);
  }
}

// What a batch of kRoundedColumns shares for a block.
struct GenericFactors {
  int32_t q[kRoundedBatch];
  float step;
};
HWY_INLINE GenericFactors RoundFactors(const float (&factors)[kRoundedBatch]) {
  GenericFactors rounded{{}, std::numeric_limits<float>::quiet_NaN()};
  float largest = kSmallestFactor;
  for (const float factor : factors) {
    if (!std::isfinite(factor)) return rounded;
    largest = std::max(largest, std::fabs(factor));
  }
  const float inverse = 127 / largest;
  for (size_t c = 0; c < kRoundedBatch; ++c) {
    rounded.q[c] = static_cast<int32_t>(std::nearbyint(factors[c] * inverse));
  }
  rounded.step = largest / 127;
  return rounded;
}

template <WeightType type>
void GenericColumnPasses(const std::byte* const* column,
                         const std::byte* const*, const float* value,
                         size_t count, const ColumnRange& range, float* y) {
  constexpr int32_t kZero = kNibbles<type> ? kNibbleZero : 0;
  for (size_t block = 0; block * kBlock < range.size; ++block) {
    const size_t scale_at = ScaleAt<type>(block);
    float factors[kRoundedBatch] = {};
    for (size_t c = 0; c < count; ++c) {
      const float scale =
          kHasGroups<type> ? HalfAt(column[c] + range.groups.scale + scale_at)
                           : 1;
      factors[c] = scale * value[c];
      if constexpr (kMinimums<type>) {
        static_assert(FormatOf(type).group == kBlock);
        const float centre =
            Fma(float{kNibbleZero}, scale,
                HalfAt(column[c] + range.groups.minimum + scale_at));
        range.group_sums[block] =
            Fma(centre, value[c], range.group_sums[block]);
      }
    }
    const GenericFactors rounded = RoundFactors(factors);
    int32_t sums[kBlock] = {};
    for (size_t c = 0; c < count; ++c) {
      int32_t w[kBlock];
      LoadIntegers<type>(column[c] + block * BlockBytes(type), w);
      for (size_t i = 0; i < kBlock; ++i) {
        sums[i] += rounded.q[c] * (w[i] - kZero);
      }
    }
    const size_t outputs = std::min(kBlock, range.size - block * kBlock);
    for (size_t i = 0; i < outputs; ++i) {
      float& sum = y[block * kBlock + i];
      sum = Fma(static_cast<float>(sums[i]), rounded.step, sum);
    }
  }
}

template <VariantSpec spec>
void GenericColumns(const KernelArgs& args) {
  StartSums(args);
  const auto* w = static_cast<const std::byte*>(args.w);
  const size_t scale_bytes = ScaleBytes(spec.type, args.rows);
  // As many outputs at a time as there is room for sums of groups.
  constexpr size_t kTile = size_t{1} << 12;
  for (size_t begin = args.row_begin; begin < args.row_end; begin += kTile) {
    const size_t size = std::min(kTile, args.row_end - begin);
    float group_sums[kTile / kBlock] = {};
    KernelArgs part = args;
    part.y = args.y + begin;
    ForEachColumnBatch<spec.per_pass>(
        part, w + scale_bytes + BlockBytes(spec.type, begin), args.stride,
        {0, size, GroupOffsetsOf(spec.type, args.rows, begin), group_sums,
         args.ahead},
        ColumnCursor<spec>(args, args.cols), &GenericColumnPasses<spec.type>);
    if constexpr (kMinimums<spec.type>) {
      for (size_t i = 0; i < size; ++i) part.y[i] += group_sums[i / kBlock];
    }
  }
}

template <VariantSpec spec, class Shape>
struct RoundedKernel {
  static void Run(const KernelArgs& args) {
    if constexpr (spec.algorithm == Algorithm::kRoundedDot) {
      ForEachRowBatch<spec, Shape>(args, &GenericRowPasses<spec.type>);
    } else if constexpr (spec.algorithm == Algorithm::kRoundedInterleaved) {
      GenericInterleaved<spec>(args);
    } else {
      GenericColumns<spec>(args);
    }
  }
};

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();
#endif  // !RANKFORGE_MULTIPLIES_BYTES

#endif  // RANKFORGE_KERNELS_ROUNDED_ROUNDED_GENERIC_INL_H_
