#include "tuner/masks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace rankforge {
namespace {

TEST(MasksTest, ExactlyAsManyAsAskedAscendingAndDistinct) {
  std::mt19937_64 random(1);
  for (const size_t kept : {0u, 1u, 7u, 63u, 100u}) {
    const std::vector<uint32_t> mask = DrawMask({}, 100, 1, kept, random);
    EXPECT_EQ(mask.size(), kept);
    EXPECT_TRUE(std::is_sorted(mask.begin(), mask.end()));
    EXPECT_EQ(std::set<uint32_t>(mask.begin(), mask.end()).size(), kept);
    if (kept > 0) {
      EXPECT_LT(mask.back(), 100u);
    }
  }
  EXPECT_EQ(DrawMask({}, 10, 1, 99, random).size(), 10u);
}

TEST(MasksTest, WithoutAProfileAllAreAlike) {
  std::mt19937_64 random(2);
  std::vector<int> hits(40, 0);
  for (int draw = 0; draw < 2000; ++draw) {
    for (const uint32_t i : DrawMask({}, 40, 1, 10, random)) ++hits[i];
  }
  for (const int count : hits) EXPECT_NEAR(count, 500, 100);
}

// At the profile's own mean density the draws follow the profile; at another
// one they keep its order.
TEST(MasksTest, DrawsFollowTheProfile) {
  std::vector<float> frequency(200);
  double mean = 0;
  for (size_t j = 0; j < frequency.size(); ++j) {
    frequency[j] = 0.95f - 0.9f * static_cast<float>(j) / 200;
    mean += frequency[j] / 200;
  }
  std::mt19937_64 random(3);
  constexpr int kDraws = 4000;
  for (const double density : {mean, 0.2}) {
    std::vector<double> share(200, 0);
    for (int draw = 0; draw < kDraws; ++draw) {
      for (const uint32_t i :
           DrawMask(frequency, 200, 1, static_cast<size_t>(density * 200 + 0.5),
                    random)) {
        share[i] += 1.0 / kDraws;
      }
    }
    for (size_t j = 0; j + 40 < 200; ++j) EXPECT_GT(share[j], share[j + 40]);
    if (density != mean) continue;
    for (size_t j = 0; j < 200; ++j) EXPECT_NEAR(share[j], frequency[j], 0.05);
  }
}

TEST(MasksTest, GroupsTakeTheMeanOfTheirChannels) {
  // Channels of group 0 are nearly always kept, of the others hardly ever.
  std::vector<float> frequency(64, 0.01f);
  std::fill(frequency.begin(), frequency.begin() + 8, 0.99f);
  std::mt19937_64 random(4);
  int first = 0;
  for (int draw = 0; draw < 100; ++draw) {
    const std::vector<uint32_t> mask = DrawMask(frequency, 8, 8, 1, random);
    first += mask[0] == 0;
  }
  EXPECT_GT(first, 90);
}

TEST(MasksTest, SameSeedSameMask) {
  std::mt19937_64 a(5), b(5);
  EXPECT_EQ(DrawMask({}, 500, 1, 200, a), DrawMask({}, 500, 1, 200, b));
}

}  // namespace
}  // namespace rankforge
