#include "kernels/numbers/quantize.h"

#include <algorithm>
#include <limits>

#include "kernels/numbers/float16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/numbers/quantize.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/numbers/reduce-inl.h"
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// What a scale has to cover.
struct GroupRange {
  float largest;  // in magnitude, with its sign
  float squares;  // their sum
  bool finite;    // all of them are
};

GroupRange RangeOf(std::span<const float> values) {
  const FloatTag d;
  // Infinity times zero is NaN, and stays so in a sum.
  Vec high = hn::Zero(d), low = hn::Zero(d), zeros = hn::Zero(d);
  Vec squares[kBlockVectors];
  std::fill_n(squares, kBlockVectors, hn::Zero(d));
  for (size_t i = 0; i < values.size(); i += kBlock) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const Vec value = hn::LoadU(d, values.data() + i + v * LanesOf());
      high = hn::Max(high, value);
      low = hn::Min(low, value);
      zeros = hn::MulAdd(value, hn::Zero(d), zeros);
      squares[v] = hn::MulAdd(value, value, squares[v]);
    }
  }
  const float highest = hn::GetLane(hn::MaxOfLanes(d, high));
  const float lowest = hn::GetLane(hn::MinOfLanes(d, low));
  return {highest >= -lowest ? highest : lowest, ReduceBlock(squares),
          hn::AllTrue(d, hn::Eq(zeros, hn::Zero(d)))};
}

// integers = values / scale, rounded to nearest even and clamped to [low,
// high]. Returns the sum of the squared errors.
float RoundTo(std::span<const float> values, float scale, float low, float high,
              float* integers) {
  const FloatTag d;
  const Vec step = hn::Set(d, scale);
  Vec errors[kBlockVectors];
  std::fill_n(errors, kBlockVectors, hn::Zero(d));
  for (size_t i = 0; i < values.size(); i += kBlock) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const size_t at = i + v * LanesOf();
      const Vec value = hn::LoadU(d, values.data() + at);
      Vec q = hn::Zero(d);
      if (scale != 0) {
        q = hn::ConvertTo(
            d, hn::NearestInt(hn::Clamp(hn::Div(value, step), hn::Set(d, low),
                                        hn::Set(d, high))));
      }
      hn::StoreU(q, d, integers + at);
      const Vec error = hn::NegMulAdd(q, step, value);
      errors[v] = hn::MulAdd(error, error, errors[v]);
    }
  }
  return ReduceBlock(errors);
}

// The range of a type's integers. Chosen scales do not use -128, so that
// integers can change sign; 4-bit types use -8, which is one of only sixteen
// values.
struct IntegerRange {
  float low;
  float high;
};
IntegerRange RangeOf(const WeightFormat& format, Scales from) {
  const auto high = static_cast<float>((1 << (format.bits - 1)) - 1);
  const bool whole = format.bits == 4 || from == Scales::kGiven;
  return {whole ? -high - 1 : -high, high};
}

QuantizationError QuantizeGroup(std::span<const float> values,
                                const WeightFormat& format, Scales from,
                                float* integers, float& scale) {
  const GroupRange group = RangeOf(values);
  if (!group.finite) {
    std::fill_n(integers, values.size(), 1.0f);
    scale = std::numeric_limits<float>::quiet_NaN();
    return {};
  }
  const IntegerRange range = RangeOf(format, from);
  const auto round_to = [&](float step) {
    return RoundTo(values, step, range.low, range.high, integers);
  };
  if (from == Scales::kGiven) return {group.squares, round_to(scale)};
  const auto stored = [&](float exact) {
    return format.scaling == Scaling::kGroup ? FromF16(ToF16(exact)) : exact;
  };
  scale = stored(std::fabs(group.largest) / range.high);
  float error = round_to(scale);
  if (range.low != -range.high) {
    const float other = stored(group.largest / range.low);
    const float other_error = round_to(other);
    if (other_error < error) {
      scale = other;
      error = other_error;
    } else {
      round_to(scale);
    }
  }
  return {group.squares, error};
}

QuantizationError QuantizeRunOfTarget(std::span<const float> values,
                                      WeightType type, Scales from,
                                      float* integers, float* scales) {
  const WeightFormat& format = FormatOf(type);
  const size_t group = format.group == 0 ? values.size() : format.group;
  QuantizationError sum;
  for (size_t begin = 0; begin < values.size(); begin += group) {
    sum += QuantizeGroup(values.subspan(begin, group), format, from,
                         integers + begin, scales[begin / group]);
  }
  return sum;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(QuantizeRunOfTarget);
QuantizationError QuantizeRun(std::span<const float> values, WeightType type,
                              Scales from, float* integers, float* scales) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRunOfTarget)(values, type, from, integers,
                                                   scales);
}

}  // namespace rankforge
#endif  // HWY_ONCE
