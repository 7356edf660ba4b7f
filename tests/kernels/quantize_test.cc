// Rounding to integers with a shared scale, and to half precision.
#include "kernels/numbers/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/numbers/float16.h"

namespace rankforge {
namespace {

TEST(Float16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const float here = FromF16(static_cast<uint16_t>(half));
    const auto below = static_cast<uint16_t>(half);
    const auto above = static_cast<uint16_t>(half + 1);
    ASSERT_EQ(ToF16(here), below);
    ASSERT_EQ(ToF16(-here), below | 0x8000);
    // After the largest half comes what would be the next power of two.
    const float next = half == 0x7bff ? 65536.0f : FromF16(above);
    const float middle = here / 2 + next / 2;  // exact
    ASSERT_EQ(ToF16(middle), half % 2 == 0 ? below : above);
    ASSERT_EQ(ToF16(std::nextafter(middle, 0.0f)), below);
    ASSERT_EQ(ToF16(std::nextafter(middle, 1e9f)), above);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ToF16(infinity), 0x7c00);
  EXPECT_EQ(ToF16(-infinity), 0xfc00);
  EXPECT_TRUE(std::isnan(FromF16(ToF16(std::nanf("")))));
  EXPECT_EQ(FromF16(0x7c00), infinity);
}

// One group, padded with zeros.
struct Quantized {
  std::vector<float> integers;
  float scale = 0;
  float minimum = 0;
  QuantizationError error;
};
Quantized QuantizeOne(std::vector<float> values, WeightType type) {
  const size_t count = values.size();
  const size_t group = FormatOf(type).group;
  values.resize(RoundUp(count, group == 0 ? kBlock : group));
  Quantized result;
  result.integers.resize(values.size());
  result.error =
      QuantizeRun(values, type, Scales::kChosen, result.integers.data(),
                  &result.scale, &result.minimum);
  result.integers.resize(count);
  return result;
}

using Integers = std::vector<float>;

TEST(Quantize, EightBitsReachTheLargestMagnitude) {
  const Quantized result =
      QuantizeOne({0.1f, -2.54f, 0.02f, 1.25f}, WeightType::kI8);
  EXPECT_FLOAT_EQ(result.scale, 0.02f);
  EXPECT_EQ(result.integers, (Integers{5, -127, 1, 62}));  // 62.5 goes to even
}

TEST(Quantize, FourBitsUseTheEighthStepWhereItPays) {
  // One sign: the largest is -8, and the negative scale restores its sign.
  const Quantized one_sign = QuantizeOne({8, 3, -2, 7}, WeightType::kI4Group32);
  EXPECT_FLOAT_EQ(one_sign.scale, -1);
  EXPECT_EQ(one_sign.integers, (Integers{-8, -3, 2, -7}));
  // Both signs: 8 steps do not reach the other sign.
  const Quantized both = QuantizeOne({7, -7, 7, -7}, WeightType::kI4Group64);
  EXPECT_FLOAT_EQ(both.scale, 1);
  EXPECT_EQ(both.integers, (Integers{7, -7, 7, -7}));
}

TEST(Quantize, MinimumsTakeTheWholeRange) {
  // 16 steps of 0.5 from -1 on, and none of them for a zero that is not there.
  std::vector<float> values(32);
  for (size_t i = 0; i < 32; ++i) {
    values[i] = -1 + 0.5f * static_cast<float>(i * 7 % 16);
  }
  const Quantized exact = QuantizeOne(values, WeightType::kI4mGroup32);
  EXPECT_EQ(exact.scale, 0.5f);
  EXPECT_EQ(exact.minimum, -1);
  EXPECT_EQ(exact.error.error, 0);
  for (float& value : values) value += 101;
  const Quantized above = QuantizeOne(values, WeightType::kI4mGroup32);
  EXPECT_EQ(above.minimum, 100);
  EXPECT_EQ(above.integers, exact.integers);
  // All equal: no step at all.
  const Quantized flat =
      QuantizeOne(std::vector<float>(32, 0.75f), WeightType::kI4mGroup32);
  EXPECT_EQ(flat.minimum, 0.75f);
  EXPECT_EQ(flat.error.error, 0);
}

TEST(Quantize, FittedMinimumsErrLessThanExtremes) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  double fitted = 0, extremes = 0;
  for (size_t round = 0; round < 200; ++round) {
    std::vector<float> values(32);
    for (float& value : values) value = normal(random);
    fitted += QuantizeOne(values, WeightType::kI4mGroup32).error.error;
    const auto [low, high] = std::ranges::minmax(values);
    const float step = (high - low) / 15;
    for (const float value : values) {
      const float error = value - low - std::round((value - low) / step) * step;
      extremes += double{error} * error;
    }
  }
  EXPECT_LT(fitted, 0.97 * extremes);
  EXPECT_GT(fitted, 0.5 * extremes);
}

TEST(Quantize, RunsOfGroupsAgreeWithTheirDefinition) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (const WeightType type : kWeightTypes) {
    if (!IsQuantized(type)) continue;
    const WeightFormat& format = FormatOf(type);
    std::vector<float> values(256);
    for (float& value : values) value = normal(random);
    const size_t group = format.group == 0 ? values.size() : format.group;
    std::vector<float> integers(values.size()), scales(values.size() / group);
    std::vector<float> minimums(scales.size());
    const QuantizationError sum =
        QuantizeRun(values, type, Scales::kChosen, integers.data(),
                    scales.data(), minimums.data());
    QuantizationError expected;
    for (size_t i = 0; i < values.size(); ++i) {
      const float scale = scales[i / group];
      if (format.scaling == Scaling::kGroup) {
        EXPECT_EQ(FromF16(ToF16(scale)), scale);
        EXPECT_EQ(FromF16(ToF16(minimums[i / group])), minimums[i / group]);
      }
      const float zero = format.has_minimum ? -8 : 0;
      EXPECT_EQ(integers[i], std::round(integers[i]));
      EXPECT_LE(integers[i] + zero, format.bits == 4 ? 7 : 127);
      EXPECT_GE(integers[i] + zero, format.bits == 4 ? -8 : -127);
      // Half a step, a whole one beyond the last; f16 scales may miss by 2^-11
      // of the largest magnitude, a 16th of a step of 8 bits.
      const float error = values[i] - integers[i] * scale - minimums[i / group];
      EXPECT_LE(std::fabs(error / scale), format.bits == 4 ? 1.01f : 0.57f);
      expected += {double{values[i]} * values[i], double{error} * error};
    }
    EXPECT_NEAR(sum.squares, expected.squares, 1e-6 * expected.squares);
    EXPECT_NEAR(sum.error, expected.error, 1e-4 * expected.error);
  }
}

TEST(Quantize, GivenScalesKeepWhatTheyHold) {
  // Largest magnitudes that a chosen scale would not give: 3 (not 7), 128 (not
  // 127).
  for (const WeightType type : {WeightType::kI4Group32, WeightType::kI8Group32,
                                WeightType::kI4mGroup32}) {
    const WeightFormat& format = FormatOf(type);
    std::vector<float> values(64), integers(64);
    std::vector<float> scales = {0.25f, 0.1875f};
    std::vector<float> minimums = {-0.5f, 3.0f};
    if (!format.has_minimum) minimums = {0, 0};
    for (size_t i = 0; i < 64; ++i) {
      const int span = format.bits == 4 ? 7 : 256;
      const int least = format.has_minimum ? 3 : -span / 2;
      const int integer = static_cast<int>(i * 37) % span + least;
      values[i] =
          static_cast<float>(integer) * scales[i / 32] + minimums[i / 32];
    }
    const QuantizationError error =
        QuantizeRun(values, type, Scales::kGiven, integers.data(),
                    scales.data(), minimums.data());
    EXPECT_EQ(error.error, 0);
    EXPECT_EQ(scales, (std::vector<float>{0.25f, 0.1875f}));
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(integers[i] * scales[i / 32] + minimums[i / 32], values[i]);
    }
  }
}

TEST(Quantize, ZerosTinyAndInfiniteValues) {
  const Quantized zeros = QuantizeOne({0, 0}, WeightType::kI8);
  EXPECT_EQ(zeros.scale, 0);
  EXPECT_EQ(zeros.integers, (Integers{0, 0}));
  // Too small for the steps of f16.
  const Quantized tiny = QuantizeOne({1e-9f, 0}, WeightType::kI8Group32);
  EXPECT_EQ(tiny.scale, 0);
  EXPECT_EQ(tiny.integers, (Integers{0, 0}));
  // The scale is the smallest f32 there is.
  const Quantized denormal = QuantizeOne({1.8e-43f, 0}, WeightType::kI8);
  EXPECT_EQ(denormal.integers[1], 0);
  EXPECT_LE(denormal.integers[0], 127);
  // Their squares are beyond f32.
  const Quantized large = QuantizeOne({1.27e30f, -1e28f}, WeightType::kI8);
  EXPECT_EQ(large.integers, (Integers{127, -1}));
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const WeightType type :
         {WeightType::kI4Group32, WeightType::kI4mGroup32}) {
      const Quantized result = QuantizeOne({bad, 1}, type);
      EXPECT_TRUE(std::isnan(result.scale));
      EXPECT_EQ(result.integers, (Integers{1, 1}));
    }
  }
}

}  // namespace
}  // namespace rankforge
