#include "adapt/forms/mlp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/layer/activation.h"
#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

constexpr size_t kHidden = 48;
constexpr size_t kMlp = 160;
constexpr size_t kTokens = 700;

class MlpTest : public testing::Test {
 protected:
  MlpTest() {
    std::vector<Matrix<float>> w;
    w.push_back(RandomMatrix(kMlp, kHidden, 30));
    w.push_back(RandomMatrix(kMlp, kHidden, 31));
    for (float& v : w[1].values) v *= 0.2f;
    auto layers = RankLayers({"up", "gate"}, std::move(w), x_, {}, *executor_);
    EXPECT_TRUE(layers.ok()) << layers.status().message();
    layers_ = std::move(layers).value();
    for (size_t i = 0; i < kHidden; ++i) down_.row(i)[3] = 0;
  }
  const RankedLayer& up() const { return layers_[0]; }
  const RankedLayer& gate() const { return layers_[1]; }
  RankedMlp Mlp() const { return {up(), &gate(), down_}; }

  Matrix<float> Hidden(const LayerForm& up, const LayerForm& gate) const {
    Matrix<float> h(kTokens, kMlp);
    Matrix<float> g(kTokens, kMlp);
    up.Run(0, kTokens, h.values.data());
    gate.Run(0, kTokens, g.values.data());
    Activate(Activation::kSilu, g.values.data(), h.values.data(),
             h.values.size(), h.values.data());
    return h;
  }

  std::unique_ptr<Executor> executor_ = MakeSerialExecutor();
  Matrix<float> x_ = RandomInputs(kTokens, kHidden, kHidden, 32);
  Matrix<float> down_ = RandomMatrix(kHidden, kMlp, 33);
  std::vector<RankedLayer> layers_;
};

TEST_F(MlpTest, SplitSpendsTheBudget) {
  for (const double keep : {0.35, 0.5, 0.7, 0.95}) {
    const auto split = SearchMlpSplit(Mlp(), keep, kTokens, *executor_);
    ASSERT_TRUE(split) << keep;
    EXPECT_EQ(split->up_share + split->gate_share + split->down_share, 18u);
    const auto cost = [](const std::optional<RankChoice>& choice) {
      return choice ? RankCost(kMlp, kHidden, choice->d, choice->kept) : 1.0;
    };
    EXPECT_NEAR(cost(split->up) + cost(split->gate) + split->down_keep,
                3 * keep, 1e-9);
    EXPECT_GT(split->error, 0);
    EXPECT_LT(split->error, 1);
  }
}

TEST_F(MlpTest, ErrorIsThatOfTheMlpAndSmallerBudgetsAreWorse) {
  double before = 0;
  for (const double keep : {0.8, 0.5, 0.35}) {
    const auto split = SearchMlpSplit(Mlp(), keep, kTokens, *executor_);
    ASSERT_TRUE(split);
    const LayerForm up_form = ExactForm(up(), split->up, *executor_);
    const LayerForm gate_form = ExactForm(gate(), split->gate, *executor_);
    const InputMask mask = MakeDownMask("down", {up_form, gate_form}, down_,
                                        split->down_keep, kTokens, *executor_);
    Matrix<float> h = Hidden(up_form, gate_form);
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t j = 0; j < kMlp; ++j) {
        if (!(std::fabs(h.row(t)[j]) >= mask.tau[j])) h.row(t)[j] = 0;
      }
    }
    const Matrix<float> dense =
        TimesTransposed(Hidden(LayerForm{&up()}, LayerForm{&gate()}), down_);
    const double error =
        SquaredDistance(TimesTransposed(h, down_), dense) / SquaredNorm(dense);
    // The search takes thresholds from the dense hidden values and to one bin.
    EXPECT_NEAR(error, split->error, 0.1 * split->error);
    EXPECT_GT(split->error, before);
    before = split->error;
  }
}

TEST_F(MlpTest, LargeBudgetsLeaveUpAndGateDense) {
  const auto split = SearchMlpSplit(Mlp(), 0.999, kTokens, *executor_);
  ASSERT_TRUE(split);
  EXPECT_FALSE(split->up);
  EXPECT_FALSE(split->gate);
  EXPECT_NEAR(split->down_keep, 0.997, 1e-9);
}

TEST_F(MlpTest, NoSplitBelowOneRank) {
  EXPECT_FALSE(SearchMlpSplit(Mlp(), 0.05, kTokens, *executor_));
}

TEST_F(MlpTest, DownMaskKeepsTheShareOfTheAdaptedHiddenValues) {
  const LayerForm up_form = ExactForm(up(), up().search.Best(0.5), *executor_);
  const LayerForm gate_form{&gate()};
  const InputMask mask = MakeDownMask("down", {up_form, gate_form}, down_, 0.4,
                                      kTokens, *executor_);
  EXPECT_NEAR(mask.density, 0.4, 1.0 / kTokens);
  // A column of zeros is dropped whatever its input.
  EXPECT_EQ(mask.tau[3], std::numeric_limits<float>::infinity());
  EXPECT_EQ(mask.keep_frequency[3], 0);
  // All kept products |h| * norm are at least as large as all dropped ones.
  const Matrix<float> h = Hidden(up_form, gate_form);
  double smallest_kept = 1e30;
  double largest_dropped = 0;
  double kept = 0;
  for (size_t j = 0; j < kMlp; ++j) {
    double norm = 0;
    for (size_t i = 0; i < kHidden; ++i) {
      norm += static_cast<double>(down_.row(i)[j]) * down_.row(i)[j];
    }
    for (size_t t = 0; t < kTokens; ++t) {
      const double importance = std::fabs(h.row(t)[j]) * std::sqrt(norm);
      if (std::fabs(h.row(t)[j]) >= mask.tau[j]) {
        smallest_kept = std::min(smallest_kept, importance);
        ++kept;
      } else {
        largest_dropped = std::max(largest_dropped, importance);
      }
    }
  }
  EXPECT_GE(smallest_kept, largest_dropped * (1 - 1e-5));
  EXPECT_NEAR(kept / (kTokens * kMlp), mask.density, 1e-4);
  Matrix<float> masked = h;
  for (size_t t = 0; t < kTokens; ++t) {
    for (size_t j = 0; j < kMlp; ++j) {
      if (!(std::fabs(h.row(t)[j]) >= mask.tau[j])) masked.row(t)[j] = 0;
    }
  }
  const Matrix<float> y = TimesTransposed(h, down_);
  EXPECT_NEAR(
      SquaredDistance(TimesTransposed(masked, down_), y) / SquaredNorm(y),
      mask.error, 1e-4 * mask.error);
}

TEST_F(MlpTest, SameForAnyThreads) {
  const auto one = SearchMlpSplit(Mlp(), 0.5, kTokens, *executor_);
  const auto executor = MakeTeamExecutor(2);
  const auto two = SearchMlpSplit(Mlp(), 0.5, kTokens, *executor);
  EXPECT_EQ(one->error, two->error);
  EXPECT_EQ(one->up_share, two->up_share);
  const LayerForm up_form = ExactForm(up(), one->up, *executor);
  const LayerForm gate_form = ExactForm(gate(), one->gate, *executor);
  const auto mask = [&](Executor& threads) {
    return MakeDownMask("down", {up_form, gate_form}, down_, 0.5, kTokens,
                        threads);
  };
  EXPECT_EQ(mask(*executor).tau, mask(*executor_).tau);
  EXPECT_EQ(mask(*executor).error, mask(*executor_).error);
}

}  // namespace
}  // namespace rankforge
