#include "adapt/methods/plan_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "adapt/methods/probe_plan.h"

namespace rankforge {
namespace {

// More tokens resolve less than one plan differs from the next.
constexpr size_t kFitTokens = 4096;
constexpr size_t kHeldTokens = 2048;
// Multiply-adds of the blocks on all of these tokens.
constexpr double kJudgeWork = 5e12;
constexpr double kBackwardMacs = 4;  // per weight and token

std::string TrialName(size_t layer) { return fmt::format("trial.{}", layer); }

Result<Matrix<float>> Embedded(const AdaptRun& run, size_t begin,
                               size_t tokens) {
  Matrix<float> hidden(tokens, run.model.config().hidden);
  RANKFORGE_RETURN_IF_ERROR(
      run.model.Embed(run.sample.subspan(begin, tokens), hidden.values.data()));
  return hidden;
}

}  // namespace

JudgeTokens JudgeTokens::Of(const ModelConfig& config, size_t window,
                            size_t sample) {
  const double affordable = kJudgeWork / MacsFrom(config, 0);
  const size_t windows = sample / window;
  const size_t most =
      std::max(static_cast<size_t>(affordable) / window, size_t{2});
  JudgeTokens tokens;
  tokens.held = std::min(
      {std::max(kHeldTokens / window, size_t{1}), most / 3 + 1, windows / 3});
  tokens.held = std::max(tokens.held, size_t{1});
  // A sample of a single window has no other tokens.
  tokens.fit = windows <= tokens.held
                   ? windows
                   : std::min({std::max(kFitTokens / window, size_t{1}),
                               std::max(most, tokens.held + 1) - tokens.held,
                               windows - tokens.held});
  tokens.fit *= window;
  tokens.held *= window;
  return tokens;
}

size_t UnseenTokens(const AdaptRun& run) {
  constexpr size_t kMost = 8192;
  constexpr size_t kLeastShare = 4;  // of the sample
  const size_t window = run.options.window, sample = run.sample.size();
  const size_t windows = std::min(kMost, sample / kLeastShare) / window;
  return std::max(windows * window,
                  JudgeTokens::Of(run.model.config(), window, sample).held);
}

Result<PlanJudge> PlanJudge::Create(const AdaptRun& run,
                                    const JudgeTokens& tokens) {
  const size_t begin = run.sample.size() - tokens.held;
  RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> hidden,
                             Embedded(run, begin, tokens.held));
  RANKFORGE_ASSIGN_OR_RETURN(
      Probe probe, Probe::Start(run.model, run.checkpoint, run.options.window,
                                0, std::move(hidden)));
  return PlanJudge(run, tokens, std::move(probe));
}

Result<Judgement> PlanJudge::Judge(Planner& planner) {
  Model& model = run_->model;
  const size_t window = run_->options.window;
  const size_t layers = run_->spec.blocks.size();
  RANKFORGE_ASSIGN_OR_RETURN(
      Calibration calibration,
      Calibration::Start(model, run_->sample.first(tokens_.fit), window));
  RANKFORGE_ASSIGN_OR_RETURN(
      Matrix<float> hidden,
      Embedded(*run_, run_->sample.size() - tokens_.held, tokens_.held));
  hidden_.assign(1, hidden);
  double macs = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    Adapter block;
    block.method = run_->options.method;
    block.checkpoint_hash = identity_;
    RANKFORGE_RETURN_IF_ERROR(
        model.AdaptBlock(layer, run_->checkpoint, nullptr));
    RANKFORGE_RETURN_IF_ERROR(planner.AdaptBlock(calibration, block));
    if (!planner.behind()) {
      RANKFORGE_RETURN_IF_ERROR(
          model.AdaptBlock(layer, run_->checkpoint, &block));
    }
    model.ResetCounters();
    RunBlock(model, layer, window, hidden);
    RANKFORGE_RETURN_IF_ERROR(model.CheckFinite());
    macs += model.counters().block_macs;
    model.DropBlock(layer);
    run_->checkpoint.ReleasePages();
    hidden_.push_back(hidden);
    RANKFORGE_RETURN_IF_ERROR(
        run_->state.KeepBlock(TrialName(layer), std::move(block)));
  }
  std::vector<Matrix<float>> last;
  last.push_back(std::move(hidden));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                             probe_.Divergences(layers, last));
  return Judgement{divergences.front(),
                   macs / (static_cast<double>(tokens_.held) *
                           static_cast<double>(model.config().LinearMacs()))};
}

Result<std::vector<SiteEffects>> PlanJudge::Effects(Rotation* rotation) {
  Model& model = run_->model;
  const size_t window = run_->options.window;
  const size_t layers = run_->spec.blocks.size();
  RANKFORGE_ASSIGN_OR_RETURN(
      Matrix<float> gradient,
      DivergenceGradient(model, run_->checkpoint, hidden_[layers],
                         probe_.dense()));
  std::vector<SiteEffects> effects(layers, SiteEffects{});
  for (size_t layer = layers; layer-- > 0;) {
    RANKFORGE_ASSIGN_OR_RETURN(
        Adapter block, run_->state.KeptBlock(TrialName(layer), identity_));
    const LentRotation lent(rotation, block);
    RANKFORGE_RETURN_IF_ERROR(
        model.AdaptBlock(layer, run_->checkpoint, &block));
    const SiteInputs inputs =
        Calibration::Continue(model, hidden_[layer], window, layer).NextBlock();
    model.DropBlock(layer);
    RANKFORGE_RETURN_IF_ERROR(
        BackThroughBlock(model, run_->checkpoint, layer, window, hidden_[layer],
                         inputs, gradient,
                         {.adapter = &block, .effects = &effects[layer]})
            .status());
    run_->checkpoint.ReleasePages();
    for (double& effect : effects[layer]) {
      effect /= 2 * static_cast<double>(tokens_.held);
    }
  }
  return effects;
}

double MacsPerPlan(const ModelConfig& config, const JudgeTokens& tokens) {
  return MacsFrom(config, 0) *
         (2 * static_cast<double>(tokens.fit) +
          (2 + kBackwardMacs) * static_cast<double>(tokens.held));
}

}  // namespace rankforge
