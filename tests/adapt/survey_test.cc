// What decides the forms of a model, on a small synthetic one: divergences by
// Probe, the candidates of Survey, and the blocks that BuildBlock makes.
#include "adapt/methods/survey.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/calibrate/probe.h"
#include "adapt/forms/rank_basis.h"
#include "adapt/methods/block_builder.h"
#include "adapt/methods/block_survey.h"
#include "tests/adapt/adapt_run_testing.h"
#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

constexpr size_t kTokens = 512;
constexpr size_t kProbed = kTokens / 8;  // the survey's share of them
constexpr size_t kSurveyed = kTokens - kProbed;

class SurveyTest : public AdaptRunTest {
 protected:
  SurveyTest() : AdaptRunTest(kTokens) { options_.round_d = false; }

  // What block `layer` reads of `count` tokens from `begin` on, blocks before
  // it dense.
  Matrix<float> HiddenAt(size_t layer, size_t begin, size_t count) {
    Matrix<float> hidden(count, config().hidden);
    EXPECT_TRUE(model_
                    ->Embed(std::span(sample_).subspan(begin, count),
                            hidden.values.data())
                    .ok());
    for (size_t i = 0; i < layer; ++i) RunDense(i, hidden);
    return hidden;
  }
  void RunDense(size_t layer, Matrix<float>& hidden) {
    EXPECT_TRUE(model_->AdaptBlock(layer, *checkpoint_, nullptr).ok());
    RunBlock(*model_, layer, kWindow, hidden);
    model_->DropBlock(layer);
  }

  // From what the final norm reads: (tokens, vocab).
  Matrix<double> Probabilities(const Matrix<float>& hidden) {
    Matrix<float> logits(hidden.rows, config().vocab);
    for (size_t t = 0; t < hidden.rows; t += kWindow) {
      model_->FinalLogits(hidden.row(t), kWindow, logits.row(t));
    }
    Matrix<double> p(hidden.rows, config().vocab);
    for (size_t t = 0; t < hidden.rows; ++t) {
      double sum = 0;
      for (size_t i = 0; i < p.cols; ++i) {
        p.row(t)[i] = std::exp(static_cast<double>(logits.row(t)[i]));
        sum += p.row(t)[i];
      }
      for (size_t i = 0; i < p.cols; ++i) p.row(t)[i] /= sum;
    }
    return p;
  }
  // The mean over tokens of KL(p || q), nats.
  static double Divergence(const Matrix<double>& p, const Matrix<double>& q) {
    double sum = 0;
    for (size_t i = 0; i < p.values.size(); ++i) {
      sum += p.values[i] * std::log(p.values[i] / q.values[i]);
    }
    return sum / static_cast<double>(p.rows);
  }
};

TEST_F(SurveyTest, ProbeMeasuresNothingOfTheDenseModel) {
  const Probe probe =
      Probe::Start(*model_, *checkpoint_, kWindow, 0, HiddenAt(0, 0, 64))
          .value();
  EXPECT_EQ(probe.tokens(), 64u);
  for (size_t layer = 0; layer <= config().layers; ++layer) {
    std::vector<Matrix<float>> hidden = {HiddenAt(layer, 0, 64)};
    EXPECT_EQ(probe.Divergences(layer, hidden).value(),
              std::vector<double>{0.0})
        << layer;
  }
}

TEST_F(SurveyTest, ProbeMeasuresTheDivergenceOfPredictions) {
  constexpr size_t kCount = 64;
  const size_t layers = config().layers;
  const Probe probe =
      Probe::Start(*model_, *checkpoint_, kWindow, 0, HiddenAt(0, 0, kCount))
          .value();
  const Matrix<double> dense = Probabilities(HiddenAt(layers, 0, kCount));
  for (size_t layer = 0; layer <= layers; ++layer) {
    std::vector<Matrix<float>> hidden;
    std::vector<double> expected;
    for (const float scale : {0.05f, 0.3f}) {
      Matrix<float>& moved = hidden.emplace_back(HiddenAt(layer, 0, kCount));
      const Matrix<float> noise = RandomMatrix(kCount, config().hidden, 7);
      for (size_t i = 0; i < moved.values.size(); ++i) {
        moved.values[i] += scale * noise.values[i];
      }
      Matrix<float> last = moved;
      for (size_t i = layer; i < layers; ++i) RunDense(i, last);
      expected.push_back(Divergence(dense, Probabilities(last)));
    }
    ASSERT_GT(expected[0], 1e-5);
    ASSERT_GT(expected[1], 2 * expected[0]);
    const std::vector<double> found = probe.Divergences(layer, hidden).value();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(found[i], expected[i], 1e-3 * expected[i] + 1e-6) << layer;
    }
  }
}

TEST_F(SurveyTest, CandidatesLoseWhatWasMeasured) {
  const std::vector<BudgetedLayer> layers = Survey(Run()).value();
  ASSERT_EQ(layers.size(), config().layers * kSites.size());
  // At a cost that is probed, the loss is the divergence of a model with this
  // form in this layer alone.
  constexpr double kCost = 0.35;
  constexpr Form kForm = Form::kWeighted;
  const Matrix<double> dense =
      Probabilities(HiddenAt(config().layers, kSurveyed, kProbed));
  for (size_t layer = 0; layer < config().layers; ++layer) {
    Matrix<float> hidden = HiddenAt(layer, 0, kSurveyed);
    ASSERT_TRUE(model_->AdaptBlock(layer, *checkpoint_, nullptr).ok());
    SiteInputs inputs =
        Calibration::Continue(*model_, hidden, kWindow, layer).NextBlock();
    for (const Site site : kSites) {
      inputs[site] =
          RowsOf(inputs[site], OrdinaryTokens({&inputs[site]}, kWindow));
      const BudgetedLayer& budget =
          layers[layer * kSites.size() + static_cast<size_t>(site)];
      const ProjectionSpec& projection = spec_.blocks[layer][site];
      EXPECT_EQ(budget.dense_cost,
                static_cast<double>(projection.rows * projection.cols));
      const LinearForms linear =
          LinearForms::Create(
              projection.name, WeightsAt(Run(), layer, site).value(),
              inputs[site], false, {.round = false}, model_->executor())
              .value();
      Adapter alone;
      ASSERT_TRUE(linear.AddTo(alone, kForm, kCost, false).ok());
      Matrix<float> last = HiddenAt(layer, kSurveyed, kProbed);
      ASSERT_TRUE(model_->AdaptBlock(layer, *checkpoint_, &alone).ok());
      RunBlock(*model_, layer, kWindow, last);
      for (size_t i = layer + 1; i < config().layers; ++i) RunDense(i, last);
      const double expected = Divergence(dense, Probabilities(last));
      ASSERT_GT(expected, 1e-6);
      size_t found = 0;
      for (const FormCandidate& candidate : budget.candidates) {
        if (candidate.form != kForm || candidate.cost != kCost) continue;
        EXPECT_NEAR(candidate.loss, expected, 1e-3 * expected + 1e-6)
            << layer << " " << projection.name;
        ++found;
      }
      EXPECT_EQ(found, 1u) << layer << " " << projection.name;
    }
  }
}

TEST_F(SurveyTest, EverySiteHasItsForms) {
  const std::vector<BudgetedLayer> layers = Survey(Run()).value();
  for (size_t i = 0; i < layers.size(); ++i) {
    const Site site = kSites[i % kSites.size()];
    std::set<Form> forms;
    double last_loss = 0;
    Form last_form = Form::kDense;
    for (const FormCandidate& candidate : layers[i].candidates) {
      forms.insert(candidate.form);
      EXPECT_GE(candidate.cost, SmallestSurveyedCost());
      EXPECT_EQ(candidate.form == Form::kDense, candidate.cost == 1);
      // The more a form costs, the less it loses.
      if (candidate.form == last_form) {
        EXPECT_LE(candidate.loss, last_loss);
      }
      last_form = candidate.form;
      last_loss = candidate.loss;
    }
    const bool expands =
        site == Site::kAttentionInput || site == Site::kMlpInput;
    std::set<Form> expected = {Form::kDense, Form::kMagnitude, Form::kWeighted,
                               Form::kSloped};
    if (expands) expected.insert(Form::kRank);
    EXPECT_EQ(forms, expected) << i;
    // What rank adapters are made in is there.
    const size_t layer = i / kSites.size();
    EXPECT_EQ(state_.LoadBasis(layer, spec_.blocks[layer][site].name)
                  .value()
                  .has_value(),
              expands)
        << i;
  }
}

class BuildBlockTest : public SurveyTest {
 protected:
  // At block 0, packed.
  Calibration Start() {
    EXPECT_TRUE(model_->AdaptBlock(0, *checkpoint_, nullptr).ok());
    return Calibration::Start(*model_, sample_, kWindow).value();
  }
  const std::string& NameAt(Site site) const {
    return spec_.blocks[0][site].name;
  }
  static BlockChoices Masks() {
    BlockChoices choices;
    for (const Site site : kSites) choices[site] = {Form::kWeighted, 0.5};
    return choices;
  }
  // What block 1 reads where block 0 is `adapter`'s.
  std::vector<float> After(const Adapter* adapter) {
    Matrix<float> hidden = HiddenAt(0, 0, kTokens);
    EXPECT_TRUE(model_->AdaptBlock(0, *checkpoint_, adapter).ok());
    RunBlock(*model_, 0, kWindow, hidden);
    return hidden.values;
  }
};

TEST_F(BuildBlockTest, DenseChoicesStayDense) {
  Calibration calibration = Start();
  Adapter adapter;
  ASSERT_TRUE(BuildBlock(Run(), {}, {}, calibration, adapter).ok());
  EXPECT_EQ(calibration.layer(), 1u);
  EXPECT_EQ(adapter.left_dense.size(), kSites.size());
  EXPECT_TRUE(adapter.ranks.empty() && adapter.masks.empty());
  EXPECT_EQ(calibration.hidden().values, After(nullptr));
}

TEST_F(BuildBlockTest, CalibratesOnWhatAdaptedLayersCompute) {
  Calibration calibration = Start();
  Adapter adapter;
  ASSERT_TRUE(BuildBlock(Run(), Masks(), {}, calibration, adapter).ok());
  ASSERT_EQ(adapter.masks.size(), kSites.size());
  EXPECT_EQ(calibration.hidden().values, After(&adapter));
  EXPECT_NE(calibration.hidden().values, After(nullptr));
}

TEST_F(BuildBlockTest, OrOnWhatDenseLayersCompute) {
  Calibration calibration = Start();
  Adapter dense, behind;
  ASSERT_TRUE(
      BuildBlock(Run(), Masks(), {.behind = false}, calibration, dense).ok());
  EXPECT_EQ(calibration.hidden().values, After(nullptr));
  Calibration again = Start();
  ASSERT_TRUE(BuildBlock(Run(), Masks(), {}, again, behind).ok());
  // The first projection reads the same, the last one does not.
  const auto tau = [&](const Adapter& adapter, Site site) {
    return adapter.masks.at(NameAt(site)).tau;
  };
  EXPECT_EQ(tau(dense, Site::kAttentionInput),
            tau(behind, Site::kAttentionInput));
  EXPECT_NE(tau(dense, Site::kMlpHidden), tau(behind, Site::kMlpHidden));
}

TEST_F(BuildBlockTest, RanksAreOfTheBasisThatTheStateHas) {
  BlockChoices choices;
  choices[Site::kMlpInput] = {Form::kRank, 0.6};
  const std::string& module = NameAt(Site::kMlpInput);
  Adapter own, given, refit;
  Calibration calibration = Start();
  ASSERT_TRUE(BuildBlock(Run(), choices, {}, calibration, own).ok());

  // The basis of the same weights for other inputs.
  const Matrix<float> w = WeightsAt(Run(), 0, Site::kMlpInput).value();
  const Matrix<double> moments =
      SecondMoments(RandomInputs(400, w.cols, w.cols, 3), model_->executor());
  const BasisProblem problem{&w, &moments, nullptr};
  const RankBasis basis = std::move(
      MakeRankBases({&problem, 1}, model_->executor()).value().front());
  ASSERT_TRUE(state_.SaveBasis(0, module, basis).ok());
  for (Adapter* adapter : {&given, &refit}) {
    Calibration next = Start();
    ASSERT_TRUE(
        BuildBlock(Run(), choices, {.refit = adapter == &refit}, next, *adapter)
            .ok());
    const RankAdapter& rank = adapter->ranks.at(module);
    EXPECT_TRUE(
        std::equal(rank.b.begin(), rank.b.end(), basis.b.values.begin()));
    EXPECT_NE(rank.b, own.ranks.at(module).b);
  }
  EXPECT_NE(given.ranks.at(module).a, refit.ranks.at(module).a);
  EXPECT_LT(refit.ranks.at(module).error, given.ranks.at(module).error);
}

}  // namespace
}  // namespace rankforge
