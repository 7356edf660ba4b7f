#include "tuner/measure/read_bandwidth.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rankforge {
namespace {

TEST(CheckRooflineTest, FailsAboveOneAndNamesWhat) {
  EXPECT_TRUE(CheckRoofline("decode", 0).ok());
  EXPECT_TRUE(CheckRoofline("decode", 1).ok());
  const Status above = CheckRoofline("decode", 1.004);
  ASSERT_FALSE(above.ok());
  EXPECT_EQ(above.code(), StatusCode::kFailed);
  EXPECT_NE(above.message().find("decode 1.004"), std::string::npos)
      << above.message();
}

// A share that is no number was not measured.
TEST(CheckRooflineTest, FailsWithoutANumber) {
  EXPECT_FALSE(CheckRoofline("decode", std::nan("")).ok());
}

// Small enough to come from a cache: any bandwidth, but a finite one.
TEST(MeasureReadBandwidthTest, NamesTheQuickestLoop) {
  const ReadBandwidth read = MeasureReadBandwidth(1, size_t{1} << 22, 2);
  EXPECT_GT(read.gbps, 0);
  EXPECT_TRUE(std::isfinite(read.gbps));
  EXPECT_FALSE(read.loop.empty());
}

}  // namespace
}  // namespace rankforge
