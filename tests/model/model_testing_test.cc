// The comparison that golden, family, forward and A3 tests rest on.
#include "tests/model/model_testing.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace rankforge {
namespace {

float Largest(const std::vector<float>& a, const std::vector<float>& b) {
  return LargestDifference(a, b);
}

TEST(LargestDifferenceTest, IsTheLargest) {
  EXPECT_EQ(Largest({}, {}), 0);
  EXPECT_EQ(Largest({1, 2, 3}, {1, 2, 3}), 0);
  EXPECT_EQ(Largest({100, 0, 1}, {0, 1, 1}), 100);
  EXPECT_EQ(Largest({0, 1, 1}, {0, -1, 1.5f}), 2);
}

TEST(LargestDifferenceTest, NanIsNeverEqual) {
  EXPECT_TRUE(std::isnan(Largest({100, NAN, 1, 2}, {0, 1, 1, 2})));
  EXPECT_TRUE(std::isnan(Largest({0, 1, 1, 2}, {100, NAN, 1, 2})));
  EXPECT_TRUE(std::isnan(Largest({NAN}, {NAN})));
  EXPECT_TRUE(std::isnan(Largest({1, 2, NAN}, {1, 2, 3})));
}

TEST(LargestDifferenceTest, Infinities) {
  EXPECT_EQ(Largest({INFINITY, -INFINITY}, {INFINITY, -INFINITY}), 0);
  EXPECT_EQ(Largest({INFINITY, 1}, {2, 1}), INFINITY);
  EXPECT_EQ(Largest({-INFINITY}, {INFINITY}), INFINITY);
}

TEST(LargestDifferenceTest, SizesMustBeEqual) {
  float difference = 0;
  EXPECT_NONFATAL_FAILURE(difference = Largest({1, 2}, {1}), "a.size()");
  EXPECT_TRUE(std::isnan(difference));
}

}  // namespace
}  // namespace rankforge
