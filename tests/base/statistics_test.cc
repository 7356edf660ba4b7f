#include "base/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

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
