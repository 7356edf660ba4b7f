#include "tuner/measure/masks.h"

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
           DrawMask({.frequency = frequency}, 200, 1,
                    static_cast<size_t>(density * 200 + 0.5), random)) {
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
    const std::vector<uint32_t> mask =
        DrawMask({.frequency = frequency}, 8, 8, 1, random);
    first += mask[0] == 0;
  }
  EXPECT_GT(first, 90);
}

// Runs of kept channels at half density are two long where channels are
// independent, and about a dozen long where masks are clustered.
TEST(MasksTest, ClusteredMasksComeInRuns) {
  std::mt19937_64 random(6);
  const auto mean_run = [&](MaskStructure structure) {
    size_t runs = 0;
    for (int draw = 0; draw < 50; ++draw) {
      const std::vector<uint32_t> mask =
          DrawMask({.structure = structure}, 4000, 1, 2000, random);
      EXPECT_EQ(mask.size(), 2000u);
      for (size_t i = 0; i < mask.size(); ++i) {
        runs += i == 0 || mask[i] != mask[i - 1] + 1;
      }
    }
    return 50.0 * 2000 / static_cast<double>(runs);
  };
  EXPECT_NEAR(mean_run(MaskStructure::kBernoulli), 2, 0.1);
  EXPECT_NEAR(mean_run(MaskStructure::kClustered), 13, 2);
}

// At its own density a mask of the trace comes back as it was; at others it
// loses or gains channels.
TEST(MasksTest, TracesComeBack) {
  std::vector<uint64_t> bits(2);
  for (const size_t channel : {1u, 5u, 64u, 90u, 99u}) {
    bits[channel / 64] |= uint64_t{1} << (channel % 64);
  }
  const std::vector<std::vector<uint64_t>> trace = {bits};
  std::mt19937_64 random(7);
  EXPECT_EQ(DrawMask({.trace = trace}, 100, 1, 5, random),
            (std::vector<uint32_t>{1, 5, 64, 90, 99}));
  for (const uint32_t kept : DrawMask({.trace = trace}, 100, 1, 3, random)) {
    EXPECT_TRUE(bits[kept / 64] >> (kept % 64) & 1) << kept;
  }
  const std::vector<uint32_t> more =
      DrawMask({.trace = trace}, 100, 1, 50, random);
  EXPECT_EQ(more.size(), 50u);
  EXPECT_TRUE(std::binary_search(more.begin(), more.end(), 90u));
  // Groups of 8 of which any channel is in the trace.
  EXPECT_EQ(DrawMask({.trace = trace}, 13, 8, 4, random),
            (std::vector<uint32_t>{0, 8, 11, 12}));
}

TEST(MasksTest, SameSeedSameMask) {
  std::mt19937_64 a(5), b(5);
  EXPECT_EQ(DrawMask({}, 500, 1, 200, a), DrawMask({}, 500, 1, 200, b));
}

}  // namespace
}  // namespace rankforge
