// Exact products of interleaved integer rows: 16 rows at once, an output per
// lane. Compiled once per target.
//
// Every output is one FMA chain over the blocks of its row; a block is one FMA
// chain over its weights, times the scale. On every target.
#if defined(RANKFORGE_KERNELS_GEMV_INTERLEAVED_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_GEMV_INTERLEAVED_INL_H_
#undef RANKFORGE_KERNELS_GEMV_INTERLEAVED_INL_H_
#else
#define RANKFORGE_KERNELS_GEMV_INTERLEAVED_INL_H_
#endif

#include <algorithm>

#include "kernels/gemv/cursor.h"
#include "kernels/numbers/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

inline constexpr size_t kInterleavedRows = RowsTogether(Layout::kRows16);
// Neighbours of a row that share a word.
inline constexpr size_t kNeighbours = kCacheLine / kInterleavedRows;
// Vectors of the sums of the rows, or of a line of their weights.
inline constexpr size_t kLaneVectors = kInterleavedRows / LanesOf();

// Weight `neighbour` of each word, of four of 8 or eight of 4 bits.
template <WeightType type, size_t neighbour>
HWY_INLINE Vec NeighbourOf(hn::Vec<hn::RebindToSigned<FloatTag>> words) {
  const hn::RebindToSigned<FloatTag> di;
  const FloatTag d;
  constexpr int kByte = static_cast<int>(neighbour % kNeighbours) * 8;
  if constexpr (kNibbles<type>) {
    constexpr int kShift = kByte + (neighbour < kNeighbours ? 0 : 4);
    const auto stored = hn::And(hn::ShiftRight<kShift>(words), hn::Set(di, 15));
    return hn::ConvertTo(d, hn::Sub(stored, hn::Set(di, NibbleZero(type))));
  } else {
    return hn::ConvertTo(d,
                         hn::ShiftRight<24>(hn::ShiftLeft<24 - kByte>(words)));
  }
}

// The scales or minimums of vector v of the rows. `halves`: those of all rows.
HWY_INLINE Vec HalvesOf(const std::byte* halves, size_t v) {
  return LoadHalves(halves + v * LanesOf() * 2);
}

// Adds a block to the sums of all rows. `step` is the step that holds it as its
// block b, `x` its inputs.
template <WeightType type, Prefetch prefetch, size_t b>
HWY_INLINE void AddInterleavedBlock(const std::byte* step,
                                    const float* HWY_RESTRICT x,
                                    ptrdiff_t ahead, Vec (&sum)[kLaneVectors]) {
  constexpr size_t kLine = kNeighbours * (kNibbles<type> ? 2 : 1);
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const std::byte* lines = step + InterleavedScaleBytes(type) +
                           b * BlockBytes(type, kInterleavedRows * kBlock);
  Vec products[kLaneVectors];
  for (size_t v = 0; v < kLaneVectors; ++v) products[v] = hn::Zero(d);
  for (size_t i = 0; i < kBlock; i += kLine, lines += kCacheLine) {
    FetchBlock<prefetch, kCacheLine>(lines + ahead);
    Unroll<kLaneVectors>([&](auto v) RANKFORGE_LAMBDA {
      const auto words = hn::LoadU(
          di, reinterpret_cast<const int32_t*>(lines) + v * LanesOf());
      Unroll<kLine>([&](auto c) RANKFORGE_LAMBDA {
        products[v] = hn::MulAdd(NeighbourOf<type, c>(words),
                                 hn::Set(d, x[i + c]), products[v]);
      });
    });
  }
  constexpr size_t kGroup = FormatOf(type).group;
  if constexpr (kGroup == 0) {
    for (size_t v = 0; v < kLaneVectors; ++v) {
      sum[v] = hn::Add(sum[v], products[v]);
    }
  } else {
    const std::byte* scales = step + b * kBlock / kGroup * kInterleavedRows * 2;
    for (size_t v = 0; v < kLaneVectors; ++v) {
      sum[v] = hn::MulAdd(products[v], HalvesOf(scales, v), sum[v]);
    }
    if constexpr (kMinimums<type>) {
      Vec inputs[kBlockVectors];
      for (size_t v = 0; v < kBlockVectors; ++v) {
        inputs[v] = hn::LoadU(d, x + v * LanesOf());
      }
      const Vec all = hn::Set(d, ReduceBlock(inputs));
      for (size_t v = 0; v < kLaneVectors; ++v) {
        sum[v] = hn::MulAdd(HalvesOf(scales + kCacheLine, v), all, sum[v]);
      }
    }
  }
}

template <VariantSpec spec>
void Interleaved(const KernelArgs& args) {
  constexpr size_t kStepBlocks = InterleavedColumns(spec.type) / kBlock;
  // x need not be padded: its last, partial block is copied.
  const size_t whole = args.cols / kBlock;
  const size_t blocks = (args.cols + kBlock - 1) / kBlock;
  HWY_ALIGN float tail[kBlock] = {};
  std::copy(args.x + whole * kBlock, args.x + args.cols, tail);
  const auto ahead = static_cast<ptrdiff_t>(args.ahead);
  for (size_t row = args.row_begin; row < args.row_end;
       row += kInterleavedRows) {
    const std::byte* step = static_cast<const std::byte*>(args.w) +
                            row / kInterleavedRows * args.stride;
    Vec sum[kLaneVectors];
    for (size_t v = 0; v < kLaneVectors; ++v) sum[v] = hn::Zero(FloatTag());
    for (size_t block = 0; block < blocks; block += kStepBlocks) {
      for (size_t i = 0; i < InterleavedScaleBytes(spec.type);
           i += kCacheLine) {
        FetchBlock<spec.prefetch, kCacheLine>(step + i + ahead);
      }
      Unroll<kStepBlocks>([&](auto b) RANKFORGE_LAMBDA {
        if (block + b < blocks) {
          AddInterleavedBlock<spec.type, spec.prefetch, b>(
              step, block + b < whole ? args.x + (block + b) * kBlock : tail,
              ahead, sum);
        }
      });
      step += InterleavedStepBytes(spec.type);
    }
    HWY_ALIGN float sums[kInterleavedRows];
    for (size_t v = 0; v < kLaneVectors; ++v) {
      hn::Store(sum[v], FloatTag(), sums + v * LanesOf());
    }
    StoreInterleavedSums<spec.type>(args, row, sums);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_GEMV_INTERLEAVED_INL_H_
