#include "adapt/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <random>

namespace rankforge {
namespace {

// Appends what the linear layers read to the matrices of its layer that have
// room for it.
class InputCollector : public ActivationObserver {
 public:
  explicit InputCollector(Calibration::LayerInputs& inputs)
      : inputs_{{Site::kAttentionInput, &inputs.attention},
                {Site::kAttentionOutput, &inputs.o},
                {Site::kMlpInput, &inputs.mlp},
                {Site::kMlpHidden, &inputs.down}} {}

  void Observe(size_t, Site site, const float* x, size_t tokens,
               size_t width) override {
    const auto found = inputs_.find(site);
    if (found == inputs_.end() || found->second->rows == 0) return;
    Matrix<float>& matrix = *found->second;
    size_t& seen = seen_[site];
    std::copy_n(x, tokens * width, matrix.values.data() + seen);
    seen += tokens * width;
  }

 private:
  std::map<Site, Matrix<float>*> inputs_;
  std::map<Site, size_t> seen_;  // values
};

}  // namespace

Result<std::vector<int>> SampleWindows(std::span<const int> ids, size_t window,
                                       size_t tokens, uint64_t seed) {
  if (window == 0 || tokens < window) {
    return UsageError(fmt::format(
        "calibration of {} tokens in windows of {}: ask for at least one "
        "window of at least one token",
        tokens, window));
  }
  if (ids.size() < window) {
    return Failed(fmt::format(
        "the calibration text has {} tokens, fewer than one window of {}: use "
        "a longer text or a smaller window",
        ids.size(), window));
  }
  std::vector<size_t> order(ids.size() / window);
  std::iota(order.begin(), order.end(), size_t{0});
  // A Fisher-Yates shuffle of the part that is used; std::shuffle may differ
  // between standard libraries.
  std::mt19937_64 random(seed);
  const size_t count = std::min(order.size(), tokens / window);
  std::vector<int> sample;
  for (size_t i = 0; i < count; ++i) {
    std::swap(order[i], order[i + random() % (order.size() - i)]);
    const auto begin =
        ids.begin() + static_cast<std::ptrdiff_t>(order[i] * window);
    sample.insert(sample.end(), begin,
                  begin + static_cast<std::ptrdiff_t>(window));
  }
  return sample;
}

Result<Calibration> Calibration::Start(Model& model, std::span<const int> ids,
                                       size_t window) {
  Calibration calibration(model, window);
  calibration.hidden_ = Matrix<float>(ids.size(), model.config().hidden);
  RANKFORGE_RETURN_IF_ERROR(
      model.Embed(ids, calibration.hidden_.values.data()));
  return calibration;
}

void Calibration::Run(Matrix<float>& hidden, LayerInputs* inputs) {
  std::optional<InputCollector> collector;
  if (inputs != nullptr) model_->set_observer(&collector.emplace(*inputs));
  KvCache cache(model_->config(), model_->options().kv_type, window_);
  for (size_t begin = 0; begin < hidden.rows; begin += window_) {
    cache.Clear();
    model_->ForwardLayer(layer_, hidden.row(begin), window_, cache);
  }
  model_->set_observer(nullptr);
}

Calibration::LayerInputs Calibration::NextLayer() {
  LayerInputs inputs{.attention = Matrix<float>(hidden_.rows, hidden_.cols),
                     .mlp = Matrix<float>(hidden_.rows, hidden_.cols)};
  Run(hidden_, &inputs);
  ++layer_;
  return inputs;
}

Calibration::LayerInputs Calibration::PeekLayer() {
  const ModelConfig& config = model_->config();
  LayerInputs inputs{
      .attention = Matrix<float>(hidden_.rows, hidden_.cols),
      .mlp = Matrix<float>(hidden_.rows, hidden_.cols),
      .o = Matrix<float>(hidden_.rows, config.o_cols(layer_)),
      .down = Matrix<float>(hidden_.rows, config.mlp_width(layer_))};
  Matrix<float> hidden = hidden_;
  Run(hidden, &inputs);
  return inputs;
}

void Calibration::SkipLayer() {
  Run(hidden_, nullptr);
  ++layer_;
}

}  // namespace rankforge
