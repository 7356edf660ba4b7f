// Masked columns of 4-bit weights with the factors of a batch of columns
// rounded to 8 bits: weights of two columns are multiplied and added as
// integers, those of a whole batch become f32 once. Compiled for the targets
// that multiply bytes.
//
// The factor of a column's group is its scale times the column's input. Those
// of the kRoundedBatch columns of a batch share a step: F = the largest
// magnitude / 127, q = factor / F rounded, y += F * (sum of q * weight), the
// sum being exact. Which columns share a batch follows from the order of visits
// alone, so results depend neither on the target nor on threads.
//
// Operations for 8 weights on AVX2: 1.5, and .3 for the factors; kColumnBatch
// takes 3.3.
#if defined(RANKFORGE_KERNELS_ROUNDED_COLUMNS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_COLUMNS_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_COLUMNS_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_COLUMNS_INL_H_
#endif

#include "kernels/bytes-inl.h"
#include "kernels/rounded_input.h"
#include "kernels/selection.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Outputs that a vector of nibbles holds, and the blocks that they are.
inline constexpr size_t kNibbleStep = 2 * kVectorBytes;
inline constexpr size_t kNibbleBlocks = kNibbleStep / kBlock;

// What the columns of a batch share of the next kScaledBlocks blocks.
template <WeightType type>
class RoundedFactors {
 public:
  // To be called for the steps of a pass in turn; the scale of block 0 of a
  // column lies at column[c] + offset. Fetches those of the next pass.
  HWY_INLINE void Advance(size_t block, size_t blocks,
                          const std::byte* const* column,
                          const std::byte* const* next, ptrdiff_t offset,
                          const float* value) {
    if (block % kScaledBlocks != 0) return;
    offset += static_cast<ptrdiff_t>(block / kBlocksPerGroup<type> * 2);
    const size_t count = std::min(blocks - block, kScaledBlocks);
    for (size_t i = 0; i < count; i += LanesOf()) {
      Round(column, offset, value, i);
    }
    for (size_t c = 0; c < kRoundedBatch; ++c) {
      for (size_t i = 0; i < count / kBlocksPerGroup<type> * 2;
           i += kCacheLine) {
        __builtin_prefetch(next[c] + offset + i, 0, 3);
      }
    }
  }
  // Of the blocks from `block` on, each spread over its lanes: q of columns 2 p
  // and 2 p + 1 in turn; -8 times the sum of all q; F.
  HWY_INLINE Bytes Pair(size_t p, size_t block) const {
    return hn::BitCast(ByteTag(), Spread(pair_[p], block));
  }
  HWY_INLINE Words Zeros(size_t block) const { return Spread(zeros_, block); }
  HWY_INLINE Vec Step(size_t block) const {
    return SpreadBlocks<kNibbleBlocks>(step_ + block % kScaledBlocks);
  }

 private:
  static constexpr size_t kPairs = kRoundedBatch / 2;

  static HWY_INLINE Words Spread(const int32_t* words, size_t block) {
    return SpreadWords<kNibbleBlocks>(words + block % kScaledBlocks);
  }

  // Factors of blocks i to i + LanesOf().
  HWY_INLINE void Round(const std::byte* const* column, ptrdiff_t offset,
                        const float* value, size_t i) {
    const FloatTag d;
    const SumTag di;
    Vec factor[kRoundedBatch];
    // Magnitudes compare as integers, where NaN is above all.
    const Sums magnitude = hn::Set(di, 0x7fffffff);
    Sums bits = hn::BitCast(di, hn::Set(d, kSmallestFactor));
    for (size_t c = 0; c < kRoundedBatch; ++c) {
      factor[c] = hn::Mul(BlockScales<type>(column[c] + offset, i),
                          hn::Set(d, value[c]));
      bits = hn::Max(bits, hn::And(hn::BitCast(di, factor[c]), magnitude));
    }
    const Vec largest = hn::BitCast(d, bits);
    const Vec inverse = hn::Div(hn::Set(d, 127), largest);
    Sums sum = hn::Zero(di);
    for (size_t p = 0; p < kPairs; ++p) {
      const Sums q0 = RoundToInt(hn::Mul(factor[2 * p], inverse));
      const Sums q1 = RoundToInt(hn::Mul(factor[2 * p + 1], inverse));
      sum = hn::Add(sum, hn::Add(q0, q1));
      hn::Store(hn::Or(hn::And(q0, hn::Set(di, 0xff)), hn::ShiftLeft<8>(q1)),
                di, pair_[p] + i);
    }
    hn::Store(hn::Mul(sum, hn::Set(di, -kNibbleZero)), di, zeros_ + i);
    hn::Store(hn::Div(largest, hn::Set(d, 127)), d, step_ + i);
  }

  // By block; of integers the lower 16 bits count.
  HWY_ALIGN int32_t pair_[kPairs][kScaledBlocks];
  HWY_ALIGN int32_t zeros_[kScaledBlocks];
  HWY_ALIGN float step_[kScaledBlocks];
};

// y (size,), whole steps, += the columns of a batch; `value` is 0 where there
// are fewer. The words hold sums of 8 products of 127 and 8.
template <WeightType type, Prefetch prefetch>
HWY_NOINLINE void RoundedColumnPass(const std::byte* const* column,
                                    const std::byte* const* next,
                                    const float* HWY_RESTRICT value,
                                    const ColumnRange& range,
                                    float* HWY_RESTRICT y) {
  const FloatTag d;
  const ByteTag d8;
  constexpr size_t kLine = kCacheLine / BlockBytes(type);
  const size_t blocks = range.size / kBlock;
  RoundedFactors<type> factors;
  const auto add_step = [&](size_t block) RANKFORGE_LAMBDA {
    const size_t at = block * BlockBytes(type);
    const Words zeros = factors.Zeros(block);
    Words sums[4] = {zeros, zeros, zeros, zeros};
    Unroll<kRoundedBatch / 2>([&](auto p) RANKFORGE_LAMBDA {
      const Bytes w0 = LoadBytes(column[2 * p] + at);
      const Bytes w1 = LoadBytes(column[2 * p + 1] + at);
      const Bytes q = factors.Pair(p, block);
      const Bytes pairs[2] = {hn::InterleaveLower(d8, w0, w1),
                              hn::InterleaveUpper(d8, w0, w1)};
      Unroll<2>([&](auto half) RANKFORGE_LAMBDA {
        sums[2 * half] =
            hn::Add(sums[2 * half], Products(Nibbles<0>(pairs[half]), q));
        sums[2 * half + 1] =
            hn::Add(sums[2 * half + 1], Products(Nibbles<1>(pairs[half]), q));
      });
    });
    const Vec step = factors.Step(block);
    float* const ys = y + block * kBlock;
    Unroll<4>([&](auto v) RANKFORGE_LAMBDA {
      float* const even = ys + 2 * v * LanesOf();
      float* const odd = even + LanesOf();
      hn::StoreU(hn::MulAdd(hn::ConvertTo(d, EvenWords(sums[v])), step,
                            hn::LoadU(d, even)),
                 d, even);
      hn::StoreU(hn::MulAdd(hn::ConvertTo(d, OddWords(sums[v])), step,
                            hn::LoadU(d, odd)),
                 d, odd);
    });
  };
  size_t block = 0;
  const FetchPlan fetches =
      PlanFetches<type, prefetch, kLine>(column, next, RoundUp(blocks, kLine));
  for (const auto& stretch : fetches.stretches) {
    for (; block < stretch.end; block += kLine) {
      factors.Advance(block, blocks, column, next, range.scales, value);
      for (size_t c = 0; c < kRoundedBatch; ++c) {
        FetchBlock<prefetch, kCacheLine>(
            stretch.streams[c] + block * BlockBytes(type) + stretch.ahead);
      }
      for (size_t b = block; b < std::min(block + kLine, blocks);
           b += kNibbleBlocks) {
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
// registers. Each 128 bits of a vector are bytes of one block; interleaved with
// those of another column, word vector 0 has the low and 1 the high nibbles of
// bytes 0 to 7, 2 and 3 those of bytes 8 to 15, and of each the even words come
// first. So outputs 8 i to 8 i + 7 of a block are, turn and turn about, in two
// of the eight f32 vectors of a step: 0, 4, 1, 5 in vector 2 (i % 2) + i / 2,
// the others in the fourth after it.
//
// y (size,), whole steps, from the order of outputs to that of sums or back.
enum class Order : uint8_t { kOutputs, kSums };

template <Order to>
HWY_INLINE void Reorder(float* HWY_RESTRICT y, size_t size) {
  const hn::Full128<float> d;
  for (; size > 0; size -= kNibbleStep, y += kNibbleStep) {
    HWY_ALIGN float step[kNibbleStep];
    for (size_t block = 0; block < kNibbleBlocks; ++block) {
      for (size_t i = 0; i < 4; ++i) {
        const size_t output = block * kBlock + 8 * i;
        const size_t sum = (2 * (i % 2) + i / 2) * LanesOf() + 4 * block;
        if constexpr (to == Order::kSums) {
          const auto low = hn::LoadU(d, y + output);
          const auto high = hn::LoadU(d, y + output + 4);
          hn::Store(hn::InterleaveLower(d, low, high), d, step + sum);
          hn::Store(hn::InterleaveUpper(d, low, high), d,
                    step + sum + 4 * LanesOf());
        } else {
          const auto even = hn::LoadU(d, y + sum);
          const auto odd = hn::LoadU(d, y + sum + 4 * LanesOf());
          hn::Store(hn::ConcatEven(d, odd, even), d, step + output);
          hn::Store(hn::ConcatOdd(d, odd, even), d, step + output + 4);
        }
      }
    }
    for (size_t i = 0; i < kNibbleStep; i += LanesOf()) {
      hn::StoreU(hn::Load(FloatTag(), step + i), FloatTag(), y + i);
    }
  }
}

template <VariantSpec spec>
void RoundedColumns(const KernelArgs& args) {
  static_assert(spec.batch == kRoundedBatch);
  constexpr size_t kGroup = FormatOf(spec.type).group;
  const size_t scale_bytes = ScaleBytes(spec.type, args.rows);
  StartSums(args);
  // Outputs [begin, begin + size), whole steps, in y.
  const auto add_columns = [&](size_t begin, size_t size, float* y) {
    const size_t weights = scale_bytes + BlockBytes(spec.type, begin);
    const size_t scales = begin / kGroup * 2;
    KernelArgs part = args;
    part.y = y;
    Reorder<Order::kSums>(y, size);
    ForEachColumnBatch<spec.batch>(
        part, static_cast<const std::byte*>(args.w) + weights, args.stride,
        {0, size,
         static_cast<ptrdiff_t>(scales) - static_cast<ptrdiff_t>(weights),
         nullptr},
        ColumnCursor<spec>(args, args.cols),
        &RoundedColumnPasses<spec.type, spec.prefetch>);
    Reorder<Order::kOutputs>(y, size);
  };
  const size_t size = args.row_end - args.row_begin;
  const size_t whole = size / kNibbleStep * kNibbleStep;
  if (whole > 0) add_columns(args.row_begin, whole, args.y + args.row_begin);
  if (whole < size) {
    // Weights are padded to a step, y is not.
    float* const y = args.y + args.row_begin + whole;
    HWY_ALIGN float tail[kNibbleStep] = {};
    std::copy_n(y, size - whole, tail);
    add_columns(args.row_begin + whole, kNibbleStep, tail);
    std::copy_n(tail, size - whole, y);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_ROUNDED_COLUMNS_INL_H_
