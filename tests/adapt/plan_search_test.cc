// Plans of whole models on a small synthetic one: their divergences, what each
// projection adds to them, and the search for the best.
#include "adapt/methods/plan_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "adapt/methods/mixture.h"
#include "adapt/methods/plan_judge.h"
#include "adapt/methods/rotated.h"
#include "adapt/methods/rotated_survey.h"
#include "adapt/methods/stream_bases.h"
#include "adapt/methods/survey.h"
#include "adapt/methods/teal_greedy.h"
#include "adapt/methods/uniform.h"
#include "tests/adapt/adapt_run_testing.h"

namespace rankforge {
namespace {

constexpr size_t kTokens = 768;

class PlanSearchTest : public AdaptRunTest {
 protected:
  PlanSearchTest() : AdaptRunTest(kTokens) { options_.keep = 0.6; }

  PlanJudge Judge(const AdaptRun& run) {
    return PlanJudge::Create(
               run, JudgeTokens::Of(checkpoint_->config(), kWindow, kTokens))
        .value();
  }
  static double Divergence(PlanJudge& judge, Planner& planner, double keep) {
    Adapter unused;
    EXPECT_TRUE(planner.Prepare(keep, unused).ok());
    return judge.Judge(planner).value().divergence;
  }
};

TEST_F(PlanSearchTest, FittedAndHeldTokensAreApart) {
  for (const size_t windows : {2, 3, 10, 100, 1000}) {
    const JudgeTokens tokens =
        JudgeTokens::Of(checkpoint_->config(), kWindow, windows * kWindow);
    EXPECT_GT(tokens.fit, 0u);
    EXPECT_GT(tokens.held, 0u);
    EXPECT_EQ(tokens.fit % kWindow + tokens.held % kWindow, 0u);
    EXPECT_LE(tokens.fit + tokens.held, windows * kWindow);
  }
}

TEST_F(PlanSearchTest, ADenseModelDoesNotDiverge) {
  const AdaptRun run = Run();
  PlanJudge judge = Judge(run);
  const auto dense = MakeChoicesPlanner(
      run, std::vector<BlockChoices>(spec_.blocks.size(), BlockChoices{}));
  const Judgement judged = judge.Judge(*dense).value();
  EXPECT_NEAR(judged.divergence, 0, 1e-9);
  EXPECT_NEAR(judged.ratio, 1, 1e-9);
}

// Of small errors the divergence is a quadratic function.
void ExpectEffectsAddUp(PlanJudge judge, Planner& planner) {
  Adapter unused;
  ASSERT_TRUE(planner.Prepare(0.9, unused).ok());
  const double divergence = judge.Judge(planner).value().divergence;
  ASSERT_GT(divergence, 1e-6);
  double sum = 0;
  const std::vector<SiteEffects> effects =
      judge.Effects(planner.rotation()).value();
  for (const SiteEffects& block : effects) {
    for (const double effect : block) sum += effect;
  }
  EXPECT_NEAR(sum, divergence, 0.1 * divergence);
}

TEST_F(PlanSearchTest, EffectsAddUpToTheDivergence) {
  const AdaptRun run = Run();
  ExpectEffectsAddUp(Judge(run), *MakeUniformPlanner<Form::kMagnitude>(run));
}

TEST_F(PlanSearchTest, EffectsInOtherBasesAddUpToTheDivergence) {
  const AdaptRun run = Run();
  ExpectEffectsAddUp(Judge(run), *MakeRotatedPlanner(run, 2));
}

TEST_F(PlanSearchTest, NothingBeatsWhatIsFound) {
  const AdaptRun run = Run();
  const std::vector<BudgetedLayer> layers = Survey(run).value();
  Rotation bases;
  const StartContext context{run, layers, &bases};
  const FoundPlan found = FindPlan(context, 0.6).value();
  ASSERT_NE(StartNamed(found.start), nullptr);
  EXPECT_LE(found.divergence, found.start_divergence);
  PlanJudge judge = Judge(run);
  for (const Start& start : Starts()) {
    const auto planner = start.make(context);
    // As if it cost what was asked for.
    Adapter unused;
    ASSERT_TRUE(planner->Prepare(0.6, unused).ok());
    const Judgement judged = judge.Judge(*planner).value();
    // Bases look more compact on the tokens that they were made from.
    EXPECT_NEAR(judged.ratio, 0.6, start.rotates ? 0.04 : 0.02) << start.name;
    EXPECT_LE(found.divergence,
              judged.divergence * std::pow(judged.ratio / 0.6, 6) + 1e-12)
        << start.name;
  }
}

TEST_F(PlanSearchTest, FisherStartIsMasksByGradientsAtTheCostAsked) {
  const AdaptRun run = Run();
  const std::vector<BudgetedLayer> layers = Survey(run).value();
  const auto planner = StartNamed("fisher")->make({run, layers});
  ASSERT_NE(planner, nullptr);
  Adapter unused;
  ASSERT_TRUE(planner->Prepare(0.6, unused).ok());
  const std::vector<BlockChoices> choices = planner->choices();
  std::set<double> costs;
  for (const BlockChoices& block : choices) {
    for (const FormChoice& choice : block) {
      EXPECT_TRUE(choice.form == Form::kSloped || choice.form == Form::kDense);
      costs.insert(choice.cost);
    }
  }
  EXPECT_LE(CostOf(choices, layers), 0.6);
  EXPECT_GT(CostOf(choices, layers), 0.57);
  EXPECT_GT(costs.size(), 1u);  // layers differ
  options_.without.insert(Refinement::kFisher);
  const AdaptRun plain = Run();
  const std::vector<BudgetedLayer> without = Survey(plain).value();
  EXPECT_EQ(StartNamed("fisher")->make({plain, without}), nullptr);
}

// In the basis I, x' is x without the weight of the norm, and the gradient at
// x' has it: what a mask drops is the same.
TEST_F(PlanSearchTest, RotatedSurveyInTheSameBasisFindsTheSameLosses) {
  const AdaptRun run = Run();
  const std::vector<BudgetedLayer> layers = Survey(run).value();
  const size_t n = config().hidden;
  Rotation identity{n, {{0, true, std::vector<float>(n * n)}}};
  for (size_t i = 0; i < n; ++i) identity.groups[0].q[i * n + i] = 1;
  const std::vector<BudgetedLayer> rotated =
      SurveyRotated(run, identity, layers).value();
  EXPECT_EQ(identity.groups.size(), 1u);  // given back
  ASSERT_EQ(rotated.size(), layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    SCOPED_TRACE(i);
    std::map<double, double> expected;
    for (const FormCandidate& candidate : layers[i].candidates) {
      if (candidate.form == Form::kSloped) {
        expected[candidate.cost] = candidate.gradient_loss;
      }
    }
    size_t compared = 0;
    for (const FormCandidate& candidate : rotated[i].candidates) {
      if (candidate.form != Form::kSloped) continue;
      const double loss = expected.at(candidate.cost);
      EXPECT_NEAR(candidate.gradient_loss, loss, 0.02 * loss + 1e-9);
      ++compared;
    }
    EXPECT_EQ(compared, expected.size());
  }
}

TEST_F(PlanSearchTest, PlansInOtherBasesCountTheirTurns) {
  options_.without.insert(Refinement::kGains);
  const AdaptRun run = Run();
  const std::vector<BudgetedLayer> layers = Survey(run).value();
  Rotation bases;
  const StartContext context{run, layers, &bases};
  const auto planner = StartNamed("rotated-fisher")->make(context);
  Adapter adapter;
  ASSERT_TRUE(planner->Prepare(0.6, adapter).ok());
  ASSERT_NE(planner->rotation(), nullptr);
  EXPECT_FALSE(adapter.rotation.empty());
  const double turns = TurnShare(config(), adapter.rotation, {});
  EXPECT_GT(turns, 0.01);
  EXPECT_LE(CostOf(planner->choices(), layers), 0.6 - turns + 1e-9);
  // Each projection has slopes of its own.
  const BlockSpec& block = spec_.blocks.front();
  const auto slopes = [&](Site site) {
    return run.state.LoadSlopes(0, TurnedSlopes(block[site].name)).value();
  };
  EXPECT_EQ(slopes(Site::kMlpInput).size(), config().hidden);
  EXPECT_NE(slopes(Site::kAttentionInput), slopes(Site::kMlpInput));
  options_.without.insert(Refinement::kRotation);
  EXPECT_EQ(StartNamed("rotated-fisher")->make(context), nullptr);
  EXPECT_EQ(StartNamed("rotated")->make(context), nullptr);
}

TEST_F(PlanSearchTest, RescaledPlansCostWhatIsAsked) {
  const AdaptRun run = Run();
  const std::vector<BudgetedLayer> layers = Survey(run).value();
  const auto planner = StartNamed("mixture")->make({run, layers});
  Adapter unused;
  ASSERT_TRUE(planner->Prepare(0.6, unused).ok());
  const std::vector<BlockChoices> choices =
      Rescaled(planner->choices(), layers, 0.58);
  for (const BlockChoices& block : choices) {
    for (const FormChoice& choice : block) {
      EXPECT_EQ(choice.form == Form::kDense, choice.cost == 1);
    }
  }
  EXPECT_NEAR(CostOf(choices, layers), 0.58, 1e-9);
}

TEST_F(PlanSearchTest, GreedyMasksCostWhatIsAsked) {
  const AdaptRun run = Run();
  ASSERT_TRUE(model_->AdaptBlock(0, *checkpoint_, nullptr).ok());
  const Matrix<float> hidden =
      Calibration::Start(*model_, std::span(sample_).first(256), kWindow)
          .value()
          .hidden();
  const BlockChoices choices = GreedyMasks(run, 0, hidden, 0.5).value();
  double cost = 0, total = 0;
  for (const Site site : kSites) {
    const ProjectionSpec& projection = spec_.blocks[0][site];
    const double dense = static_cast<double>(projection.rows * projection.cols);
    cost += dense * choices[site].cost;
    total += dense;
  }
  EXPECT_NEAR(cost / total, 0.5, 1e-9);
  const Status none = GreedyMasks(run, 0, hidden, 0.01).status();
  EXPECT_EQ(none.code(), StatusCode::kUsage);
}

TEST_F(PlanSearchTest, GreedyMasksLoseLessThanEqualShares) {
  const AdaptRun run = Run();
  ASSERT_TRUE(model_->AdaptBlock(0, *checkpoint_, nullptr).ok());
  const Matrix<float> hidden =
      Calibration::Start(*model_, std::span(sample_).first(256), kWindow)
          .value()
          .hidden();
  const auto error = [&](const BlockChoices& choices) {
    Adapter adapter;
    Calibration calibration =
        Calibration::Continue(*model_, hidden, kWindow, 0);
    EXPECT_TRUE(model_->AdaptBlock(0, *checkpoint_, nullptr).ok());
    Calibration dense = Calibration::Continue(*model_, hidden, kWindow, 0);
    dense.SkipBlock();
    EXPECT_TRUE(BuildBlock(run, choices, {}, calibration, adapter).ok());
    double sum = 0;
    for (size_t i = 0; i < hidden.values.size(); ++i) {
      const double difference =
          static_cast<double>(calibration.hidden().values[i]) -
          dense.hidden().values[i];
      sum += difference * difference;
    }
    return sum;
  };
  BlockChoices equal;
  for (const Site site : kSites) equal[site] = {Form::kMagnitude, 0.5};
  const BlockChoices greedy = GreedyMasks(run, 0, hidden, 0.5).value();
  EXPECT_LT(error(greedy), error(equal));
}

}  // namespace
}  // namespace rankforge
