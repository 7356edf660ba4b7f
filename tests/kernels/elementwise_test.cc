// The vector operations against plain loops in double.
#include "kernels/layer/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/numbers/bfloat16.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

constexpr size_t kLengths[] = {1, 3, 8, 15, 16, 31, 32, 33, 100, 704};

TEST(Elementwise, RmsNorm) {
  for (const size_t n : kLengths) {
    const std::vector<float> x = RandomVector(n, 1), w = RandomVector(n, 2);
    double mean = 0;
    for (const float value : x) mean += double{value} * value / double(n);
    std::vector<float> out(n);
    RmsNorm(x.data(), w.data(), n, 1e-5f, out.data());
    for (size_t i = 0; i < n; ++i) {
      const double expected = x[i] / std::sqrt(mean + 1e-5) * w[i];
      EXPECT_NEAR(out[i], expected, 1e-5 * (1 + std::abs(expected)));
    }
  }
}

TEST(Elementwise, SoftmaxSumsToOneAndSurvivesLargeScores) {
  for (const size_t n : kLengths) {
    std::vector<float> x = RandomVector(n, 5, 3);
    for (float& value : x) value += 200;
    std::vector<double> expected(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += expected[i] = std::exp(x[i] - 200.0);
    Softmax(x.data(), n);
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], expected[i] / sum, 1e-5);
  }
}

TEST(Elementwise, RotateHalfKeepsTheNorm) {
  for (const size_t n : {2, 6, 32, 64, 100}) {
    std::vector<float> x = RandomVector(n, 6);
    const std::vector<float> before = x;
    std::vector<float> c(n / 2), s(n / 2);
    for (size_t i = 0; i < n / 2; ++i) {
      c[i] = std::cos(0.1f * float(i + 1));
      s[i] = std::sin(0.1f * float(i + 1));
    }
    RotateHalf(x.data(), c.data(), s.data(), n);
    for (size_t i = 0; i < n / 2; ++i) {
      const float a = before[i], b = before[i + n / 2];
      EXPECT_NEAR(x[i], a * c[i] - b * s[i], 1e-6);
      EXPECT_NEAR(x[i + n / 2], b * c[i] + a * s[i], 1e-6);
    }
  }
}

TEST(Elementwise, DotAndAdd) {
  for (const size_t n : kLengths) {
    const std::vector<float> a = RandomVector(n, 7), b = RandomVector(n, 8);
    double expected = 0;
    for (size_t i = 0; i < n; ++i) expected += double{a[i]} * b[i];
    EXPECT_NEAR(Dot(a.data(), b.data(), n), expected, 1e-4);
    std::vector<float> y = b;
    AddInPlace(a.data(), n, y.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(y[i], a[i] + b[i]);
  }
}

TEST(Elementwise, AllFiniteFindsEveryPlace) {
  for (const size_t n : {0, 1, 7, 16, 33}) {
    std::vector<float> x = RandomVector(n, 7);
    EXPECT_TRUE(AllFinite(x.data(), n));
    for (size_t i = 0; i < n; ++i) {
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        const float kept = std::exchange(x[i], bad);
        EXPECT_FALSE(AllFinite(x.data(), n)) << n << ", " << i;
        x[i] = kept;
      }
    }
    if (n > 0) x[n - 1] = 3.4e38f;
    EXPECT_TRUE(AllFinite(x.data(), n));
  }
}

TEST(Elementwise, ArgMaxTakesTheFirstAndIgnoresNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {nan, 1, 3, nan, 3, 2};
  EXPECT_EQ(ArgMax(x.data(), x.size()), 2u);
  EXPECT_EQ(ArgMax(x.data(), 1), 0u);
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(FromBf16(ToBf16(1.0f)), 1.0f);
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie: even
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_TRUE(
      std::isnan(FromBf16(ToBf16(std::numeric_limits<float>::quiet_NaN()))));
}

}  // namespace
}  // namespace rankforge
