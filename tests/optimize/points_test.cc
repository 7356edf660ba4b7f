#include "optimize/points.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace rankforge {
namespace {

PointFigures Figures(double time_ratio, double divergence, double excess) {
  PointFigures figures;
  figures.time_ratio = time_ratio;
  figures.against_dense.divergence.mean = divergence;
  figures.against_dense.excess_loss.mean = excess;
  return figures;
}

const std::vector<PointFigures> kPoints = {
    Figures(1, 0, 0),                                        // dense bf16
    Figures(0.6, 0.002, 0.001), Figures(0.65, 0.01, 0.005),  // slower and worse
    Figures(0.4, 0.05, 0.06),   Figures(0.4, 0.05, 0.06),    // the same again
};

TEST(DominatedPoints, AreThoseThatAnotherBeats) {
  EXPECT_EQ(DominatedPoints(kPoints),
            (std::vector<bool>{false, false, true, false, false}));
  EXPECT_TRUE(DominatedPoints({}).empty());
}

TEST(QuickestWithin, RespectsTheLoss) {
  EXPECT_EQ(QuickestWithin(kPoints, 1), 3u);
  EXPECT_EQ(QuickestWithin(kPoints, 0.05), 1u);
  EXPECT_EQ(QuickestWithin(kPoints, 0), 0u);
  EXPECT_FALSE(QuickestWithin(kPoints, -1));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<PointFigures> broken = {Figures(0.1, nan, nan),
                                            Figures(1, 0, 0)};
  EXPECT_EQ(QuickestWithin(broken, 1), 1u);
}

TEST(ClosestWithin, RespectsTheTime) {
  EXPECT_EQ(ClosestWithin(kPoints, 2), 0u);
  EXPECT_EQ(ClosestWithin(kPoints, 0.7), 1u);
  EXPECT_EQ(ClosestWithin(kPoints, 0.5), 3u);
  EXPECT_FALSE(ClosestWithin(kPoints, 0.3));
}

}  // namespace
}  // namespace rankforge
