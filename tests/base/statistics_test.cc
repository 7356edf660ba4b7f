#include "base/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace rankforge {
namespace {

TEST(StatisticsTest, MedianOfFewValues) {
  EXPECT_EQ(Median({}), 0);
  EXPECT_EQ(Median({3}), 3);
  EXPECT_EQ(Median({4, 2}), 3);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({1, 100, 3, 2}), 2.5);
}

TEST(StatisticsTest, SummaryIgnoresAnOutlierInAllButTheMinimum) {
  const std::vector<double> ns = {10, 11, 12, 13, 1000};
  const Timing timing = Summarise(ns);
  EXPECT_EQ(timing.median, 12);
  EXPECT_EQ(timing.mad, 1);
  EXPECT_EQ(timing.min, 10);
  EXPECT_EQ(timing.n, 5u);
}

TEST(StatisticsTest, NothingMeasuredIsAllZero) {
  const Timing timing = Summarise({});
  EXPECT_EQ(timing.median, 0);
  EXPECT_EQ(timing.n, 0u);
  EXPECT_EQ(EstimateOf(timing).error, 0);
}

// Ends of 5 % leave out as many values at each end as the sign test allows.
TEST(StatisticsTest, IntervalOfAMedianIsMadeOfItsValues) {
  const auto of_first = [](size_t n) {
    std::vector<double> values;
    for (size_t i = 0; i < n; ++i) {
      values.push_back(static_cast<double>(i * 7 % n));  // 7 and n coprime
    }
    return MedianInterval(values);
  };
  for (const size_t n : {1, 2, 3, 4}) {
    EXPECT_EQ(of_first(n).low, -INFINITY) << n;
    EXPECT_EQ(of_first(n).high, INFINITY) << n;
  }
  EXPECT_EQ(MedianInterval({}).high, INFINITY);
  // Chances of too few heads: 1 of 32; 1 of 64, 7 of 64; 9 of 256, 37 of 256;
  // 11 of 1024, 56 of 1024; 21700 of 2^20, 60460 of 2^20.
  for (const auto& [n, left_out] : std::vector<std::pair<size_t, double>>{
           {5, 0}, {6, 0}, {8, 1}, {10, 1}, {20, 5}}) {
    EXPECT_EQ(of_first(n).low, left_out) << n;
    EXPECT_EQ(of_first(n).high, static_cast<double>(n) - 1 - left_out) << n;
  }
  // 0.5^2000 is no double.
  std::vector<double> many(2000);
  std::iota(many.begin(), many.end(), 0);
  EXPECT_EQ(MedianInterval(many).low, 962);
  EXPECT_EQ(MedianInterval(many).high, 1999 - 962);
}

TEST(StatisticsTest, IntervalMissesTheMedianAsOftenAsItSays) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> skewed(0, 1);  // median 1
  constexpr int kRuns = 4000;
  for (const size_t n : {5, 8, 25}) {
    int above = 0;
    int below = 0;
    for (int run = 0; run < kRuns; ++run) {
      std::vector<double> values(n);
      for (double& value : values) value = skewed(random);
      const Interval interval = MedianInterval(values);
      above += interval.low > 1 ? 1 : 0;
      below += interval.high < 1 ? 1 : 0;
    }
    EXPECT_LT(above, 0.06 * kRuns) << n;
    EXPECT_LT(below, 0.06 * kRuns) << n;
    EXPECT_GT(above, 0.01 * kRuns) << n;
  }
}

// The error says how far medians of n normal values spread.
TEST(StatisticsTest, ErrorMatchesTheSpreadOfMedians) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> noise(1000, 20);
  std::vector<double> medians;
  double mean_error = 0;
  constexpr int kRuns = 400;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<double> ns(25);
    for (double& value : ns) value = noise(random);
    const Estimate estimate = EstimateOf(Summarise(ns));
    medians.push_back(estimate.ns);
    mean_error += estimate.error / kRuns;
  }
  double variance = 0;
  for (const double median : medians) {
    variance += std::pow(median - 1000, 2) / kRuns;
  }
  EXPECT_NEAR(mean_error, std::sqrt(variance), 0.25 * std::sqrt(variance));
}

TEST(StatisticsTest, TiesNeedNoiseAndEndAtTheMargin) {
  EXPECT_TRUE(Tied({100, 1}, {101, 1}, 0.02));
  EXPECT_TRUE(Tied({101, 1}, {100, 1}, 0.02));
  // Without noise the lower one is lower.
  EXPECT_FALSE(Tied({100, 0}, {101, 0}, 0.02));
  EXPECT_TRUE(Tied({100, 0}, {100, 0}, 0.02));
  // Beyond the margin no noise makes a tie.
  EXPECT_FALSE(Tied({100, 50}, {103, 50}, 0.02));
}

}  // namespace
}  // namespace rankforge
