// Mask producers against a plain loop, for every rule, length and edge value.
#include "kernels/mask.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "runtime/plan.h"

namespace rankforge {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Channels {
  std::vector<float> v, tau, mu;
};

Channels RandomChannels(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Channels channels;
  for (size_t i = 0; i < count; ++i) {
    channels.v.push_back(normal(random));
    channels.tau.push_back(std::abs(normal(random)));
    channels.mu.push_back(0.3f * normal(random));
    switch (random() % 23) {  // edge values among the ordinary ones
      case 0:
        channels.v.back() = kNan;
        break;
      case 1:
        channels.v.back() = -kInfinity;
        break;
      case 2:
        channels.tau.back() = kInfinity;
        break;
      case 3:
        channels.tau.back() = kNan;
        break;
      case 4:  // exactly on the threshold
        channels.tau.back() = std::abs(channels.v.back());
        channels.mu.back() = 0;
        break;
      case 5:
        channels.v.back() = -0.0f;
        channels.tau.back() = 0;
        channels.mu.back() = 0;
        break;
      default:
        break;
    }
  }
  return channels;
}

bool Keeps(float v, float tau, float mu, const ThresholdRule& rule) {
  float score = rule.mu == nullptr ? v : v - mu;
  if (!rule.signed_score) score = std::abs(score);
  return rule.comparison == Comparison::kGreater ? score > tau : score >= tau;
}

void ExpectMask(const Channels& channels, const ThresholdRule& rule,
                const MaskView& view) {
  const size_t count = channels.v.size();
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const bool keep =
        Keeps(channels.v[i], channels.tau[i], channels.mu[i], rule);
    EXPECT_EQ((view.bits[i / 64] >> (i % 64)) & 1, keep) << i;
    if (keep) {
      ASSERT_LT(kept, view.kept);
      EXPECT_EQ(view.index[kept], i);
      EXPECT_EQ(std::bit_cast<uint32_t>(view.value[kept]),
                std::bit_cast<uint32_t>(channels.v[i]));
      EXPECT_EQ(std::bit_cast<uint32_t>(view.zeroed[i]),
                std::bit_cast<uint32_t>(channels.v[i]));
      ++kept;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(view.zeroed[i]), 0u) << i;
    }
  }
  EXPECT_EQ(view.kept, kept);
  EXPECT_EQ(view.groups, count);
  // No bit beyond the last channel.
  if (count % 64 != 0) {
    EXPECT_EQ(view.bits[count / 64] >> (count % 64), 0u);
  }
}

TEST(MakeMask, AgreesWithTheFormulaForEveryRuleAndLength) {
  for (const size_t count : {1, 3, 8, 63, 64, 65, 127, 128, 200, 1000}) {
    const Channels channels =
        RandomChannels(count, static_cast<unsigned>(count));
    for (const bool with_mu : {false, true}) {
      for (const auto comparison :
           {Comparison::kGreaterEqual, Comparison::kGreater}) {
        for (const bool is_signed : {false, true}) {
          ThresholdRule rule{channels.tau.data(),
                             with_mu ? channels.mu.data() : nullptr, comparison,
                             is_signed};
          MaskScratch scratch(count);
          ExpectMask(
              channels, rule,
              MakeMask(channels.v.data(), count, rule, scratch.storage()));
        }
      }
    }
  }
}

TEST(MakeMask, EmptyAndFullMasks) {
  const size_t count = 130;
  const std::vector<float> v(count, -2.0f);
  const std::vector<float> zero(count, 0.0f), never(count, kInfinity);
  MaskScratch scratch(count);
  EXPECT_EQ(
      MakeMask(v.data(), count, {.tau = never.data()}, scratch.storage()).kept,
      0u);
  const MaskView full =
      MakeMask(v.data(), count, {.tau = zero.data()}, scratch.storage());
  EXPECT_EQ(full.kept, count);
  EXPECT_EQ(full.prefix, 128u);
  EXPECT_EQ(full.prefix_kept, 128u);
}

TEST(FindPrefix, EndsAtTheFirstSparseWord) {
  const size_t count = 256;
  std::vector<float> v(count, 1.0f);
  std::vector<float> tau(count, 0.5f);
  for (size_t i = 0; i < 8; ++i) v[i] = 0;    // 56 of 64 kept: still dense
  for (size_t i = 64; i < 73; ++i) v[i] = 0;  // 55 of 64 kept: not
  MaskScratch scratch(count);
  const MaskView view =
      MakeMask(v.data(), count, {.tau = tau.data()}, scratch.storage());
  EXPECT_EQ(view.prefix, 64u);
  EXPECT_EQ(view.prefix_kept, 56u);
}

TEST(MaskFromIndex, GroupsPadBeyondTheEnd) {
  const size_t count = 21;
  std::vector<float> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = static_cast<float>(i + 1);
  const std::vector<uint32_t> index = {0, 2};
  MaskScratch scratch(RoundUp(count, kMaxGranularity));
  const MaskView view = MaskFromIndex(index.data(), index.size(), v.data(),
                                      count, 8, scratch.storage());
  EXPECT_EQ(view.groups, 3u);
  EXPECT_EQ(view.bits[0], 0b101u);
  EXPECT_EQ(view.value[8], 17.0f);
  EXPECT_EQ(view.value[12], 21.0f);
  EXPECT_EQ(view.value[13], 0.0f);
  EXPECT_EQ(view.zeroed[8], 0.0f);
  EXPECT_EQ(view.zeroed[20], 21.0f);
}

}  // namespace
}  // namespace rankforge
