#include "optimize/sensitivities.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "adapt/calibrate/probe.h"
#include "adapt/math/linear_algebra.h"
#include "runtime/table/dispatch.h"
#include "runtime/threads/executor.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// The hidden values of a model whose group `group` has type `type`.
struct RoundedState {
  size_t group = 0;
  size_t type = 0;
  Matrix<float> hidden;  // (tokens, hidden), before the next block
};

class SensitivityRun {
 public:
  SensitivityRun(const Checkpoint& checkpoint, std::span<const int> ids,
                 std::span<const TypeGroup> groups,
                 std::span<const WeightType> types,
                 const SensitivityOptions& options)
      : checkpoint_(checkpoint),
        ids_(ids),
        groups_(groups),
        types_(types),
        options_(options),
        executor_(MakeDefaultExecutor(options.threads)) {}

  Result<std::vector<std::vector<double>>> Run();

 private:
  // Without blocks: they are packed when they run.
  Result<Model> CreateModel(WeightType type, Activations activations) const {
    return Model::Create(checkpoint_.config(), checkpoint_, nullptr,
                         Dispatcher(nullptr),
                         {.type = type,
                          .lm_head_type = type,
                          .activations = activations,
                          .threads = options_.threads,
                          .blocks_on_demand = true},
                         executor_);
  }
  Status CreateModels();
  Status RunLayer(size_t layer);
  void RunRounded(size_t layer, Model& rounded, Site site,
                  Matrix<float>& hidden);
  Result<double> LmHeadDivergence(size_t type);

  const Checkpoint& checkpoint_;
  std::span<const int> ids_;
  std::span<const TypeGroup> groups_;
  std::span<const WeightType> types_;
  const SensitivityOptions& options_;
  std::shared_ptr<Executor> executor_;
  std::optional<Model> dense_;
  std::vector<Model> rounded_;  // one for each type
  std::optional<Probe> probe_;
  Matrix<float> hidden_;  // of the dense model
  std::vector<RoundedState> states_;
};

Status SensitivityRun::CreateModels() {
  RANKFORGE_ASSIGN_OR_RETURN(const WeightType stored, StoredType(checkpoint_));
  RANKFORGE_ASSIGN_OR_RETURN(dense_, CreateModel(stored, Activations::kF32));
  for (const WeightType type : types_) {
    RANKFORGE_ASSIGN_OR_RETURN(Model model,
                               CreateModel(type, options_.activations));
    rounded_.push_back(std::move(model));
  }
  hidden_ = Matrix<float>(ids_.size(), dense_->config().hidden);
  RANKFORGE_RETURN_IF_ERROR(dense_->Embed(ids_, hidden_.values.data()));
  RANKFORGE_ASSIGN_OR_RETURN(
      probe_, Probe::Start(*dense_, checkpoint_, options_.window, 0, hidden_));
  return {};
}

// Block `layer` on whole windows of `hidden`, in place: the projection at
// `site` has the weights of `rounded`, the others those of the dense model.
void SensitivityRun::RunRounded(size_t layer, Model& rounded, Site site,
                                Matrix<float>& hidden) {
  const ModelConfig& config = dense_->config();
  const size_t window = options_.window;
  KvCache cache(config, dense_->options().kv_type, window);
  for (size_t begin = 0; begin < hidden.rows; begin += window) {
    cache.Clear();
    Matrix<float> x(window, config.hidden);
    dense_->AttentionInput(layer, hidden.row(begin), window, x.values.data());
    for (const Site at : kSites) {
      const bool last = at == Site::kMlpHidden;
      Matrix<float> next;
      if (!last) {
        const Site behind = kSites[static_cast<size_t>(at) + 1];
        next = Matrix<float>(window, SiteWidth(config, layer, behind));
      }
      (at == site ? rounded : *dense_)
          .ForwardSite(layer, at, x.values.data(), window, cache,
                       hidden.row(begin), last ? nullptr : next.values.data());
      x = std::move(next);
    }
  }
}

Status SensitivityRun::RunLayer(size_t layer) {
  // A group's states leave the dense model's at its first block.
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (!groups_[group].site || groups_[group].begin != layer) continue;
    for (size_t type = 0; type < types_.size(); ++type) {
      states_.push_back({group, type, hidden_});
    }
  }
  RANKFORGE_RETURN_IF_ERROR(dense_->AdaptBlock(layer, checkpoint_, nullptr));
  for (Model& model : rounded_) {
    RANKFORGE_RETURN_IF_ERROR(model.AdaptBlock(layer, checkpoint_, nullptr));
  }
  for (RoundedState& state : states_) {
    const TypeGroup& group = groups_[state.group];
    if (layer < group.end) {
      RunRounded(layer, rounded_[state.type], *group.site, state.hidden);
    } else {
      RunBlock(*dense_, layer, options_.window, state.hidden);
    }
  }
  RunBlock(*dense_, layer, options_.window, hidden_);
  dense_->DropBlock(layer);
  for (Model& model : rounded_) {
    model.DropBlock(layer);
    RANKFORGE_RETURN_IF_ERROR(model.CheckFinite());
  }
  checkpoint_.ReleasePages();
  return dense_->CheckFinite();
}

Result<double> SensitivityRun::LmHeadDivergence(size_t type) {
  const size_t layers = dense_->config().layers;
  RANKFORGE_ASSIGN_OR_RETURN(const Probe rounded,
                             Probe::Start(rounded_[type], checkpoint_,
                                          options_.window, layers, hidden_));
  const Matrix<float>& p = probe_->dense();
  const Matrix<float>& q = rounded.dense();
  std::vector<double> sums(p.rows);
  ParallelFor(*executor_, p.rows, [&](size_t t, size_t) {
    for (size_t i = 0; i < p.cols; ++i) {
      const auto log_p = static_cast<double>(p.row(t)[i]);
      sums[t] += std::exp(log_p) * (log_p - static_cast<double>(q.row(t)[i]));
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0) /
         static_cast<double>(sums.size());
}

Result<std::vector<std::vector<double>>> SensitivityRun::Run() {
  if (ids_.empty() || ids_.size() % options_.window != 0) {
    return Failed(fmt::format(
        "optimize: {} tokens are no whole windows of {}; give a longer text "
        "or a smaller --window",
        ids_.size(), options_.window));
  }
  RANKFORGE_RETURN_IF_ERROR(CreateModels());
  const size_t layers = dense_->config().layers;
  for (size_t layer = 0; layer < layers; ++layer) {
    if (options_.progress) options_.progress(layer, layers);
    RANKFORGE_RETURN_IF_ERROR(RunLayer(layer));
  }
  std::vector<std::vector<double>> found(groups_.size(),
                                         std::vector<double>(types_.size()));
  for (RoundedState& state : states_) {
    std::vector<Matrix<float>> one;
    one.push_back(std::move(state.hidden));
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergence,
                               probe_->Divergences(layers, one));
    // Rounding of the sums can take nothing below zero.
    found[state.group][state.type] = std::max(divergence.front(), 0.0);
  }
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (groups_[group].site) continue;
    for (size_t type = 0; type < types_.size(); ++type) {
      RANKFORGE_ASSIGN_OR_RETURN(const double divergence,
                                 LmHeadDivergence(type));
      found[group][type] = std::max(divergence, 0.0);
    }
  }
  if (options_.progress) options_.progress(layers, layers);
  return found;
}

}  // namespace

Result<std::vector<std::vector<double>>> MeasureSensitivities(
    const Checkpoint& checkpoint, std::span<const int> ids,
    std::span<const TypeGroup> groups, std::span<const WeightType> types,
    const SensitivityOptions& options) {
  return SensitivityRun(checkpoint, ids, groups, types, options).Run();
}

}  // namespace rankforge
