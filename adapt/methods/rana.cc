#include "adapt/methods/rana.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "adapt/methods/block_survey.h"
#include "adapt/methods/mixture.h"
#include "adapt/methods/plan_search.h"
#include "adapt/methods/stream_bases.h"
#include "adapt/methods/survey.h"
#include "adapt/run/budget.h"

namespace rankforge {
namespace {

class RanaPlanner : public Planner {
 public:
  explicit RanaPlanner(const AdaptRun& run) : run_(run) {}

  Status Prepare(double keep, Adapter& adapter) override {
    if (layers_.empty()) {
      RANKFORGE_ASSIGN_OR_RETURN(layers_, Survey(run_));
    }
    const StartContext context{run_, layers_};
    if (!Searches()) {
      planner_ = MakeMixturePlanner(context);
      return planner_->Prepare(keep, adapter);
    }
    // A plan is found for what was asked for. Attempts that correct the cost
    // move it.
    if (!found_) {
      RANKFORGE_ASSIGN_OR_RETURN(found_, FindPlan(context, run_.options.keep));
    }
    adapter.parameters["search_start"] = found_->start;
    adapter.parameters["search_start_divergence"] =
        fmt::format("{:.6f}", found_->start_divergence);
    adapter.parameters["search_divergence"] =
        fmt::format("{:.6f}", found_->divergence);
    if (found_->choices.empty()) {
      planner_ = StartNamed(found_->start)->make(context);
    } else {
      const double turns = TurnShare(run_.model.config(), found_->rotation,
                                     run_.options.Costs());
      planner_ = MakeChoicesPlanner(
          run_, Rescaled(found_->choices, layers_, keep - turns),
          found_->bases());
    }
    return planner_->Prepare(keep, adapter);
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    return planner_->AdaptBlock(calibration, adapter);
  }
  // Asked before Prepare, too. Starts follow adapted blocks unless that is left
  // out.
  bool behind() const override {
    return planner_ ? planner_->behind() : MixtureOptions(run_).behind;
  }

 private:
  bool Searches() const {
    const auto& without = run_.options.without;
    return !without.contains(Refinement::kSearch) &&
           !without.contains(Refinement::kCrossLayer);
  }

  AdaptRun run_;
  std::vector<BudgetedLayer> layers_;  // by block, then by Site
  std::optional<FoundPlan> found_;
  std::unique_ptr<Planner> planner_;
};

}  // namespace

double SmallestRanaKeep(const ModelConfig&, const AdaptOptions&) {
  return SmallestSurveyedCost();
}

std::unique_ptr<Planner> MakeRanaPlanner(const AdaptRun& run) {
  return std::make_unique<RanaPlanner>(run);
}

}  // namespace rankforge
