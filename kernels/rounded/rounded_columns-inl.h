// Masked columns of integer weights. The factors of a batch of columns are
// rounded to 8 bits, weights of two columns are multiplied and added as
// integers, and the sums of a batch are converted to f32 once. Compiled for the
// targets that multiply bytes.
//
// The factor of a column, or of one of its groups, is its scale times the
// column's input. Factors of the kRoundedBatch columns of a batch share a step:
// F = the largest magnitude / 127, q = factor / F rounded, y += F * (sum of q *
// weight), where the sum is exact. The order of visits alone decides which
// columns share a batch, so results depend neither on the target nor on
// threads.
//
// Weights with a minimum are taken as scale * (stored - 8) + (minimum + 8 *
// scale): the second part, equal for the outputs of a group, is added up with
// the column's input unrounded, and the first has the smaller integers, so that
// rounding costs as little as for symmetric weights.
//
// Operations per 8 weights on AVX2: 4-bit 1.5, 8-bit 1.9, and 0.3 for the
// factors of groups; kColumnBatch takes 3.3.
#if defined(RANKFORGE_KERNELS_ROUNDED_ROUNDED_COLUMNS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_ROUNDED_COLUMNS_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_ROUNDED_COLUMNS_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_ROUNDED_COLUMNS_INL_H_
#endif

#include "kernels/gemv/cursor.h"
#include "kernels/rounded/bytes-inl.h"
#include "kernels/rounded/rounded_input.h"

#if RANKFORGE_MULTIPLIES_BYTES
HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Outputs of one vector of weights, and how many blocks they are.
template <WeightType type>
inline constexpr size_t kStep = kVectorBytes * 8 / FormatOf(type).bits;
template <WeightType type>
inline constexpr size_t kStepBlocks = kStep<type> / kBlock;
// Columns that are interleaved: two share 16 bits (4-bit types), or four share
// 32 bits (8-bit types).
template <WeightType type>
inline constexpr size_t kPackColumns = kNibbles<type> ? 2 : 4;

// What the columns of a batch share for the next kScaledBlocks blocks, or for
// all blocks of a type without groups.
template <WeightType type>
class RoundedFactors {
 public:
  // Call it for the steps of a pass in turn. The scale and the minimum of block
  // 0 of a column lie at column[c] + offsets. Adds what is equal for the
  // outputs of a group to group_sums (types with minimums). Fetches the scales
  // and minimums of the next pass.
  HWY_INLINE void Advance(size_t block, size_t blocks,
                          const std::byte* const* column,
                          const std::byte* const* next, GroupOffsets offsets,
                          const float* value, float* group_sums) {
    if constexpr (kGrouped) {
      if (block % kScaledBlocks != 0) return;
      const size_t group = block / kBlocksPerGroup<type>;
      offsets.scale += static_cast<ptrdiff_t>(group * 2);
      offsets.minimum += static_cast<ptrdiff_t>(group * 2);
      const size_t count = std::min(blocks - block, kScaledBlocks);
      for (size_t i = 0; i < count; i += LanesOf()) {
        Round(column, offsets, value, i);
        if constexpr (kMinimums<type>) {
          AddCentres(column, offsets, value, i, group_sums + group);
        }
      }
      for (size_t c = 0; c < kRoundedBatch; ++c) {
        for (size_t i = 0; i < count / kBlocksPerGroup<type> * 2;
             i += kCacheLine) {
          __builtin_prefetch(next[c] + offsets.scale + i, 0, 3);
          if constexpr (kMinimums<type>) {
            __builtin_prefetch(next[c] + offsets.minimum + i, 0, 3);
          }
        }
      }
    } else if (block == 0) {
      Round(column, offsets, value, 0);
    }
  }
  // For the blocks from `block` on, each value repeated over its block's lanes:
  // q of the columns of pack p in turn; -8 times the sum of all q (4 bits); F.
  HWY_INLINE Bytes Pack(size_t p, size_t block) const {
    const int32_t* const packed = packed_[p] + PlaceOf(block);
    if constexpr (kNibbles<type>) {
      return hn::BitCast(ByteTag(), SpreadWords<kStepBlocks<type>>(packed));
    } else {
      return hn::BitCast(ByteTag(), SpreadBlocks<kStepBlocks<type>>(packed));
    }
  }
  HWY_INLINE Words Zeros(size_t block) const {
    return SpreadWords<kStepBlocks<type>>(zeros_ + PlaceOf(block));
  }
  HWY_INLINE Vec Step(size_t block) const {
    return SpreadBlocks<kStepBlocks<type>>(step_ + PlaceOf(block));
  }

 private:
  static constexpr size_t kPacks = kRoundedBatch / kPackColumns<type>;
  static constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;
  static constexpr size_t kKept = kGrouped ? kScaledBlocks : LanesOf();

  // Without groups all elements are equal.
  static HWY_INLINE size_t PlaceOf(size_t block) {
    return kGrouped ? block % kScaledBlocks : 0;
  }

  // Factors of blocks i to i + LanesOf().
  HWY_INLINE void Round(const std::byte* const* column,
                        const GroupOffsets& offsets, const float* value,
                        size_t i) {
    const FloatTag d;
    const SumTag di;
    Vec factor[kRoundedBatch];
    // Magnitudes are compared as integers, among which NaN is the largest.
    const Sums magnitude = hn::Set(di, 0x7fffffff);
    Sums bits = hn::BitCast(di, hn::Set(d, kSmallestFactor));
    for (size_t c = 0; c < kRoundedBatch; ++c) {
      factor[c] = hn::Set(d, value[c]);
      if constexpr (kGrouped) {
        factor[c] =
            hn::Mul(BlockScales<type>(column[c] + offsets.scale, i), factor[c]);
      }
      bits = hn::Max(bits, hn::And(hn::BitCast(di, factor[c]), magnitude));
    }
    const Vec largest = hn::BitCast(d, bits);
    const Vec inverse = hn::Div(hn::Set(d, 127), largest);
    Sums sum = hn::Zero(di);
    for (size_t p = 0; p < kPacks; ++p) {
      Sums packed = hn::Zero(di);
      Unroll<kPackColumns<type>>([&](auto place) RANKFORGE_LAMBDA {
        const size_t c = p * kPackColumns<type> + place;
        const Sums q = RoundToInt(hn::Mul(factor[c], inverse));
        sum = hn::Add(sum, q);
        const Sums byte = hn::And(q, hn::Set(di, 0xff));
        packed = hn::Or(packed, hn::ShiftLeft<8 * place>(byte));
      });
      hn::Store(packed, di, packed_[p] + i);
    }
    if constexpr (kNibbles<type>) {
      hn::Store(hn::Mul(sum, hn::Set(di, -kNibbleZero)), di, zeros_ + i);
    }
    hn::Store(hn::Div(largest, hn::Set(d, 127)), d, step_ + i);
  }

  // The same blocks: adds (minimum + 8 * scale) * value of each column.
  HWY_INLINE void AddCentres(const std::byte* const* column,
                             const GroupOffsets& offsets, const float* value,
                             size_t i, float* group_sums) {
    static_assert(kBlocksPerGroup<type> == 1);
    const FloatTag d;
    Vec sum = hn::LoadU(d, group_sums + i);
    for (size_t c = 0; c < kRoundedBatch; ++c) {
      const Vec centre =
          hn::MulAdd(hn::Set(d, float{kNibbleZero}),
                     LoadHalves(column[c] + offsets.scale + i * 2),
                     LoadHalves(column[c] + offsets.minimum + i * 2));
      sum = hn::MulAdd(centre, hn::Set(d, value[c]), sum);
    }
    hn::StoreU(sum, d, group_sums + i);
  }

  // By block. 4-bit types use the lower 16 bits of integers.
  HWY_ALIGN int32_t packed_[kPacks][kKept];
  HWY_ALIGN int32_t zeros_[kNibbles<type> ? kKept : 1];
  HWY_ALIGN float step_[kKept];
};

// The products of the weights at column[c] + at, c < kRoundedBatch, with the q
// of their block, added up over the columns: sums (kStep<type>,), in the order
// that Reorder describes.
template <WeightType type>
HWY_INLINE void SumBatch(const std::byte* const* column, size_t at,
                         const RoundedFactors<type>& factors, size_t block,
                         Sums* HWY_RESTRICT sums) {
  const ByteTag d8;
  const WordTag d16;
  Unroll<4>([&](auto v) RANKFORGE_LAMBDA { sums[v] = hn::Zero(SumTag()); });
  Unroll<kRoundedBatch / 4>([&](auto p) RANKFORGE_LAMBDA {
    Bytes w[4];
    Unroll<4>([&](auto i) RANKFORGE_LAMBDA {
      w[i] = LoadBytes(column[4 * p + i] + at);
    });
    const Bytes q = factors.Pack(p, block);
    // The signs of weights go to q, as -q fits in a byte. A stored -128 has no
    // negative.
    const auto add = [&](size_t v, Words four) RANKFORGE_LAMBDA {
      const Bytes weights = hn::BitCast(d8, four);
      sums[v] = hn::Add(
          sums[v], SumOfProducts(Magnitudes(weights), CopySigns(q, weights)));
    };
    const auto a = hn::BitCast(d16, hn::InterleaveLower(d8, w[0], w[1]));
    const auto b = hn::BitCast(d16, hn::InterleaveLower(d8, w[2], w[3]));
    add(0, hn::InterleaveLower(d16, a, b));
    add(1, hn::InterleaveUpper(d16, a, b));
    const auto c = hn::BitCast(d16, hn::InterleaveUpper(d8, w[0], w[1]));
    const auto d = hn::BitCast(d16, hn::InterleaveUpper(d8, w[2], w[3]));
    add(2, hn::InterleaveLower(d16, c, d));
    add(3, hn::InterleaveUpper(d16, c, d));
  });
}

template <WeightType type>
requires(kNibbles<type>) HWY_INLINE
    void SumBatch(const std::byte* const* column, size_t at,
                  const RoundedFactors<type>& factors, size_t block,
                  Sums* HWY_RESTRICT sums) {
  const ByteTag d8;
  // A word holds 8 products of 127 and 8.
  const Words zeros = factors.Zeros(block);
  Words words[4] = {zeros, zeros, zeros, zeros};
  Unroll<kRoundedBatch / 2>([&](auto p) RANKFORGE_LAMBDA {
    const Bytes w0 = LoadBytes(column[2 * p] + at);
    const Bytes w1 = LoadBytes(column[2 * p + 1] + at);
    const Bytes q = factors.Pack(p, block);
    const Bytes pairs[2] = {hn::InterleaveLower(d8, w0, w1),
                            hn::InterleaveUpper(d8, w0, w1)};
    Unroll<2>([&](auto half) RANKFORGE_LAMBDA {
      words[2 * half] =
          hn::Add(words[2 * half], Products(Nibbles<0>(pairs[half]), q));
      words[2 * half + 1] =
          hn::Add(words[2 * half + 1], Products(Nibbles<1>(pairs[half]), q));
    });
  });
  Unroll<4>([&](auto v) RANKFORGE_LAMBDA {
    sums[2 * v] = EvenWords(words[v]);
    sums[2 * v + 1] = OddWords(words[v]);
  });
}

// y (size,), whole steps, += the columns of a batch. A batch with fewer columns
// has the value 0 for the rest.
template <WeightType type, Prefetch prefetch>
HWY_NOINLINE void RoundedColumnPass(const std::byte* const* column,
                                    const std::byte* const* next,
                                    const float* HWY_RESTRICT value,
                                    const ColumnRange& range,
                                    float* HWY_RESTRICT y) {
  const FloatTag d;
  constexpr size_t kLine = kCacheLine / BlockBytes(type);
  const size_t blocks = range.size / kBlock;
  RoundedFactors<type> factors;
  const auto add_step = [&](size_t block) RANKFORGE_LAMBDA {
    constexpr size_t kVectors = kStep<type> / LanesOf();
    Sums sums[kVectors];
    SumBatch<type>(column, block * BlockBytes(type), factors, block, sums);
    const Vec step = factors.Step(block);
    Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
      float* const ys = y + block * kBlock + v * LanesOf();
      hn::StoreU(hn::MulAdd(hn::ConvertTo(d, sums[v]), step, hn::LoadU(d, ys)),
                 d, ys);
    });
  };
  size_t block = 0;
  const FetchPlan fetches = PlanFetches<type, prefetch, kLine>(
      column, next, RoundUp(blocks, kLine), range.ahead);
  for (const auto& stretch : fetches.stretches) {
    for (; block < stretch.end; block += kLine) {
      factors.Advance(block, blocks, column, next, range.groups, value,
                      range.group_sums);
      for (size_t c = 0; c < kRoundedBatch; ++c) {
        FetchBlock<prefetch, kCacheLine>(
            stretch.streams[c] + block * BlockBytes(type) + stretch.ahead);
      }
      for (size_t b = block; b < std::min(block + kLine, blocks);
           b += kStepBlocks<type>) {
        add_step(b);
      }
    }
  }
}

// Adds `count` <= kRoundedBatch columns.
template <WeightType type, Prefetch prefetch>
HWY_NOINLINE void RoundedColumnPasses(const std::byte* const* column,
                                      const std::byte* const* next,
                                      const float* value, size_t count,
                                      const ColumnRange& range, float* y) {
  float values[kRoundedBatch] = {};
  std::copy_n(value, count, values);
  RoundedColumnPass<type, prefetch>(column, next, values, range, y);
}

// While columns are added, y is kept in the order in which sums leave the
// registers. Each register holds a piece of every 128 bits of weights.
//
// 8 bits: 128 bits are 16 outputs. Interleaved with those of other columns,
// they come in fours to the same place of four vectors.
//
// 4 bits: 128 bits are a block. Interleaved with those of another column, word
// vector 0 has the low and vector 1 the high nibbles of bytes 0 to 7, vectors 2
// and 3 those of bytes 8 to 15, and in each the even words come first. Outputs
// 8 i to 8 i + 7 therefore alternate between two of the eight f32 vectors of a
// step: outputs 0, 4, 1, 5 are in vector 2 (i % 2) + i / 2, the others in the
// fourth vector after it.
enum class Order : uint8_t { kOutputs, kSums };

template <WeightType type, Order to>
HWY_INLINE void ReorderPiece(const float* HWY_RESTRICT from, size_t piece,
                             float* HWY_RESTRICT into) {
  const hn::Full128<float> d;
  for (size_t i = 0; i < 4; ++i) {
    const size_t output = piece * kBlock / 2 + 4 * i;
    const size_t sum = i * LanesOf() + 4 * piece;
    if constexpr (to == Order::kSums) {
      hn::Store(hn::LoadU(d, from + output), d, into + sum);
    } else {
      hn::Store(hn::LoadU(d, from + sum), d, into + output);
    }
  }
}

template <WeightType type, Order to>
requires(kNibbles<type>) HWY_INLINE
    void ReorderPiece(const float* HWY_RESTRICT from, size_t piece,
                      float* HWY_RESTRICT into) {
  const hn::Full128<float> d;
  for (size_t i = 0; i < 4; ++i) {
    const size_t output = piece * kBlock + 8 * i;
    const size_t sum = (2 * (i % 2) + i / 2) * LanesOf() + 4 * piece;
    const size_t fourth = sum + 4 * LanesOf();
    if constexpr (to == Order::kSums) {
      const auto low = hn::LoadU(d, from + output);
      const auto high = hn::LoadU(d, from + output + 4);
      hn::Store(hn::InterleaveLower(d, low, high), d, into + sum);
      hn::Store(hn::InterleaveUpper(d, low, high), d, into + fourth);
    } else {
      const auto a = hn::LoadU(d, from + sum);
      const auto b = hn::LoadU(d, from + fourth);
      hn::Store(hn::ConcatEven(d, b, a), d, into + output);
      hn::Store(hn::ConcatOdd(d, b, a), d, into + output + 4);
    }
  }
}

// y (size,), whole steps, from the order of outputs to that of sums or back.
template <WeightType type, Order to>
HWY_INLINE void Reorder(float* HWY_RESTRICT y, size_t size) {
  for (; size > 0; size -= kStep<type>, y += kStep<type>) {
    HWY_ALIGN float step[kStep<type>];
    for (size_t piece = 0; piece < kVectorBytes / 16; ++piece) {
      ReorderPiece<type, to>(y, piece, step);
    }
    std::copy_n(step, kStep<type>, y);
  }
}

template <VariantSpec spec>
void RoundedColumns(const KernelArgs& args) {
  static_assert(spec.per_pass == kRoundedBatch);
  constexpr size_t kWhole = kStep<spec.type>;
  const size_t scale_bytes = ScaleBytes(spec.type, args.rows);
  StartSums(args);
  // Outputs [begin, begin + size), whole steps, in y.
  const auto add_tile = [&](size_t begin, size_t size, float* y,
                            float* group_sums) {
    const size_t weights = scale_bytes + BlockBytes(spec.type, begin);
    KernelArgs part = args;
    part.y = y;
    Reorder<spec.type, Order::kSums>(y, size);
    ForEachColumnBatch<spec.per_pass>(
        part, static_cast<const std::byte*>(args.w) + weights, args.stride,
        {0, size, GroupOffsetsOf(spec.type, args.rows, begin), group_sums,
         args.ahead},
        ColumnCursor<spec>(args, args.cols),
        &RoundedColumnPasses<spec.type, spec.prefetch>);
    Reorder<spec.type, Order::kOutputs>(y, size);
  };
  const auto add_columns = [&](size_t begin, size_t size, float* y) {
    if constexpr (kMinimums<spec.type>) {
      // As in ColumnBatch.
      constexpr size_t kTile = size_t{1} << 17;
      constexpr size_t kGroup = FormatOf(spec.type).group;
      for (size_t done = 0; done < size; done += kTile) {
        const size_t tile = std::min(kTile, size - done);
        HWY_ALIGN float group_sums[kTile / kGroup + kBlock];
        std::fill_n(group_sums, tile / kGroup + kBlock, 0.0f);
        add_tile(begin + done, tile, y + done, group_sums);
        AddGroupSums<spec.type>(group_sums, tile, y + done);
      }
    } else {
      add_tile(begin, size, y, nullptr);
    }
  };
  const size_t size = args.row_end - args.row_begin;
  // Weights are padded to a step, y is not. Few outputs are copied to where
  // they are, as another walk over all columns for the last step costs as much
  // as kMostCopied outputs. Of many, the first are added in place.
  constexpr size_t kMostCopied = 2048;
  static_assert(kMostCopied % kWhole == 0);
  const size_t whole = size / kWhole * kWhole;
  const size_t in_place = size == whole         ? size
                          : size <= kMostCopied ? 0
                                                : whole;
  if (in_place > 0) {
    add_columns(args.row_begin, in_place, args.y + args.row_begin);
  }
  if (in_place < size) {
    HWY_ALIGN float copy[kMostCopied];
    float* const y = args.y + args.row_begin + in_place;
    const size_t rest = size - in_place;
    const size_t padded = RoundUp(rest, kWhole);
    std::fill(std::copy_n(y, rest, copy), copy + padded, 0.0f);
    add_columns(args.row_begin + in_place, padded, copy);
    std::copy_n(copy, rest, y);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();
#endif  // RANKFORGE_MULTIPLIES_BYTES

#endif  // RANKFORGE_KERNELS_ROUNDED_ROUNDED_COLUMNS_INL_H_
