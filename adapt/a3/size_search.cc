#include "adapt/a3/size_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/probe.h"
#include "adapt/calibrate/sensitivity.h"
#include "adapt/run/budget.h"
#include "runtime/model/forward/model.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

// Tokens that the moments of the survey, and so its losses, come from.
constexpr size_t kSurveyTokens = 8192;
// Shares of a size at which the divergence is measured. Where less than
// kUsualKeep is to be kept, they are reduced in proportion. A layer gets no
// less than the last of them, because nothing is measured below it.
constexpr double kProbeShares[] = {0.9, 0.7, 0.5};
constexpr double kUsualKeep = 0.7;
// Tokens on which it is measured, at most an eighth of the calibration. They
// are the last ones, which the survey's moments leave out: a fit to too few
// tokens then shows as a divergence.
constexpr size_t kProbeTokens = 2048;

constexpr char kSnapshot[] = "survey";

size_t Index(Component component) { return static_cast<size_t>(component); }

// Parameters of a layer for each unit of a component's size.
std::array<size_t, kComponents> UnitParameters(const ModelConfig& config) {
  const size_t heads = config.hidden * (config.heads + config.kv_heads);
  return {heads, heads, config.hidden * (config.gated_mlp ? 3u : 2u)};
}

size_t MultipleOf(const A3Run& run, Component component) {
  if (component == Component::kMlp) {
    if (run.options.mlp_multiple > 0) return run.options.mlp_multiple;
    return run.config.mlp >= 1024 ? 64 : 32;
  }
  if (run.options.head_multiple > 0) return run.options.head_multiple;
  return run.config.head_dim >= 64 ? 16 : 4;
}

// The sizes that a component of a layer may have, ascending; the last one is
// all of it.
std::vector<size_t> AllowedSizes(const A3Run& run, size_t layer,
                                 Component component) {
  const size_t full = SizesOf(run.config, layer)[Index(component)];
  const size_t multiple = MultipleOf(run, component);
  std::vector<size_t> sizes;
  for (size_t size = multiple; size < full; size += multiple) {
    sizes.push_back(size);
  }
  sizes.push_back(full);
  return sizes;
}

size_t Nearest(const std::vector<size_t>& sizes, double wanted) {
  return *std::min_element(sizes.begin(), sizes.end(), [&](size_t a, size_t b) {
    return std::fabs(static_cast<double>(a) - wanted) <
           std::fabs(static_cast<double>(b) - wanted);
  });
}

std::vector<Sizes> UniformSizes(const A3Run& run) {
  std::vector<Sizes> all;
  for (size_t layer = 0; layer < run.config.layers; ++layer) {
    Sizes& sizes = all.emplace_back(SizesOf(run.config, layer));
    for (const Component component : run.options.components) {
      size_t& size = sizes[Index(component)];
      size = Nearest(AllowedSizes(run, layer, component),
                     run.KeepOf(component) * static_cast<double>(size));
    }
  }
  return all;
}

// By component and layer.
using Budgets = std::array<std::vector<BudgetedLayer>, kComponents>;

// Sizes for the layers of these components under one budget.
void Spread(const std::set<Component>& components, double keep,
            const Budgets& budgets, std::vector<Sizes>& all_sizes) {
  std::vector<BudgetedLayer> all;
  for (const Component component : components) {
    const std::vector<BudgetedLayer>& some = budgets[Index(component)];
    all.insert(all.end(), some.begin(), some.end());
  }
  if (all.empty()) return;
  const std::vector<FormCandidate> chosen = Allocate(all, keep);
  size_t next = 0;
  for (const Component component : components) {
    for (Sizes& sizes : all_sizes) {
      size_t& size = sizes[Index(component)];
      size = static_cast<size_t>(
          std::lround(chosen[next++].cost * static_cast<double>(size)));
    }
  }
}

// One budget for all components, except those with a share of their own.
std::vector<Sizes> SpreadAll(const A3Run& run, const Budgets& budgets) {
  std::vector<Sizes> sizes;
  for (size_t layer = 0; layer < run.config.layers; ++layer) {
    sizes.push_back(SizesOf(run.config, layer));
  }
  std::set<Component> shared;
  for (const Component component : run.options.components) {
    if (run.options.component_keep[Index(component)]) {
      Spread({component}, run.KeepOf(component), budgets, sizes);
    } else {
      shared.insert(component);
    }
  }
  Spread(shared, run.options.keep, budgets, sizes);
  return sizes;
}

Json ToJson(const Budgets& budgets) {
  Json components = Json::array();
  for (const std::vector<BudgetedLayer>& layers : budgets) {
    Json list = Json::array();
    for (const BudgetedLayer& layer : layers) {
      Json candidates = Json::array();
      for (const FormCandidate& candidate : layer.candidates) {
        candidates.push_back({candidate.cost, candidate.loss});
      }
      list.push_back({{"dense_cost", layer.dense_cost},
                      {"candidates", std::move(candidates)}});
    }
    components.push_back(std::move(list));
  }
  return components;
}

// Throws Json::exception.
Budgets BudgetsFrom(const Json& components) {
  Budgets budgets;
  for (size_t i = 0; i < kComponents; ++i) {
    for (const Json& json : components.at(i)) {
      BudgetedLayer& layer = budgets[i].emplace_back();
      layer.dense_cost = json.at("dense_cost").get<double>();
      for (const Json& candidate : json.at("candidates")) {
        layer.candidates.push_back({.cost = candidate.at(0).get<double>(),
                                    .loss = candidate.at(1).get<double>()});
      }
    }
  }
  return budgets;
}

// Predicts what each size loses, as a divergence of the model's predictions.
// The error in the paper's objective is known for every size. The divergence is
// measured at some sizes, with one component of one layer made smaller at a
// time; for other sizes it is interpolated by that error.
class Survey {
 public:
  explicit Survey(A3Run& run)
      : run_(run),
        config_(run.config),
        probed_(run.WholeWindows(std::min(kProbeTokens, run.sample.size() / 8)),
                config_.hidden),
        hidden_(run.WholeWindows(
                    std::min(kSurveyTokens, run.sample.size() - probed_.rows)),
                config_.hidden) {}

  Result<Budgets> Run() {
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      run_.meter.Extend(1, WorkOf(layer));
    }
    RANKFORGE_RETURN_IF_ERROR(Start());
    RANKFORGE_RETURN_IF_ERROR(Restore());
    while (layer_ < config_.layers) RANKFORGE_RETURN_IF_ERROR(SurveyLayer());
    return std::move(budgets_);
  }

 private:
  double WorkOf(size_t layer) const {
    double after = 0;
    for (size_t i = layer; i < config_.layers; ++i) {
      after += static_cast<double>(config_.BlockMacs(i));
    }
    const size_t probes =
        std::size(kProbeShares) * run_.options.components.size();
    return run_.SolveWork(layer, hidden_.rows) +
           after * static_cast<double>(probes * probed_.rows);
  }

  // The dense model, and its predictions.
  Status Start() {
    RANKFORGE_ASSIGN_OR_RETURN(
        model_,
        Model::Create(config_, run_.checkpoint, nullptr, Dispatcher(nullptr),
                      {.type = run_.type,
                       .lm_head_type = run_.type,
                       .threads = run_.options.threads,
                       .blocks_on_demand = true},
                      MakeDefaultExecutor(run_.options.threads)));
    RANKFORGE_RETURN_IF_ERROR(model_->Embed(
        std::span(run_.sample).last(probed_.rows), probed_.values.data()));
    RANKFORGE_ASSIGN_OR_RETURN(
        probe_, Probe::Start(*model_, run_.checkpoint, run_.options.window, 0,
                             probed_));
    return {};
  }

  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return {};
    const auto same_shape = [](const Matrix<float>& a, const Matrix<float>& b) {
      return a.rows == b.rows && a.cols == b.cols;
    };
    bool fits = same_shape(snapshot->matrices["hidden"], hidden_) &&
                same_shape(snapshot->matrices["probed"], probed_);
    try {
      const Json saved = Json::parse(snapshot->text);
      layer_ = saved.at("layer").get<size_t>();
      budgets_ = BudgetsFrom(saved.at("budgets"));
    } catch (const Json::exception&) {
      fits = false;
    }
    for (const Component component : run_.options.components) {
      fits = fits && budgets_[Index(component)].size() == layer_;
    }
    if (!fits || layer_ > config_.layers) {
      return Failed(
          "unfinished work: the survey is not one of this model; remove the "
          "folder to start from the beginning");
    }
    hidden_ = std::move(snapshot->matrices["hidden"]);
    probed_ = std::move(snapshot->matrices["probed"]);
    for (size_t layer = 0; layer < layer_; ++layer) {
      run_.meter.Skip(WorkOf(layer));
    }
    return {};
  }
  Status Save() const {
    if (!run_.state.stored()) return {};
    return run_.state.SaveSnapshot(
        kSnapshot,
        {{{"hidden", hidden_}, {"probed", probed_}},
         Json{{"layer", layer_}, {"budgets", ToJson(budgets_)}}.dump()});
  }

  Status SurveyLayer() {
    const size_t layer = layer_;
    RANKFORGE_ASSIGN_OR_RETURN(const SolvedLayer solved,
                               SolveLayer(run_, layer, hidden_));
    for (const Component component : run_.options.components) {
      RANKFORGE_ASSIGN_OR_RETURN(BudgetedLayer budget,
                                 Candidates(component, solved));
      budgets_[Index(component)].push_back(std::move(budget));
    }
    RANKFORGE_RETURN_IF_ERROR(
        model_->AdaptBlock(layer, run_.checkpoint, nullptr));
    RunBlock(*model_, layer, run_.options.window, probed_);
    RANKFORGE_RETURN_IF_ERROR(model_->CheckFinite());
    model_->DropBlock(layer);
    ++layer_;
    RANKFORGE_RETURN_IF_ERROR(Save());
    return run_.meter.Step(fmt::format("survey of layer {}", layer),
                           WorkOf(layer));
  }

  // The sizes of a component with their predicted losses.
  Result<BudgetedLayer> Candidates(Component component,
                                   const SolvedLayer& solved) {
    const std::vector<size_t> allowed = AllowedSizes(run_, layer_, component);
    const size_t full = allowed.back();
    Sensitivity sensitivity;
    RANKFORGE_ASSIGN_OR_RETURN(
        const size_t least, Measure(component, allowed, solved, sensitivity));
    BudgetedLayer budget;
    budget.dense_cost =
        static_cast<double>(full * UnitParameters(config_)[Index(component)]);
    for (const size_t size : allowed) {
      if (size < least) continue;
      budget.candidates.push_back(
          {.cost = static_cast<double>(size) / static_cast<double>(full),
           .loss = sensitivity.At(solved.solutions.Loss(component, size))});
    }
    return budget;
  }

  // Measures the divergence at some of the allowed sizes of a component.
  // Returns the smallest of those sizes.
  Result<size_t> Measure(Component component,
                         const std::vector<size_t>& allowed,
                         const SolvedLayer& solved, Sensitivity& sensitivity) {
    const size_t full = allowed.back();
    const std::vector<size_t> smaller(allowed.begin(), allowed.end() - 1);
    if (smaller.empty()) return full;
    const double keep = run_.KeepOf(component);
    const BlockShrinker shrinker(solved.config, solved.weights, solved.moments,
                                 solved.solutions, run_.options.without,
                                 *run_.executor);
    std::vector<double> losses;
    std::vector<Matrix<float>> hidden;  // after the smaller layer
    size_t least = full;
    for (const double share : kProbeShares) {
      least = Nearest(smaller, std::min(share, share * keep / kUsualKeep) *
                                   static_cast<double>(full));
      Sizes sizes = SizesOf(config_, layer_);
      sizes[Index(component)] = least;
      RANKFORGE_ASSIGN_OR_RETURN(const ShrunkBlock small,
                                 shrinker.Shrink(sizes));
      const TensorsOver padded(
          run_.checkpoint,
          TensorsOf(run_.spec.blocks[layer_], shrinker.Padded(small)));
      RANKFORGE_RETURN_IF_ERROR(model_->AdaptBlock(layer_, padded, nullptr));
      losses.push_back(solved.solutions.Loss(component, least));
      RunBlock(*model_, layer_, run_.options.window,
               hidden.emplace_back(probed_));
    }
    model_->DropBlock(layer_);
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                               probe_->Divergences(layer_ + 1, hidden));
    for (size_t i = 0; i < losses.size(); ++i) {
      sensitivity.Add(losses[i], divergences[i]);
    }
    return least;
  }

  A3Run& run_;
  const ModelConfig& config_;
  size_t layer_ = 0;
  Matrix<float> probed_;  // what the layer reads on the last tokens
  Matrix<float> hidden_;  // what it reads on the first tokens
  std::optional<Model> model_;
  std::optional<Probe> probe_;
  Budgets budgets_;
};

}  // namespace

Result<std::vector<Sizes>> ChooseSizes(A3Run& run) {
  if (run.options.uniform || !run.Refines(Refinement::kMixedRanks)) {
    return UniformSizes(run);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Budgets budgets, Survey(run).Run());
  return SpreadAll(run, budgets);
}

}  // namespace rankforge
