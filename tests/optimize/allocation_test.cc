#include "optimize/allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "optimize/proposals.h"

namespace rankforge {
namespace {

TypeOptions RandomOptions(size_t groups, size_t types, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> value(0, 1);
  TypeOptions options(groups);
  for (auto& group : options) {
    for (size_t type = 0; type < types; ++type) {
      group.push_back({value(random), value(random)});
    }
  }
  return options;
}

// Every allocation there is.
std::vector<Allocation> AllAllocations(const TypeOptions& groups) {
  std::vector<Allocation> all(1);
  for (const auto& options : groups) {
    std::vector<Allocation> longer;
    for (const Allocation& allocation : all) {
      for (size_t type = 0; type < options.size(); ++type) {
        Allocation next = allocation;
        next.types.push_back(type);
        longer.push_back(std::move(next));
      }
    }
    all = std::move(longer);
  }
  for (Allocation& allocation : all) {
    allocation = AllocationOf(groups, std::move(allocation.types));
  }
  return all;
}

bool CoveredBy(const std::vector<Allocation>& front, const Allocation& other) {
  return std::ranges::any_of(front, [&](const Allocation& best) {
    return best.ns <= other.ns + 1e-12 &&
           best.divergence <= other.divergence + 1e-12;
  });
}

TEST(BestAllocations, AreTheFrontOfAll) {
  for (unsigned seed = 0; seed < 5; ++seed) {
    const TypeOptions groups = RandomOptions(6, 3, seed);
    const std::vector<Allocation> front = BestAllocations(groups);
    for (const Allocation& any : AllAllocations(groups)) {
      EXPECT_TRUE(CoveredBy(front, any)) << "seed " << seed;
    }
    for (size_t i = 0; i < front.size(); ++i) {
      const Allocation again = AllocationOf(groups, front[i].types);
      EXPECT_NEAR(again.ns, front[i].ns, 1e-12);
      EXPECT_NEAR(again.divergence, front[i].divergence, 1e-12);
      if (i == 0) continue;
      EXPECT_GT(front[i].ns, front[i - 1].ns);
      EXPECT_LT(front[i].divergence, front[i - 1].divergence);
    }
  }
}

// Four groups alike but one, which is sensitive: with a quarter of the loss of
// the smallest type everywhere, all but that one have it.
TEST(BestAllocations, SpareTheSensitiveGroup) {
  TypeOptions groups(4, {{4, 0}, {2, 0.01}, {1, 0.1}});
  groups[2] = {{4, 0}, {2, 1}, {1, 10}};
  bool found = false;
  for (const Allocation& best : BestAllocations(groups)) {
    found = found || best.types == std::vector<size_t>{2, 2, 0, 2};
  }
  EXPECT_TRUE(found);
}

// More combinations than are kept: some are thinned out, never what all groups
// have alike.
TEST(BestAllocations, NothingUniformIsBetter) {
  // Groups that differ in size alone: what all have alike is a corner of the
  // front, which slots of time may miss.
  std::mt19937 random(9);
  std::uniform_real_distribution<double> exponent(-6, 1);
  TypeOptions groups;
  for (size_t group = 0; group < 100; ++group) {
    const double n = std::exp(exponent(random));
    groups.push_back({{4 * n, 0}, {2 * n, 0.1 * n}, {n, n}, {0.7 * n, 9 * n}});
  }
  const std::vector<Allocation> front = BestAllocations(groups);
  EXPECT_GT(front.size(), 500u);
  EXPECT_LE(front.size(), 1024u + 4u);
  for (size_t type = 0; type < 4; ++type) {
    EXPECT_TRUE(CoveredBy(
        front, AllocationOf(groups, std::vector<size_t>(groups.size(), type))))
        << type;
  }
}

class ProposeTest : public testing::Test {
 protected:
  // Two groups, types of 4, 2 and 1 ns; the adapter halves times and costs 0.1.
  const std::vector<FormCosts> forms_ = {
      {{{4, 2, 1}, {4, 2, 1}}, 0.001},
      {{{2, 1, 0.5}, {2, 1, 0.5}}, 0.1},
  };
  const std::vector<std::vector<double>> divergences_ = {{0.001, 0.01, 0.2},
                                                         {0.001, 0.02, 0.3}};
};

TEST_F(ProposeTest, PredictsSums) {
  const Proposal dense = Predicted(forms_, divergences_, 0, {1, 2});
  EXPECT_DOUBLE_EQ(dense.ns, 3);
  EXPECT_NEAR(dense.divergence, 0.001 + 0.009 + 0.299, 1e-12);
  const Proposal adapted = Predicted(forms_, divergences_, 1, {0, 0});
  EXPECT_DOUBLE_EQ(adapted.ns, 4);
  EXPECT_NEAR(adapted.divergence, 0.1, 1e-12);
}

TEST_F(ProposeTest, MeetsALimitOfDivergence) {
  const auto proposed =
      Propose(forms_, divergences_, {.count = 1, .max_divergence = 0.05}, {});
  ASSERT_EQ(proposed.size(), 1u);
  EXPECT_EQ(proposed[0].form, 0u);
  EXPECT_EQ(proposed[0].types, (std::vector<size_t>{1, 1}));
}

TEST_F(ProposeTest, MeetsALimitOfTime) {
  const auto proposed =
      Propose(forms_, divergences_, {.count = 1, .max_ns = 2.5}, {});
  ASSERT_EQ(proposed.size(), 1u);
  EXPECT_LE(proposed[0].ns, 2.5);
  EXPECT_EQ(proposed[0].form, 1u);
  EXPECT_EQ(proposed[0].types, (std::vector<size_t>{1, 1}));
}

TEST_F(ProposeTest, ProposesNothingTwice) {
  std::vector<Proposal> measured;
  for (size_t round = 0; round < 40; ++round) {
    const auto proposed = Propose(forms_, divergences_, {.count = 3}, measured);
    EXPECT_LE(proposed.size(), 3u);
    for (const Proposal& candidate : proposed) {
      for (const Proposal& known : measured) {
        EXPECT_FALSE(known.form == candidate.form &&
                     known.types == candidate.types);
      }
      measured.push_back(candidate);
    }
  }
}

TEST(DescribeTypes, NamesSharesOfWeights) {
  const std::vector<WeightType> types = {
      WeightType::kBf16, WeightType::kI8Group32, WeightType::kI4Group32};
  const std::vector<double> weights = {10, 60, 30};
  EXPECT_EQ(DescribeTypes(std::vector<size_t>{1, 1, 1}, types, weights),
            "i8_group32");
  EXPECT_EQ(DescribeTypes(std::vector<size_t>{0, 2, 1}, types, weights),
            "60 % i4_group32, 30 % i8_group32, 10 % bf16");
}

}  // namespace
}  // namespace rankforge
