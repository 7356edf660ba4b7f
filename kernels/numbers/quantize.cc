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
  float highest;
  float lowest;
  float squares;  // their sum
  bool finite;    // all of them are

  // In magnitude, with its sign.
  float largest() const { return highest >= -lowest ? highest : lowest; }
};

GroupRange RangeOf(std::span<const float> values) {
  const FloatTag d;
  Vec high = hn::LoadU(d, values.data()), low = high;
  // Infinity times zero is NaN, and stays so in a sum.
  Vec zeros = hn::Zero(d);
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
  return {hn::GetLane(hn::MaxOfLanes(d, high)),
          hn::GetLane(hn::MinOfLanes(d, low)), ReduceBlock(squares),
          hn::AllTrue(d, hn::Eq(zeros, hn::Zero(d)))};
}

// A group in integers: value ~ integer * scale + minimum.
struct GroupScale {
  float scale;
  float minimum = 0;
};

// integers = (values - minimum) / scale, rounded to nearest even and clamped to
// [low, high]. Returns the sum of the squared errors.
float RoundTo(std::span<const float> values, const GroupScale& group, float low,
              float high, float* integers) {
  const FloatTag d;
  const Vec step = hn::Set(d, group.scale);
  const Vec minimum = hn::Set(d, group.minimum);
  Vec errors[kBlockVectors];
  std::fill_n(errors, kBlockVectors, hn::Zero(d));
  for (size_t i = 0; i < values.size(); i += kBlock) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const size_t at = i + v * LanesOf();
      const Vec value = hn::Sub(hn::LoadU(d, values.data() + at), minimum);
      Vec q = hn::Zero(d);
      if (group.scale != 0) {
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

// The range of a type's integers. Chosen scales of 8 bits do not use -128, as
// the range is symmetric without it; 4-bit types use -8, which is one of only
// sixteen values.
struct IntegerRange {
  float low;
  float high;
};
IntegerRange RangeOf(const WeightFormat& format, Scales from) {
  if (format.has_minimum) {
    return {0, static_cast<float>((1 << format.bits) - 1)};
  }
  const auto high = static_cast<float>((1 << (format.bits - 1)) - 1);
  const bool whole = format.bits == 4 || from == Scales::kGiven;
  return {whole ? -high - 1 : -high, high};
}

float RoundedToHalf(float exact) { return FromF16(ToF16(exact)); }

// The scale and the minimum, not yet rounded, whose values lie nearest to those
// of a group that has these integers: linear regression.
GroupScale FitTo(std::span<const float> values, const float* integers) {
  double q = 0, qq = 0, v = 0, qv = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    q += integers[i];
    qq += integers[i] * integers[i];
    v += values[i];
    qv += integers[i] * values[i];
  }
  const auto n = static_cast<double>(values.size());
  const double spread = n * qq - q * q;
  if (spread == 0) return {0, static_cast<float>(v / n)};
  const double scale = (n * qv - q * v) / spread;
  return {static_cast<float>(scale), static_cast<float>((v - scale * q) / n)};
}

// Tries `first`, then `second`, rounds to what errs less, sets it as `group`
// and returns its error.
template <class RoundTo>
float Better(const GroupScale& first, const GroupScale& second,
             RoundTo round_to, GroupScale& group) {
  const float error = round_to(first);
  const float second_error = round_to(second);
  const bool takes_second = second_error < error;
  group = takes_second ? second : first;
  return takes_second ? second_error : round_to(first);
}

QuantizationError QuantizeGroup(std::span<const float> values,
                                const WeightFormat& format, Scales from,
                                float* integers, GroupScale& group) {
  const GroupRange found = RangeOf(values);
  if (!found.finite) {
    std::fill_n(integers, values.size(), 1.0f);
    group = {std::numeric_limits<float>::quiet_NaN()};
    return {};
  }
  const IntegerRange range = RangeOf(format, from);
  const auto round_to = [&](const GroupScale& tried) {
    return RoundTo(values, tried, range.low, range.high, integers);
  };
  if (from == Scales::kGiven) return {found.squares, round_to(group)};
  if (format.has_minimum) {
    // Which zero is the least of both signs depends on the target: adding 0
    // makes it the positive one.
    const float minimum = RoundedToHalf(found.lowest) + 0.0f;
    const GroupScale widest = {
        RoundedToHalf((found.highest - minimum) / range.high) + 0.0f, minimum};
    round_to(widest);
    const GroupScale fitted = FitTo(values, integers);
    return {found.squares,
            Better(widest,
                   {RoundedToHalf(fitted.scale), RoundedToHalf(fitted.minimum)},
                   round_to, group)};
  }
  const auto stored = [&](float exact) {
    return format.scaling == Scaling::kGroup ? RoundedToHalf(exact) : exact;
  };
  const GroupScale to_high = {stored(std::fabs(found.largest()) / range.high)};
  if (range.low == -range.high) {
    group = to_high;
    return {found.squares, round_to(group)};
  }
  return {found.squares, Better(to_high, {stored(found.largest() / range.low)},
                                round_to, group)};
}

QuantizationError QuantizeRunOfTarget(std::span<const float> values,
                                      WeightType type, Scales from,
                                      float* integers, float* scales,
                                      float* minimums) {
  const WeightFormat& format = FormatOf(type);
  const size_t size = format.group == 0 ? values.size() : format.group;
  QuantizationError sum;
  for (size_t begin = 0; begin < values.size(); begin += size) {
    const size_t i = begin / size;
    GroupScale group = {scales[i], format.has_minimum ? minimums[i] : 0};
    sum += QuantizeGroup(values.subspan(begin, size), format, from,
                         integers + begin, group);
    scales[i] = group.scale;
    if (format.has_minimum) minimums[i] = group.minimum;
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
                              Scales from, float* integers, float* scales,
                              float* minimums) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRunOfTarget)(values, type, from, integers,
                                                   scales, minimums);
}

}  // namespace rankforge
#endif  // HWY_ONCE
