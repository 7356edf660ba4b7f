#include "kernels/rounded/rounded_input.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rounded/rounded_input.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

using Int = hn::Vec<hn::RebindToSigned<FloatTag>>;

// The integers of a block of kBlock values, in order; its scale.
HWY_INLINE float RoundBlock(const float* HWY_RESTRICT x,
                            Int (&integers)[kBlockVectors]) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  // Infinity times zero is NaN, and stays so in a sum.
  Vec value[kBlockVectors];
  Vec largest = hn::Zero(d), zeros = hn::Zero(d);
  for (size_t v = 0; v < kBlockVectors; ++v) {
    value[v] = hn::LoadU(d, x + v * LanesOf());
    largest = hn::Max(largest, hn::Abs(value[v]));
    zeros = hn::MulAdd(value[v], hn::Zero(d), zeros);
  }
  if (!hn::AllTrue(d, hn::Eq(zeros, hn::Zero(d)))) {
    std::fill_n(integers, kBlockVectors, hn::Set(di, 1));
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float magnitude = hn::GetLane(hn::MaxOfLanes(d, largest));
  const float inverse = 127 / magnitude;
  const bool vanishes = std::isinf(inverse);
  const Vec factor = hn::Set(d, vanishes ? 0 : inverse);
  for (size_t v = 0; v < kBlockVectors; ++v) {
    integers[v] = hn::NearestInt(hn::Mul(value[v], factor));
  }
  return vanishes ? 0 : magnitude / 127;
}

HWY_INLINE void StoreInOrder(const Int (&integers)[kBlockVectors],
                             int8_t* HWY_RESTRICT to) {
  const hn::Rebind<int8_t, FloatTag> d8;
  for (size_t v = 0; v < kBlockVectors; ++v) {
    hn::StoreU(hn::DemoteTo(d8, integers[v]), d8, to + v * LanesOf());
  }
}

HWY_INLINE int32_t SumOf(const Int (&integers)[kBlockVectors]) {
  const hn::RebindToSigned<FloatTag> di;
  Int sum = integers[0];
  for (size_t v = 1; v < kBlockVectors; ++v) sum = hn::Add(sum, integers[v]);
  return hn::GetLane(hn::SumOfLanes(di, sum));
}

// Bytes 4 w to 4 w + 3 of the low nibbles are elements w, 16 + w, 4 + w and
// 20 + w, those of the high ones are 8 further on (NibblePositionOf): whole
// vectors of four, each moved to its byte.
HWY_INLINE void StoreByNibble(const Int (&integers)[kBlockVectors],
                              int8_t* HWY_RESTRICT low,
                              int8_t* HWY_RESTRICT high,
                              int32_t* HWY_RESTRICT zeros) {
  const hn::CappedTag<int32_t, 4> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  static_assert(hn::MaxLanes(d) == 4 || HWY_TARGET == HWY_SCALAR);
  HWY_ALIGN int32_t in_order[kBlock];
  for (size_t v = 0; v < kBlockVectors; ++v) {
    hn::Store(integers[v], hn::RebindToSigned<FloatTag>(),
              in_order + v * LanesOf());
  }
  for (size_t w = 0; w < 4; w += hn::MaxLanes(d)) {
    const auto byte_of = [&](size_t i) RANKFORGE_LAMBDA {
      return hn::And(hn::BitCast(du, hn::Load(d, in_order + i + w)),
                     hn::Set(du, 0xff));
    };
    const auto word = [&](size_t i) RANKFORGE_LAMBDA {
      return hn::Or(hn::Or(byte_of(i), hn::ShiftLeft<8>(byte_of(16 + i))),
                    hn::Or(hn::ShiftLeft<16>(byte_of(4 + i)),
                           hn::ShiftLeft<24>(byte_of(20 + i))));
    };
    hn::Store(word(0), du, reinterpret_cast<uint32_t*>(low) + w);
    hn::Store(word(8), du, reinterpret_cast<uint32_t*>(high) + w);
    auto sum = hn::Zero(d);
    for (size_t i = 0; i < kBlock; i += 4) {
      sum = hn::Add(sum, hn::Load(d, in_order + i + w));
    }
    hn::Store(hn::Mul(sum, hn::Set(d, -kNibbleZero)), d, zeros + w);
  }
}

// The bits of bf16 in the upper halves of words.
HWY_INLINE auto RoundToBf16(Vec value) {
  const hn::RebindToUnsigned<FloatTag> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), quiet, rounded);
}

// A block as bf16 weights are stored.
HWY_INLINE void StorePairs(const float* HWY_RESTRICT x,
                           uint32_t* HWY_RESTRICT to) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  for (size_t i = 0; i < kBlock / 2; i += LanesOf()) {
    const auto low = RoundToBf16(hn::LoadU(d, x + i));
    const auto high = RoundToBf16(hn::LoadU(d, x + kBlock / 2 + i));
    hn::Store(hn::Or(hn::ShiftRight<16>(low),
                     hn::And(high, hn::Set(du, 0xffff0000u))),
              du, to + i);
  }
}

RoundedInput RoundInputOfTarget(const float* x, size_t cols, WeightType type,
                                Layout layout, const RoundedStorage& storage) {
  const bool in_order = layout == Layout::kRows16;
  const bool nibbles = FormatOf(type).bits == 4;
  const bool minimums = FormatOf(type).has_minimum;
  const bool pairs = type == WeightType::kBf16;
  const size_t blocks = RoundedBlocks(cols);
  for (size_t block = 0; block < blocks; ++block) {
    const size_t begin = block * kBlock;
    HWY_ALIGN float tail[kBlock] = {};
    const float* values = x + begin;
    if (begin + kBlock > cols) {
      if (begin < cols) std::copy(values, x + cols, tail);
      values = tail;
    }
    if (pairs) {
      StorePairs(values, storage.pairs + block * (kBlock / 2));
      continue;
    }
    Int integers[kBlockVectors];
    storage.scales[block] = RoundBlock(values, integers);
    if (nibbles && in_order) {
      StoreInOrder(integers, storage.integers + begin);
      const int32_t sum = SumOf(integers);
      storage.zeros[block] = -kNibbleZero * sum;
      storage.sums[block] = storage.scales[block] * static_cast<float>(sum);
    } else if (nibbles) {
      const size_t line = block / kMaxLineBlocks,
                   place = block % kMaxLineBlocks;
      int8_t* const low = storage.integers + line * kMaxLineBlocks * kBlock +
                          place * kBlock / 2;
      int32_t* const zeros = storage.zeros + block * kBlockZeros;
      StoreByNibble(integers, low, low + kCacheLine, zeros);
      if (minimums) {
        const int32_t sum =
            std::accumulate(zeros, zeros + kBlockZeros, 0) / -kNibbleZero;
        storage.sums[block] = storage.scales[block] * static_cast<float>(sum);
      }
    } else {
      StoreInOrder(integers, storage.integers + begin);
    }
  }
  if (pairs) return {.pairs = storage.pairs};
  return {storage.integers, storage.scales,
          nibbles && !minimums ? storage.zeros : nullptr,
          minimums ? storage.sums : nullptr};
}

void RoundValuesOfTarget(const float* x, size_t cols, Activations activations,
                         float* out) {
  const FloatTag d;
  for (size_t begin = 0; begin < cols; begin += kBlock) {
    const size_t count = std::min(kBlock, cols - begin);
    HWY_ALIGN float values[kBlock] = {};
    std::copy_n(x + begin, count, values);
    if (activations == Activations::kBf16) {
      for (size_t i = 0; i < kBlock; i += LanesOf()) {
        const auto bits =
            hn::And(RoundToBf16(hn::Load(d, values + i)),
                    hn::Set(hn::RebindToUnsigned<FloatTag>(), 0xffff0000u));
        hn::Store(hn::BitCast(d, bits), d, values + i);
      }
    } else {
      Int integers[kBlockVectors];
      const Vec scale = hn::Set(d, RoundBlock(values, integers));
      for (size_t v = 0; v < kBlockVectors; ++v) {
        hn::Store(hn::Mul(hn::ConvertTo(d, integers[v]), scale), d,
                  values + v * LanesOf());
      }
    }
    std::copy_n(values, count, out + begin);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(RoundInputOfTarget);
RoundedInput RoundInput(const float* x, size_t cols, WeightType type,
                        Layout layout, const RoundedStorage& storage) {
  return HWY_DYNAMIC_DISPATCH(RoundInputOfTarget)(x, cols, type, layout,
                                                  storage);
}

HWY_EXPORT(RoundValuesOfTarget);
void RoundValues(const float* x, size_t cols, Activations activations,
                 float* out) {
  HWY_DYNAMIC_DISPATCH(RoundValuesOfTarget)(x, cols, activations, out);
}

}  // namespace rankforge
#endif  // HWY_ONCE
