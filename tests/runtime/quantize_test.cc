// Rounding to integers with a shared scale, and to half precision.
#include "runtime/quantize.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <limits>
#include <random>
#include <vector>

#include "kernels/float16.h"

namespace rankforge {
namespace {

TEST(Float16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const float here = FromF16(static_cast<uint16_t>(half));
    const auto below = static_cast<uint16_t>(half);
    const auto above = static_cast<uint16_t>(half + 1);
    ASSERT_EQ(ToF16(here), below);
    ASSERT_EQ(ToF16(-here), below | 0x8000);
    // Beyond the largest half lies what would be the next power of two.
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

TEST(Quantize, EightBitsReachTheLargestMagnitude) {
  const std::vector<float> values = {0.1f, -2.54f, 0.02f, 1.27f};
  std::array<float, 4> q{};
  const float scale = Quantize(values, 8, false, q.data());
  EXPECT_FLOAT_EQ(scale, 0.02f);
  EXPECT_EQ(q, (std::array<float, 4>{5, -127, 1, 64}));  // 63.5 goes up
}

TEST(Quantize, FourBitsUseTheEighthStepWhereItPays) {
  std::array<float, 4> q{};
  // One sign: -8 at the largest, and the negative scale turns it round.
  EXPECT_FLOAT_EQ(Quantize(std::vector<float>{8, 3, -2, 7}, 4, true, q.data()),
                  -1);
  EXPECT_EQ(q, (std::array<float, 4>{-8, -3, 2, -7}));
  // Both signs: 8 steps cannot reach the other one.
  EXPECT_FLOAT_EQ(Quantize(std::vector<float>{7, -7, 7, -7}, 4, true, q.data()),
                  1);
  EXPECT_EQ(q, (std::array<float, 4>{7, -7, 7, -7}));
}

TEST(Quantize, HalfScalesAreHalves) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 100; ++i) {
    std::array<float, 32> values;
    for (float& value : values) value = normal(random);
    std::array<float, 32> q{};
    for (const size_t bits : {4, 8}) {
      const float scale = Quantize(values, bits, true, q.data());
      EXPECT_EQ(FromF16(ToF16(scale)), scale);
      for (const float integer : q) {
        EXPECT_EQ(integer, std::round(integer));
        EXPECT_LE(integer, bits == 4 ? 7 : 127);
        EXPECT_GE(integer, bits == 4 ? -8 : -127);
      }
    }
  }
}

TEST(Quantize, ZerosTinyAndInfiniteValues) {
  std::array<float, 2> q{};
  EXPECT_EQ(Quantize(std::vector<float>{0, 0}, 8, false, q.data()), 0);
  EXPECT_EQ(q, (std::array<float, 2>{0, 0}));
  // Too small for the steps of f16.
  EXPECT_EQ(Quantize(std::vector<float>{1e-9f, 0}, 8, true, q.data()), 0);
  EXPECT_EQ(q, (std::array<float, 2>{0, 0}));
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_TRUE(
        std::isnan(Quantize(std::vector<float>{bad, 1}, 4, true, q.data())));
    EXPECT_EQ(q, (std::array<float, 2>{1, 1}));
  }
}

}  // namespace
}  // namespace rankforge
