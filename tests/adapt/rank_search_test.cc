#include "adapt/forms/rank_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "adapt/forms/ranked_layer.h"
#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

constexpr size_t kRows = 192;
constexpr size_t kCols = 80;
constexpr size_t kTokens = 600;

class RankSearchTest : public testing::Test {
 protected:
  RankedLayer Layer(const RankGrid& grid) {
    std::vector<Matrix<float>> w;
    w.push_back(RandomMatrix(kRows, kCols, 20));
    auto layers = RankLayers({"layer"}, std::move(w), x_, grid, *executor_);
    EXPECT_TRUE(layers.ok()) << layers.status().message();
    return std::move(layers->front());
  }

  std::unique_ptr<Executor> executor_ = MakeSerialExecutor();
  Matrix<float> x_ = RandomInputs(kTokens, kCols, kCols, 21);
};

// The paper's search to the letter: for every d the squares of the first d
// ranks, sorted, and the sum of those above the budget's position.
RankChoice SearchBySorting(const Matrix<float>& z, double budget, size_t step) {
  double total = 0;
  for (const float v : z.values) total += static_cast<double>(v) * v;
  RankChoice best;
  for (size_t d = z.rows; d >= step; d -= step) {
    const double kept =
        kCols * (budget - static_cast<double>(d) / static_cast<double>(kRows));
    if (kept < 1) continue;
    if (kept >= static_cast<double>(d)) break;
    std::vector<double> squares;
    for (const float* v = z.row(0); v != z.row(d); ++v) {
      squares.push_back(static_cast<double>(*v) * *v);
    }
    std::sort(squares.begin(), squares.end(), std::greater<>());
    double sum = 0;
    const size_t count = static_cast<size_t>(kept * kTokens);
    for (size_t i = 0; i < count; ++i) sum += squares[i];
    if (sum / total > best.coverage) {
      best = {.d = d, .kept = kept, .coverage = sum / total};
    }
  }
  return best;
}

TEST_F(RankSearchTest, AgreesWithSorting) {
  const RankedLayer layer = Layer({.round = false});
  for (const double budget : {0.15, 0.3, 0.45, 0.55, 0.7, 0.9}) {
    const RankChoice expected = SearchBySorting(layer.z, budget, 10);
    const auto choice = layer.search.Best(budget);
    ASSERT_TRUE(choice) << budget;
    // Histogram bins of 1 % may swap neighbours that are as good.
    EXPECT_NEAR(choice->coverage, expected.coverage, 2e-4) << budget;
    EXPECT_NEAR(RankCost(kRows, kCols, choice->d, choice->kept), budget, 1e-12);
    if (choice->d != expected.d) {
      EXPECT_NEAR(static_cast<double>(choice->d),
                  static_cast<double>(expected.d), 10);
    }
  }
}

TEST_F(RankSearchTest, SpendsTheBudgetExactly) {
  const RankedLayer layer = Layer({});
  const auto choice = layer.search.Best(0.5);
  ASSERT_TRUE(choice);
  const LayerForm form = ExactForm(layer, choice, *executor_);
  const RankAdapter adapter = MakeRankAdapter(form, *executor_);
  const double kept = adapter.density * static_cast<double>(adapter.d);
  // One value more or less of all tokens, which have no ties.
  EXPECT_NEAR(kept, choice->kept, 1.01 / kTokens);
  EXPECT_NEAR(1 - adapter.error, choice->coverage, 2e-4);
  // The search's own threshold is one bin wide.
  EXPECT_NEAR(choice->tau, form.tau, 0.02 * form.tau);
}

// With masked weights dearer and both calls costing something, the best choice
// for a cost spends it, keeps fewer ranks, and B takes more of it.
TEST_F(RankSearchTest, SpendsWhatTheCostModelSays) {
  const CostModel costs = {.dense = {.fixed = 500, .per_weight = 1},
                           .column_mask = {.fixed = 300, .per_weight = 2}};
  const RankedLayer layer = Layer({.round = false, .costs = costs});
  const RankedLayer plain = Layer({.round = false});
  for (const double budget : {0.4, 0.6, 0.9}) {
    const auto choice = layer.search.Best(budget);
    const auto cheaper = plain.search.Best(budget);
    ASSERT_TRUE(choice && cheaper) << budget;
    const double dense = 500 + kRows * kCols;
    const double spent = (500 + static_cast<double>(choice->d * kCols)) +
                         (300 + 2 * kRows * choice->kept);
    EXPECT_NEAR(spent / dense, budget, 1e-12);
    EXPECT_NEAR(RankCost(kRows, kCols, choice->d, choice->kept, costs), budget,
                1e-12);
    EXPECT_LT(choice->kept, cheaper->kept);
    EXPECT_LT(choice->coverage, cheaper->coverage);
  }
}

TEST_F(RankSearchTest, ErrorIsThatOfTheOutput) {
  const RankedLayer layer = Layer({});
  for (const double budget : {0.2, 0.5, 0.8}) {
    const LayerForm form =
        ExactForm(layer, layer.search.Best(budget), *executor_);
    Matrix<float> y(kTokens, kRows);
    form.Run(0, kTokens, y.values.data());
    const Matrix<float> dense = TimesTransposed(x_, layer.w);
    const RankAdapter adapter = MakeRankAdapter(form, *executor_);
    EXPECT_NEAR(SquaredDistance(y, dense) / SquaredNorm(dense), adapter.error,
                1e-4 * adapter.error + 1e-9);
  }
}

TEST_F(RankSearchTest, RoundsToMultiples) {
  const RankedLayer layer = Layer({.round = true});
  const RankedLayer unrounded = Layer({.round = false});
  for (const double budget : {0.12, 0.25, 0.4, 0.6, 0.85}) {
    const auto choice = layer.search.Best(budget);
    const auto searched = unrounded.search.Best(budget);
    ASSERT_TRUE(choice && searched) << budget;
    EXPECT_TRUE(choice->d % 16 == 0 || choice->d == kCols) << choice->d;
    EXPECT_EQ(choice->searched_d, searched->d);
    EXPECT_LT(
        std::max(choice->d, searched->d) - std::min(choice->d, searched->d),
        16u);
    EXPECT_DOUBLE_EQ(choice->rounding_loss,
                     searched->coverage - choice->coverage);
  }
}

TEST_F(RankSearchTest, NothingWhereTheBudgetIsTooSmall) {
  const RankedLayer layer = Layer({});
  // 16 rows of B alone cost 16 / kRows.
  EXPECT_FALSE(layer.search.Best(16.0 / kRows));
  EXPECT_TRUE(layer.search.Best(RankCost(kRows, kCols, 16, 1) + 1e-9));
}

TEST_F(RankSearchTest, SameForAnyThreads) {
  const RankedLayer one = Layer({});
  executor_ = MakeTeamExecutor(2);
  const RankedLayer two = Layer({});
  EXPECT_EQ(one.z.values, two.z.values);
  EXPECT_EQ(one.search.Best(0.5)->coverage, two.search.Best(0.5)->coverage);
  EXPECT_EQ(one.search.Best(0.5)->tau, two.search.Best(0.5)->tau);
}

TEST(InnerMultiple, SixtyFourFrom1024On) {
  EXPECT_EQ(InnerMultiple(1023), 16u);
  EXPECT_EQ(InnerMultiple(1024), 64u);
}

}  // namespace
}  // namespace rankforge
