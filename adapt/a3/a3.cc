#include "adapt/a3/a3.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "adapt/a3/block_shrinker.h"
#include "adapt/a3/checkpoint_folder.h"
#include "adapt/calibrate/block_moments.h"
#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "adapt/calibrate/probe.h"
#include "adapt/calibrate/sensitivity.h"
#include "adapt/run/budget.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/executor.h"

namespace rankforge {
namespace {

// Tokens that the losses behind a budget are taken from.
constexpr size_t kSurveyTokens = 8192;
// Shares of a size at which the divergence is measured, in proportion smaller
// where less than kUsualKeep is to be kept. A layer gets no less than the last
// one: what lies below was never seen.
constexpr double kProbeShares[] = {0.9, 0.7, 0.5};
constexpr double kUsualKeep = 0.7;
// Tokens that it is measured on, at most an eighth of the calibration: the last
// ones, which take no part in the survey's moments, so that a fit to too few
// tokens shows.
constexpr size_t kProbeTokens = 2048;

size_t Index(Component component) { return static_cast<size_t>(component); }

// Parameters of a layer for each unit of a component's size.
std::array<size_t, kComponents> UnitParameters(const ModelConfig& config) {
  const size_t heads = config.hidden * (config.heads + config.kv_heads);
  return {heads, heads, config.hidden * (config.gated_mlp ? 3u : 2u)};
}

size_t MultipleOf(const ModelConfig& config, const A3Options& options,
                  Component component) {
  if (component == Component::kMlp) {
    if (options.mlp_multiple > 0) return options.mlp_multiple;
    return config.mlp >= 1024 ? 64 : 32;
  }
  if (options.head_multiple > 0) return options.head_multiple;
  return config.head_dim >= 64 ? 16 : 4;
}

// The sizes that a component of size `full` may have, ascending; the last one
// is `full`.
std::vector<size_t> AllowedSizes(size_t full, size_t multiple) {
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

class Run {
 public:
  Run(const Checkpoint& checkpoint, const A3Options& options)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        options_(options),
        spec_(DescribeModel(config_, nullptr)),
        executor_(MakeDefaultExecutor(std::max<size_t>(options.threads, 1))) {}

  Result<A3Summary> To(std::span<const int> ids, const std::string& out) {
    RANKFORGE_RETURN_IF_ERROR(CheckOptions());
    RANKFORGE_ASSIGN_OR_RETURN(
        sample_, SampleWindows(ids, options_.window,
                               options_.calibration_tokens, options_.seed));
    RANKFORGE_ASSIGN_OR_RETURN(type_, StoredType(checkpoint_));
    RANKFORGE_ASSIGN_OR_RETURN(NewFolder folder, NewFolder::Create(out));
    const bool mixed = !options_.uniform && Refines(A3Refinement::kMixedRanks);
    total_ = config_.layers * (mixed ? 2 : 1);
    if (mixed) {
      RANKFORGE_RETURN_IF_ERROR(Survey());
    } else {
      UniformSizes();
    }
    RANKFORGE_RETURN_IF_ERROR(Write(folder.temporary()));
    RANKFORGE_RETURN_IF_ERROR(
        CopySettings(checkpoint_.directory(), folder.temporary()));
    RANKFORGE_RETURN_IF_ERROR(folder.Commit());
    return std::move(summary_);
  }

 private:
  bool Refines(A3Refinement refinement) const {
    return !options_.without.contains(refinement);
  }
  double KeepOf(Component component) const {
    if (!options_.components.contains(component)) return 1;
    return options_.component_keep[Index(component)].value_or(options_.keep);
  }
  void Step(const std::string& what) {
    if (options_.progress) options_.progress(++done_, total_, what);
  }

  Status CheckOptions() const {
    std::vector<double> keeps = {options_.keep};
    for (const auto& keep : options_.component_keep) {
      if (keep) keeps.push_back(*keep);
    }
    for (const double keep : keeps) {
      if (!(keep > 0 && keep <= 1)) {
        return UsageError(fmt::format(
            "keep {}: ask for a share of the parameters in (0, 1]", keep));
      }
    }
    if (options_.components.empty()) {
      return UsageError("components: name at least one of qk, ov, mlp");
    }
    for (const Component component :
         {Component::kQk, Component::kOv, Component::kMlp}) {
      if (options_.component_keep[Index(component)] &&
          !options_.components.contains(component)) {
        return UsageError(fmt::format(
            "keep of {0}: it is not one of the components; add it to them",
            ComponentNames()[Index(component)]));
      }
    }
    if (options_.head_multiple % 2 != 0) {
      return UsageError(fmt::format(
          "head multiple {}: rotated elements come in pairs, ask for an even "
          "number",
          options_.head_multiple));
    }
    if (options_.window > config_.max_positions) {
      return UsageError(fmt::format(
          "calibration windows of {} tokens: the model has {} positions",
          options_.window, config_.max_positions));
    }
    if (options_.threads == 0) {
      return UsageError("threads 0: ask for at least one");
    }
    return {};
  }

  std::vector<size_t> Allowed(size_t layer, Component component) const {
    return AllowedSizes(SizesOf(config_, layer)[Index(component)],
                        MultipleOf(config_, options_, component));
  }

  void UniformSizes() {
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      Sizes& sizes = sizes_.emplace_back(SizesOf(config_, layer));
      for (const Component component : options_.components) {
        size_t& size = sizes[Index(component)];
        size = Nearest(Allowed(layer, component),
                       KeepOf(component) * static_cast<double>(size));
      }
    }
  }

  // Moments and solutions of `layer`, which `hidden` is run through.
  struct Surveyed {
    ModelConfig config;  // of the layer alone
    BlockWeights weights;
    BlockMoments moments;
    LayerSolutions solutions;
  };
  Result<Surveyed> RunThrough(size_t layer, bool correlations,
                              Matrix<float>& hidden) {
    if (options_.cancelled && options_.cancelled()) {
      return Failed(fmt::format(
          "stopped before layer {} as asked: nothing was written", layer));
    }
    Surveyed result;
    result.config = OneLayerConfig(config_, layer);
    const OneLayerWeights source(config_, layer, checkpoint_);
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(
            result.config, source, nullptr, Dispatcher(nullptr),
            {.type = type_, .lm_head_type = type_, .threads = options_.threads},
            MakeDefaultExecutor(options_.threads)));
    if (layer == 0) {
      RANKFORGE_RETURN_IF_ERROR(model.Embed(
          std::span(sample_).first(hidden.rows), hidden.values.data()));
    }
    RunLayer(model, options_.window, correlations, hidden, result.moments);
    RANKFORGE_ASSIGN_OR_RETURN(result.weights,
                               LoadBlock(checkpoint_, spec_.blocks[layer]));
    RANKFORGE_ASSIGN_OR_RETURN(
        result.solutions,
        LayerSolutions::Make(result.config, result.weights, result.moments,
                             Refines(A3Refinement::kGroupOutputs)));
    checkpoint_.ReleasePages();
    return result;
  }

  size_t WholeWindows(size_t tokens) const {
    const size_t windows = std::max<size_t>(1, tokens / options_.window);
    return std::min(sample_.size(), windows * options_.window);
  }
  bool Correlations() const {
    return Refines(A3Refinement::kRefitDown) || Refines(A3Refinement::kRefitO);
  }

  // Sizes of all layers under one budget; components with a share of their own
  // have theirs.
  Status Survey() {
    Matrix<float> probed(
        WholeWindows(std::min(kProbeTokens, sample_.size() / 8)),
        config_.hidden);
    Matrix<float> hidden(
        WholeWindows(std::min(kSurveyTokens, sample_.size() - probed.rows)),
        config_.hidden);
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(config_, checkpoint_, nullptr, Dispatcher(nullptr),
                      {.type = type_,
                       .lm_head_type = type_,
                       .threads = options_.threads,
                       .blocks_on_demand = true},
                      MakeDefaultExecutor(options_.threads)));
    RANKFORGE_RETURN_IF_ERROR(model.Embed(std::span(sample_).last(probed.rows),
                                          probed.values.data()));
    RANKFORGE_ASSIGN_OR_RETURN(
        const Probe probe,
        Probe::Start(model, checkpoint_, options_.window, 0, probed));
    std::array<std::vector<BudgetedLayer>, kComponents> layers;
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      sizes_.push_back(SizesOf(config_, layer));
      RANKFORGE_ASSIGN_OR_RETURN(const Surveyed surveyed,
                                 RunThrough(layer, Correlations(), hidden));
      for (const Component component : options_.components) {
        RANKFORGE_ASSIGN_OR_RETURN(
            BudgetedLayer entry,
            Candidates(layer, component, surveyed, probed, probe, model));
        layers[Index(component)].push_back(std::move(entry));
      }
      RANKFORGE_RETURN_IF_ERROR(model.AdaptBlock(layer, checkpoint_, nullptr));
      RunBlock(model, layer, options_.window, probed);
      model.DropBlock(layer);
      Step(fmt::format("survey of layer {}", layer));
    }
    std::set<Component> shared;
    for (const Component component : options_.components) {
      if (options_.component_keep[Index(component)]) {
        Spread({component}, KeepOf(component), layers);
      } else {
        shared.insert(component);
      }
    }
    Spread(shared, options_.keep, layers);
    return {};
  }

  // Sizes for the layers of these components under one budget.
  void Spread(
      const std::set<Component>& components, double keep,
      const std::array<std::vector<BudgetedLayer>, kComponents>& layers) {
    std::vector<BudgetedLayer> all;
    for (const Component component : components) {
      const std::vector<BudgetedLayer>& some = layers[Index(component)];
      all.insert(all.end(), some.begin(), some.end());
    }
    if (all.empty()) return;
    const std::vector<FormCandidate> chosen = Allocate(all, keep);
    size_t next = 0;
    for (const Component component : components) {
      for (Sizes& sizes : sizes_) {
        size_t& size = sizes[Index(component)];
        size = static_cast<size_t>(
            std::lround(chosen[next++].cost * static_cast<double>(size)));
      }
    }
  }

  // What each size of a component loses: its share of the paper's objective,
  // in divergence of the model's predictions as measured at some sizes with
  // this component of this layer alone made smaller.
  Result<BudgetedLayer> Candidates(size_t layer, Component component,
                                   const Surveyed& surveyed,
                                   const Matrix<float>& probed,
                                   const Probe& probe, Model& model) const {
    const size_t full = SizesOf(config_, layer)[Index(component)];
    const std::vector<size_t> allowed = Allowed(layer, component);
    const std::vector<size_t> smaller(allowed.begin(), allowed.end() - 1);
    const BlockShrinker shrinker(surveyed.config, surveyed.weights,
                                 surveyed.moments, surveyed.solutions,
                                 options_.without, *executor_);
    std::vector<double> losses;         // of the probed sizes
    std::vector<Matrix<float>> hidden;  // behind the smaller layer
    size_t least = full;
    for (const double share : kProbeShares) {
      if (smaller.empty()) break;
      Sizes sizes = SizesOf(config_, layer);
      least = Nearest(smaller,
                      std::min(share, share * KeepOf(component) / kUsualKeep) *
                          static_cast<double>(full));
      sizes[Index(component)] = least;
      RANKFORGE_ASSIGN_OR_RETURN(const ShrunkBlock small,
                                 shrinker.Shrink(sizes));
      RANKFORGE_RETURN_IF_ERROR(model.AdaptBlock(
          layer,
          TensorsOver(checkpoint_,
                      TensorsOf(spec_.blocks[layer], shrinker.Padded(small))),
          nullptr));
      losses.push_back(surveyed.solutions.Loss(component, least));
      RunBlock(model, layer, options_.window, hidden.emplace_back(probed));
    }
    model.DropBlock(layer);
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                               probe.Divergences(layer + 1, hidden));
    Sensitivity sensitivity;
    for (size_t i = 0; i < losses.size(); ++i) {
      sensitivity.Add(losses[i], divergences[i]);
    }
    BudgetedLayer entry;
    entry.dense_cost =
        static_cast<double>(full * UnitParameters(config_)[Index(component)]);
    for (const size_t size : allowed) {
      if (size < least) continue;
      entry.candidates.push_back(
          {.cost = static_cast<double>(size) / static_cast<double>(full),
           .loss = sensitivity.At(surveyed.solutions.Loss(component, size))});
    }
    return entry;
  }

  // The config with sizes_; the frequencies are not known yet.
  ModelConfig ShrunkConfig() const {
    ModelConfig config = config_;
    config.layer_dims.clear();
    bool alike = config_.layer_dims.empty();
    for (const Sizes& sizes : sizes_) {
      const auto [qk, vo, mlp] = sizes;
      config.layer_dims.push_back({.qk = qk, .vo = vo, .mlp = mlp});
      alike = alike && qk == config_.head_dim && vo == config_.head_dim &&
              mlp == sizes_[0][Index(Component::kMlp)];
    }
    if (alike) {  // an ordinary model
      config.mlp = sizes_[0][Index(Component::kMlp)];
      config.layer_dims.clear();
    }
    return config;
  }

  Status Write(const std::string& folder) {
    ModelConfig config = ShrunkConfig();
    const ModelSpec small = DescribeModel(config, nullptr);
    Matrix<float> hidden(sample_.size(), config_.hidden);
    const auto layer_tensors = [&](size_t layer) -> Result<NewTensors> {
      RANKFORGE_ASSIGN_OR_RETURN(const Surveyed surveyed,
                                 RunThrough(layer, Correlations(), hidden));
      RANKFORGE_ASSIGN_OR_RETURN(
          const ShrunkBlock block,
          BlockShrinker(surveyed.config, surveyed.weights, surveyed.moments,
                        surveyed.solutions, options_.without, *executor_)
              .Shrink(sizes_[layer]));
      if (!config.layer_dims.empty()) config.layer_dims[layer] = block.dims;
      auto& losses = summary_.losses.emplace_back();
      for (size_t i = 0; i < kComponents; ++i) {
        const auto component = static_cast<Component>(i);
        losses[i] = surveyed.solutions.Loss(component, sizes_[layer][i]) /
                    surveyed.solutions.Loss(component, 0);
      }
      Step(fmt::format("layer {}", layer));
      return TensorsOf(small.blocks[layer], block.weights);
    };
    RANKFORGE_RETURN_IF_ERROR(
        WriteTensors(checkpoint_, config, layer_tensors, folder));
    RANKFORGE_RETURN_IF_ERROR(WriteConfigs(checkpoint_, config, folder));
    summary_.linear_flops_ratio = static_cast<double>(config.LinearMacs()) /
                                  static_cast<double>(config_.LinearMacs());
    summary_.calibration_tokens = sample_.size();
    summary_.config = std::move(config);
    return {};
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const A3Options& options_;
  ModelSpec spec_;
  WeightType type_ = WeightType::kF32;
  std::unique_ptr<Executor> executor_;
  std::vector<int> sample_;  // whole windows
  std::vector<Sizes> sizes_;
  A3Summary summary_;
  size_t done_ = 0;
  size_t total_ = 0;
};

}  // namespace

const std::vector<std::string>& ComponentNames() {
  static const std::vector<std::string> names = {"qk", "ov", "mlp"};
  return names;
}

const std::vector<std::string>& A3RefinementNames() {
  static const std::vector<std::string> names = {
      "refit-down", "refit-o", "mixed-ranks", "group-outputs"};
  return names;
}

Result<A3Summary> ShrinkCheckpoint(const Checkpoint& checkpoint,
                                   std::span<const int> ids,
                                   const A3Options& options,
                                   const std::string& out) {
  try {
    return Run(checkpoint, options).To(ids, out);
  } catch (const std::bad_alloc&) {
    return EnvironmentError(
        "not enough memory for the moments of a layer; use fewer --tokens, or "
        "leave out refit-down and refit-o");
  }
}

}  // namespace rankforge
