#include "adapt/methods/mixture.h"

#include <fmt/format.h>

#include <span>
#include <utility>
#include <vector>

#include "adapt/methods/block_survey.h"

namespace rankforge {
namespace {

constexpr double kCostStep = 0.01;  // between candidates of ByGradients

// The layer with its input masks by gradients, and dense, alone.
BudgetedLayer ByGradients(const BudgetedLayer& layer) {
  BudgetedLayer masks{layer.dense_cost, {{}}};
  const FormCandidate* below = nullptr;
  for (const FormCandidate& candidate : layer.candidates) {
    if (candidate.form != Form::kSloped || candidate.gradient_loss < 0) {
      continue;
    }
    const double loss = candidate.gradient_loss;
    for (double cost = below == nullptr ? candidate.cost
                                        : below->cost + kCostStep;
         cost < candidate.cost - kCostStep / 2; cost += kCostStep) {
      const double share =
          (cost - below->cost) / (candidate.cost - below->cost);
      masks.candidates.push_back(
          {Form::kSloped, cost,
           InterpolatedLoss(below->gradient_loss, loss, share)});
    }
    masks.candidates.push_back({Form::kSloped, candidate.cost, loss});
    below = &candidate;
  }
  return masks;
}

class ChoicesPlanner : public Planner {
 public:
  ChoicesPlanner(const AdaptRun& run, std::vector<BlockChoices> choices,
                 Rotation* rotation)
      : run_(run), choices_(std::move(choices)), rotation_(rotation) {}

  Status Prepare(double, Adapter& adapter) override {
    if (rotation_ != nullptr) adapter.rotation = *rotation_;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const LentRotation lent(rotation_, adapter);
    return BuildBlock(run_, choices_[calibration.layer()], MixtureOptions(run_),
                      calibration, adapter);
  }
  bool behind() const override { return MixtureOptions(run_).behind; }
  std::vector<BlockChoices> choices() const override { return choices_; }
  Rotation* rotation() override { return rotation_; }

 protected:
  AdaptRun run_;
  std::vector<BlockChoices> choices_;  // by block

 private:
  Rotation* rotation_;  // may be null
};

// Chooses when it is told what to keep.
class MixturePlanner : public ChoicesPlanner {
 public:
  MixturePlanner(const AdaptRun& run, std::vector<BudgetedLayer> layers,
                 Rotation* rotation)
      : ChoicesPlanner(run, {}, rotation), layers_(std::move(layers)) {}

  Status Prepare(double keep, Adapter& adapter) override {
    RANKFORGE_RETURN_IF_ERROR(ChoicesPlanner::Prepare(keep, adapter));
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

  std::vector<BudgetedLayer> layers_;  // by block, then by Site
};

}  // namespace

BuildOptions MixtureOptions(const AdaptRun& run) {
  const auto& without = run.options.without;
  return {.behind = !without.contains(Refinement::kBehind),
          .refit = !without.contains(Refinement::kRefit)};
}

std::unique_ptr<Planner> MakeChoicesPlanner(const AdaptRun& run,
                                            std::vector<BlockChoices> choices,
                                            Rotation* rotation) {
  return std::make_unique<ChoicesPlanner>(run, std::move(choices), rotation);
}

std::unique_ptr<Planner> MakeMixturePlanner(const StartContext& context) {
  return std::make_unique<MixturePlanner>(context.run, context.layers, nullptr);
}

std::unique_ptr<Planner> MakeFisherPlanner(const StartContext& context,
                                           Rotation* rotation) {
  std::vector<BudgetedLayer> layers;
  for (const BudgetedLayer& layer : context.layers) {
    layers.push_back(ByGradients(layer));
    if (layers.back().candidates.size() == 1) return nullptr;
  }
  return std::make_unique<MixturePlanner>(context.run, std::move(layers),
                                          rotation);
}

}  // namespace rankforge
