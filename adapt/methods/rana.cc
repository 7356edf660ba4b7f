#include "adapt/methods/rana.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "adapt/methods/block_builder.h"
#include "adapt/methods/block_survey.h"
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
    const std::vector<FormCandidate> chosen = AllocateAll(keep);
    choices_.assign(run_.spec.blocks.size(), {});
    double predicted = 0, spent = 0, total = 0;
    for (size_t i = 0; i < chosen.size(); ++i) {
      spent += chosen[i].cost * layers_[i].dense_cost;
      total += layers_[i].dense_cost;
      choices_[i / kSites.size()][kSites[i % kSites.size()]] = {chosen[i].form,
                                                                chosen[i].cost};
      predicted += chosen[i].loss;
    }
    if (spent > keep * total * (1 + 1e-9)) {
      return UsageError(fmt::format(
          "keep {}: the cheapest forms of all layers cost {:.4f} of the dense "
          "ones: ask for more, or leave less out",
          keep, spent / total));
    }
    adapter.parameters["predicted_divergence"] =
        fmt::format("{:.6f}", predicted);
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const std::set<Refinement>& without = run_.options.without;
    return BuildBlock(
        run_, choices_[calibration.layer()],
        {.behind = behind(), .refit = !without.contains(Refinement::kRefit)},
        calibration, adapter);
  }
  bool behind() const override {
    return !run_.options.without.contains(Refinement::kBehind);
  }

 private:
  std::vector<FormCandidate> AllocateAll(double keep) const {
    if (!run_.options.without.contains(Refinement::kCrossLayer)) {
      return Allocate(layers_, keep);
    }
    std::vector<FormCandidate> chosen;
    for (size_t i = 0; i < layers_.size(); i += kSites.size()) {
      const std::vector<FormCandidate> block =
          Allocate(std::span(layers_).subspan(i, kSites.size()), keep);
      chosen.insert(chosen.end(), block.begin(), block.end());
    }
    return chosen;
  }

  AdaptRun run_;
  std::vector<BudgetedLayer> layers_;  // by block, then by Site
  std::vector<BlockChoices> choices_;
};

}  // namespace

double SmallestRanaKeep(const ModelConfig&, const AdaptOptions&) {
  return SmallestSurveyedCost();
}

std::unique_ptr<Planner> MakeRanaPlanner(const AdaptRun& run) {
  return std::make_unique<RanaPlanner>(run);
}

}  // namespace rankforge
