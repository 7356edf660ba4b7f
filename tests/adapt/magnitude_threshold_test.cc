#include "adapt/math/magnitude_threshold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

TEST(MagnitudeThreshold, IsTheCountThLargest) {
  // More than one part, so that the parallel path counts.
  const std::vector<float> values = RandomMatrix(600, 1000, 3).values;
  std::vector<float> sorted = values;
  for (float& v : sorted) v = std::fabs(v);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const auto one = MakeSerialExecutor();
  const auto two = MakeTeamExecutor(2);
  for (const size_t count :
       {size_t{1}, size_t{2}, size_t{77}, size_t{300'000}, values.size() - 1}) {
    EXPECT_EQ(MagnitudeThreshold(values, count, *one), sorted[count - 1]);
    EXPECT_EQ(MagnitudeThreshold(values, count, *two), sorted[count - 1]);
  }
}

TEST(MagnitudeThreshold, Extremes) {
  const auto executor = MakeSerialExecutor();
  const std::vector<float> values = {3, -1, 0, 2};
  EXPECT_EQ(MagnitudeThreshold(values, 0, *executor),
            std::numeric_limits<float>::infinity());
  EXPECT_EQ(MagnitudeThreshold(values, 4, *executor), 0);
  EXPECT_EQ(MagnitudeThreshold(values, 3, *executor), 1);
  EXPECT_EQ(MagnitudeThreshold({}, 0, *executor),
            std::numeric_limits<float>::infinity());
}

TEST(MagnitudeThreshold, TiesAreKeptTogether) {
  const auto executor = MakeSerialExecutor();
  const std::vector<float> values = {2, -2, 2, 1, 1};
  EXPECT_EQ(MagnitudeThreshold(values, 2, *executor), 2);
}

TEST(SummarizeKept, MeanFrequencyAndQuantiles) {
  // 101 tokens; token t keeps t of 200 channels.
  std::vector<uint32_t> by_token(101);
  std::iota(by_token.rbegin(), by_token.rend(), 0u);
  std::vector<uint32_t> by_channel(200);
  for (uint32_t t = 0; t <= 100; ++t) {
    for (uint32_t c = 0; c < t; ++c) ++by_channel[c];
  }
  const KeepStatistics statistics = SummarizeKept(by_channel, by_token);
  EXPECT_NEAR(statistics.density, 0.25, 1e-12);
  EXPECT_FLOAT_EQ(statistics.frequency[0], 100.0f / 101);
  EXPECT_FLOAT_EQ(statistics.frequency[150], 0);
  EXPECT_DOUBLE_EQ(statistics.density_quantiles.at("0.05"), 5.0 / 200);
  EXPECT_DOUBLE_EQ(statistics.density_quantiles.at("0.5"), 50.0 / 200);
  EXPECT_DOUBLE_EQ(statistics.density_quantiles.at("0.95"), 95.0 / 200);
}

}  // namespace
}  // namespace rankforge
