// Fused rank adapters are the two products one after the other, bit for bit.
#include "runtime/plan/rank_stages.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/random_vector.h"
#include "tests/runtime/layer.h"

namespace rankforge {
namespace {

constexpr size_t kRows = 203, kCols = 150;

// Gate and up: one B of 40 + 57 ranks, two A's that write two halves of y, and
// a direct product beside B.
TEST(RankStages, FusedIsTheProductsOneAfterTheOther) {
  constexpr size_t kRanks[] = {40, 57};
  const std::vector<float> x = RandomVector(kCols, 1);
  const std::vector<float> bias = RandomVector(kRows, 2);
  for (const size_t threads : {1, 2, 3}) {
    const auto b =
        MakeLayer(Operation::kDense, kRanks[0] + kRanks[1], kCols, 3, threads);
    const auto direct = MakeLayer(Operation::kDense, kRows, kCols, 4, threads);
    const auto a0 =
        MakeLayer(Operation::kColumnMask, kRows, kRanks[0], 5, threads);
    const auto a1 =
        MakeLayer(Operation::kColumnMask, kRows, kRanks[1], 6, threads);
    // Thresholds from nothing kept to everything.
    for (const float threshold : {100.0f, 9.0f, 0.0f}) {
      const std::vector<float> tau(kRanks[1], threshold);
      std::vector<float> expected;
      std::array<size_t, kMaxRankBranches> expected_kept{};
      for (const auto& executor : Executors()) {
        for (const HandOver hand_over : {HandOver::kOneEach, HandOver::kOne}) {
          RankScratch scratch(executor->threads(), kRanks[1]);
          std::vector<float> z(kRanks[0] + kRanks[1], -1);
          std::vector<float> y(3 * kRows, -7);
          const std::array first = {
              b->plan.Dense(x.data(), {.y = z.data()}),
              direct->plan.Dense(x.data(), {.y = y.data() + 2 * kRows})};
          const ThresholdRule rule{.tau = tau.data()};
          const std::array branches = {
              RankBranch{
                  &a0->plan, z.data(), rule, {y.data(), bias.data(), false}},
              RankBranch{&a1->plan,
                         z.data() + kRanks[0],
                         rule,
                         {.y = y.data() + kRows}}};
          const RankRun run =
              RunRankStages(first, branches, *executor, scratch, hand_over);
          if (expected.empty()) {
            expected = y;
            expected_kept = run.kept;
          }
          EXPECT_EQ(y, expected) << executor->name() << " " << threads;
          EXPECT_EQ(run.kept, expected_kept);
        }
      }
      if (threshold == 100) {
        EXPECT_EQ(expected_kept[0] + expected_kept[1], 0u);
        EXPECT_EQ(std::vector(expected.begin(), expected.begin() + kRows),
                  bias);
      } else if (threshold == 0) {
        EXPECT_EQ(expected_kept[0] + expected_kept[1], kRanks[0] + kRanks[1]);
      } else {
        EXPECT_GT(expected_kept[1], 0u);
        EXPECT_LT(expected_kept[1], kRanks[1]);
      }
    }
  }
}

// Many times over: members that ran ahead of a barrier would read an old z.
TEST(RankStages, RepeatedCallsSeeTheirOwnRanks) {
  constexpr size_t kRank = 64;
  const auto executor = MakeTeamExecutor(2);
  const auto b = MakeLayer(Operation::kDense, kRank, kCols, 3, 2);
  const auto a = MakeLayer(Operation::kColumnMask, kRows, kRank, 5, 2);
  RankScratch scratch(2, kRank);
  const std::vector<float> tau(kRank, 5);
  const ThresholdRule rule{.tau = tau.data()};
  std::vector<float> z(kRank), y(kRows), expected(kRows);
  for (unsigned token = 0; token < 300; ++token) {
    const std::vector<float> x = RandomVector(kCols, token);
    const GemvCall first = b->plan.Dense(x.data(), {.y = z.data()});
    const RankBranch fused{&a->plan, z.data(), rule, {.y = y.data()}};
    const RankBranch apart{&a->plan, z.data(), rule, {.y = expected.data()}};
    RunRankStages({&first, 1}, {&fused, 1}, *executor, scratch);
    RunRankStages({&first, 1}, {&apart, 1}, *executor, scratch,
                  HandOver::kOneEach);
    ASSERT_EQ(y, expected) << token;
  }
}

}  // namespace
}  // namespace rankforge
