// The lines through what was measured.
#include "adapt/calibrate/sensitivity.h"

#include <gtest/gtest.h>

namespace rankforge {
namespace {

TEST(SensitivityTest, LinesThroughNothingLostAndThePoints) {
  Sensitivity sensitivity;
  EXPECT_FALSE(sensitivity.known());
  EXPECT_EQ(sensitivity.At(3), 0);
  sensitivity.Add(4, 10);
  sensitivity.Add(2, 2);  // in any order
  EXPECT_TRUE(sensitivity.known());
  EXPECT_EQ(sensitivity.At(0), 0);
  EXPECT_EQ(sensitivity.At(1), 1);
  EXPECT_EQ(sensitivity.At(2), 2);
  EXPECT_EQ(sensitivity.At(3), 6);
  EXPECT_EQ(sensitivity.At(5), 14);  // the last line goes on
}

TEST(SensitivityTest, NothingIsWorthLessThanNothing) {
  Sensitivity sensitivity;
  sensitivity.Add(1, -0.5);  // noise
  EXPECT_EQ(sensitivity.At(2), 0);
  sensitivity.Add(2, 4);
  EXPECT_EQ(sensitivity.At(1), 0);
  EXPECT_EQ(sensitivity.At(1.5), 2);
}

// Two sizes may lose alike, such as nothing.
TEST(SensitivityTest, PointsOfOneError) {
  Sensitivity sensitivity;
  sensitivity.Add(0, 1);
  EXPECT_EQ(sensitivity.At(0), 1);
  EXPECT_EQ(sensitivity.At(1), 1);
}

}  // namespace
}  // namespace rankforge
