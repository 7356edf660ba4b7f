#include "adapt/forms/linear_forms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "adapt/forms/input_mask.h"
#include "adapt/forms/ranked_layer.h"
#include "adapt/run/budget.h"
#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

double Spent(std::span<const BudgetedLayer> layers,
             const std::vector<FormCandidate>& chosen) {
  double spent = 0, total = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    spent += chosen[i].cost * layers[i].dense_cost;
    total += layers[i].dense_cost;
  }
  return spent / total;
}

double Loss(const std::vector<FormCandidate>& chosen) {
  return std::accumulate(
      chosen.begin(), chosen.end(), 0.0,
      [](double sum, const FormCandidate& c) { return sum + c.loss; });
}

// Layers of different size and sensitivity, each with two forms.
std::vector<BudgetedLayer> RandomLayers(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.1, 1);
  std::vector<BudgetedLayer> layers(count);
  for (BudgetedLayer& layer : layers) {
    layer.dense_cost = std::exp(4 * uniform(random));
    layer.candidates.push_back({});
    const double scale = std::exp(6 * uniform(random));
    for (const Form form : {Form::kRank, Form::kWeighted}) {
      const double power = 1 + 3 * uniform(random);
      for (double cost = 0.2; cost < 0.99; cost += 0.2) {
        layer.candidates.push_back(
            {form, cost, scale * std::pow(1 - cost, power)});
      }
    }
  }
  return layers;
}

// Every selection of four layers.
TEST(Allocate, NoSelectionForTheSameCostLosesLess) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::vector<BudgetedLayer> layers = RandomLayers(4, seed);
    for (const double keep : {0.3, 0.5, 0.8}) {
      const std::vector<FormCandidate> chosen = Allocate(layers, keep);
      const double spent = Spent(layers, chosen);
      EXPECT_LE(spent, keep + 1e-12);
      double best = 1e9;
      std::vector<size_t> pick(layers.size());
      const auto next = [&] {
        for (size_t i = 0; i < pick.size(); ++i) {
          if (++pick[i] < layers[i].candidates.size()) return true;
          pick[i] = 0;
        }
        return false;
      };
      do {
        std::vector<FormCandidate> other;
        for (size_t i = 0; i < pick.size(); ++i) {
          other.push_back(layers[i].candidates[pick[i]]);
        }
        if (Spent(layers, other) <= spent + 1e-12) {
          best = std::min(best, Loss(other));
        }
      } while (next());
      EXPECT_NEAR(Loss(chosen), best, 1e-9 * best) << seed << " " << keep;
    }
  }
}

TEST(Allocate, Extremes) {
  const std::vector<BudgetedLayer> layers = RandomLayers(8, 1);
  for (const FormCandidate& all : Allocate(layers, 1)) {
    EXPECT_EQ(all.form, Form::kDense);
  }
  // Less than the cheapest selection costs: the cheapest.
  for (const FormCandidate& least : Allocate(layers, 0.01)) {
    EXPECT_DOUBLE_EQ(least.cost, 0.2);
  }
}

class FormsTest : public testing::Test {
 protected:
  static constexpr size_t kRows = 96, kCols = 48, kTokens = 700;

  LinearForms Forms(const CostModel& costs = {}) const {
    Result<LinearForms> forms = LinearForms::Create(
        "layer", w_, x_, true, {.step = 4, .round = false, .costs = costs},
        *executor_);
    EXPECT_TRUE(forms.ok()) << forms.status().message();
    return std::move(forms).value();
  }
  // The squared output error of `y`, relative.
  double ErrorOf(const Matrix<float>& y) const {
    const Matrix<float> dense = OutputOf(w_, x_);
    return SquaredDistance(y, dense) / SquaredNorm(dense);
  }
  Matrix<float> Output(const RankAdapter& rank) const {
    Matrix<float> b(rank.d, kCols), a(rank.d, kRows);
    b.values = rank.b;
    a.values = rank.a;
    Matrix<float> z = OutputOf(b, x_);
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t k = 0; k < rank.d; ++k) {
        if (!(std::fabs(z.row(t)[k]) >= rank.tau[k])) z.row(t)[k] = 0;
      }
    }
    Matrix<float> y(kTokens, kRows);
    Multiply(z, MatrixView(a).Rows(0, rank.d), y);
    return y;
  }

  std::unique_ptr<Executor> executor_ = MakeSerialExecutor();
  Matrix<float> w_ = RandomMatrix(kRows, kCols, 1);
  Matrix<float> x_ = RandomInputs(kTokens, kCols, kCols, 2);
};

TEST_F(FormsTest, ErrorsAreThoseOfTheAdapter) {
  const LinearForms forms = Forms();
  for (const Form form :
       {Form::kRank, Form::kLowRank, Form::kMagnitude, Form::kWeighted}) {
    double before = 1;
    for (const double cost : {0.5, 0.7, 0.9}) {
      const auto error = forms.Error(form, cost);
      ASSERT_TRUE(error) << Name(form) << cost;
      EXPECT_LT(*error, before) << Name(form) << cost;
      before = *error;
      Adapter adapter;
      ASSERT_TRUE(forms.AddTo(adapter, form, cost, false).ok());
      if (IsRank(form)) {
        const RankAdapter& rank = adapter.ranks.at("layer");
        const double kept = rank.density * static_cast<double>(rank.d);
        EXPECT_LE(RankCost(kRows, kCols, rank.d, kept), cost + 1e-9);
        // Error knows thresholds to one bin of |z|.
        EXPECT_NEAR(rank.error, *error, 0.02 * *error + 1e-6) << Name(form);
        EXPECT_NEAR(ErrorOf(Output(rank)), rank.error,
                    1e-4 * rank.error + 1e-7);
        EXPECT_EQ(rank.density == 1, form == Form::kLowRank);
      } else {
        const InputMask& mask = adapter.masks.at("layer");
        EXPECT_NEAR(mask.density, cost, 1e-3);
        Matrix<float> kept = x_;
        for (size_t t = 0; t < kTokens; ++t) {
          for (size_t j = 0; j < kCols; ++j) {
            if (!(std::fabs(kept.row(t)[j]) >= mask.tau[j])) kept.row(t)[j] = 0;
          }
        }
        // Error knows it from the first tokens.
        EXPECT_NEAR(mask.error, *error, 0.1 * *error);
        const double measured = ErrorOf(OutputOf(w_, kept));
        EXPECT_NEAR(measured, mask.error, 0.1 * mask.error);
        const bool uniform =
            std::equal(mask.tau.begin() + 1, mask.tau.end(), mask.tau.begin());
        EXPECT_EQ(uniform, form == Form::kMagnitude);
      }
    }
  }
}

TEST_F(FormsTest, SlopesDecideWhatASlopedMaskKeeps) {
  LinearForms forms = Forms();
  EXPECT_FALSE(forms.Error(Form::kSloped, 0.5));
  Adapter adapter;
  EXPECT_FALSE(forms.AddTo(adapter, Form::kSloped, 0.5, false).ok());
  // The loss does not see the second half of the inputs.
  std::vector<float> slopes(kCols, 0.0f);
  std::fill_n(slopes.begin(), kCols / 2, 2.0f);
  forms.SetSlopes(slopes);
  ASSERT_TRUE(forms.Error(Form::kSloped, 0.4));
  ASSERT_TRUE(forms.AddTo(adapter, Form::kSloped, 0.4, false).ok());
  const InputMask& mask = adapter.masks.at("layer");
  EXPECT_NEAR(mask.density, 0.4, 1e-3);
  for (size_t j = 0; j < kCols; ++j) {
    EXPECT_EQ(mask.keep_frequency[j] > 0, j < kCols / 2) << j;
  }
  EXPECT_NEAR(mask.error, *forms.Error(Form::kSloped, 0.4), 0.1 * mask.error);
}

// Half of the squares that the mask drops, per token.
TEST_F(FormsTest, GradientLossIsWhatASlopedMaskDrops) {
  LinearForms forms = Forms();
  EXPECT_FALSE(forms.GradientLoss(0.5));
  std::vector<float> slopes(kCols);
  for (size_t j = 0; j < kCols; ++j) {
    slopes[j] = 0.1f + static_cast<float>(j % 7);
  }
  forms.SetSlopes(slopes);
  double previous = 0;
  for (const double cost : {1.0, 0.8, 0.5, 0.2}) {
    const double loss = forms.GradientLoss(cost).value();
    if (cost == 1) {
      EXPECT_EQ(loss, 0);
      continue;
    }
    Adapter adapter;
    ASSERT_TRUE(forms.AddTo(adapter, Form::kSloped, cost, false).ok());
    const std::vector<float>& tau = adapter.masks.at("layer").tau;
    double dropped = 0;
    for (size_t t = 0; t < x_.rows; ++t) {
      for (size_t j = 0; j < kCols; ++j) {
        const double x = x_.row(t)[j];
        if (std::abs(x) < tau[j]) dropped += std::pow(x * slopes[j], 2);
      }
    }
    EXPECT_NEAR(loss, dropped / static_cast<double>(x_.rows) / 2, 1e-3 * loss);
    EXPECT_GT(loss, previous);
    previous = loss;
  }
}

TEST_F(FormsTest, MasksKeepWhatTheCostModelAffords) {
  const double size = kRows * kCols;
  const CostModel costs = {
      .dense = {.fixed = 0.1 * size, .per_weight = 1},
      .column_mask = {.fixed = 0.2 * size, .per_weight = 1.25}};
  const LinearForms forms = Forms(costs);
  EXPECT_DOUBLE_EQ(forms.dense_cost(), 1.1 * size);
  Adapter adapter;
  ASSERT_TRUE(forms.AddTo(adapter, Form::kMagnitude, 0.75, false).ok());
  EXPECT_NEAR(adapter.masks.at("layer").density, (0.75 * 1.1 - 0.2) / 1.25,
              1e-3);
  // The call alone costs more.
  EXPECT_FALSE(forms.Error(Form::kMagnitude, 0.15));
  const Status status = forms.AddTo(adapter, Form::kWeighted, 0.15, false);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("larger keep"), std::string::npos);
}

TEST_F(FormsTest, WhatCostsAsMuchAsDenseIsDense) {
  const LinearForms forms = Forms();
  Adapter adapter;
  ASSERT_TRUE(forms.AddTo(adapter, Form::kRank, 1, true).ok());
  EXPECT_TRUE(adapter.ranks.empty());
  EXPECT_TRUE(adapter.left_dense.contains("layer"));
  EXPECT_EQ(forms.Error(Form::kWeighted, 1), 0.0);
}

TEST_F(FormsTest, TooLittleForOneRankIsAnError) {
  const LinearForms forms = Forms();
  EXPECT_FALSE(forms.Error(Form::kRank, 0.01));
  EXPECT_FALSE(forms.Error(Form::kLowRank, 0.01));
  Adapter adapter;
  const Status status = forms.AddTo(adapter, Form::kRank, 0.01, false);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("larger keep"), std::string::npos);
  EXPECT_TRUE(adapter.ranks.empty());
}

TEST_F(FormsTest, RefitIsTheLeastSquaresFit) {
  const LinearForms forms = Forms();
  for (const double cost : {0.55, 0.7, 0.85}) {
    Adapter plain, refit;
    ASSERT_TRUE(forms.AddTo(plain, Form::kRank, cost, false).ok());
    ASSERT_TRUE(forms.AddTo(refit, Form::kRank, cost, true).ok());
    const RankAdapter& before = plain.ranks.at("layer");
    const RankAdapter& after = refit.ranks.at("layer");
    EXPECT_EQ(before.b, after.b);
    EXPECT_EQ(before.tau, after.tau);
    EXPECT_LT(after.error, before.error);
    EXPECT_NEAR(ErrorOf(Output(after)), after.error, 1e-4 * after.error + 1e-7);
    // No other A is better: a step in any direction is worse, but for what the
    // ridge leaves.
    for (unsigned seed = 0; seed < 5; ++seed) {
      RankAdapter other = after;
      const Matrix<float> step = RandomMatrix(other.d, kRows, seed);
      for (size_t i = 0; i < other.a.size(); ++i) {
        other.a[i] += 0.01f * step.values[i];
      }
      EXPECT_GT(ErrorOf(Output(other)), after.error);
    }
  }
}

// A and the error of a layer by hand, where A' = A (Z U^T) (U U^T)^-1 is known:
// without a mask it is A, and with all ranks nothing is lost.
TEST_F(FormsTest, RefitWithoutAMaskChangesNothing) {
  std::vector<RankedLayer> layers =
      RankLayers({"layer"}, {w_}, x_, {.round = false}, *executor_).value();
  const size_t rank = layers.front().basis.rank();
  for (const size_t d : {rank / 2, rank}) {
    const LayerForm form{&layers.front(), d, 0.0f};
    const RankAdapter before = MakeRankAdapter(form, *executor_);
    RankAdapter after = before;
    ASSERT_TRUE(RefitRankAdapter(form, *executor_, after).ok());
    const float largest = std::fabs(*std::max_element(
        before.a.begin(), before.a.end(),
        [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
    for (size_t i = 0; i < after.a.size(); ++i) {
      ASSERT_NEAR(after.a[i], before.a[i], 2e-3f * largest) << i;
    }
    EXPECT_NEAR(after.error, before.error, 1e-3 * before.error + 1e-6);
  }
}

// A rank that no token keeps has nothing to be fitted to.
TEST_F(FormsTest, RefitLeavesRanksThatNothingKeeps) {
  std::vector<RankedLayer> layers =
      RankLayers({"layer"}, {w_}, x_, {.round = false}, *executor_).value();
  const Matrix<float>& z = layers.front().z;
  const size_t d = z.rows;
  // Keeps the larger ranks alone.
  std::vector<float> largest(d);
  for (size_t k = 0; k < d; ++k) {
    for (size_t t = 0; t < z.cols; ++t) {
      largest[k] = std::max(largest[k], std::fabs(z.row(k)[t]));
    }
  }
  std::vector<float> sorted = largest;
  std::sort(sorted.begin(), sorted.end());
  const LayerForm form{&layers.front(), d, sorted[d / 2]};
  const RankAdapter before = MakeRankAdapter(form, *executor_);
  RankAdapter after = before;
  ASSERT_TRUE(RefitRankAdapter(form, *executor_, after).ok());
  size_t kept = 0, dropped = 0;
  for (size_t k = 0; k < d; ++k) {
    float moved = 0;
    for (size_t i = 0; i < before.rows; ++i) {
      const size_t at = k * before.rows + i;
      moved = std::max(moved, std::fabs(after.a[at] - before.a[at]));
    }
    if (largest[k] < form.tau) {
      EXPECT_LT(moved, 1e-5f) << k;
      ++dropped;
    } else {
      kept += moved > 1e-4f ? 1 : 0;
    }
  }
  EXPECT_GT(dropped, 0u);
  EXPECT_GT(kept, 0u);
}

TEST(SolvePositive, SolvesAndRefuses) {
  Matrix<double> a(2, 2), b(2, 3);
  a.values = {4, 1, 1, 3};
  b.values = {1, 0, 9, 2, 1, 5};
  const auto executor = MakeSerialExecutor();
  const Matrix<double> x = SolvePositive(a, b, *executor).value();
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      EXPECT_NEAR(a.row(i)[0] * x.row(0)[j] + a.row(i)[1] * x.row(1)[j],
                  b.row(i)[j], 1e-12);
    }
  }
  a.values = {1, 2, 2, 1};
  EXPECT_FALSE(SolvePositive(a, b, *executor).ok());
}

TEST(InputMask, ColumnsOfZerosAreDropped) {
  Matrix<float> w = RandomMatrix(8, 16, 1);
  for (size_t i = 0; i < 8; ++i) w.row(i)[5] = 0;
  const Matrix<float> x = RandomMatrix(300, 16, 2);
  const auto executor = MakeSerialExecutor();
  const InputMask mask =
      MakeInputMask("m", x, w, InputScore::kWeighted, 0.9, 300, *executor);
  EXPECT_EQ(mask.keep_frequency[5], 0);
  EXPECT_NEAR(mask.density, 0.9, 1e-3);
}

}  // namespace
}  // namespace rankforge
