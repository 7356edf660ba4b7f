#include "adapt/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace rankforge {
namespace {

// Appends what the linear layers read to the matrices of its layer.
class InputCollector : public ActivationObserver {
 public:
  explicit InputCollector(Calibration::LayerInputs& inputs)
      : inputs_(&inputs) {}

  void Observe(size_t, Site site, const float* x, size_t tokens,
               size_t width) override {
    if (site == Site::kAttentionInput) {
      attention_ = std::copy_n(x, tokens * width,
                               inputs_->attention.values.data() + attention_) -
                   inputs_->attention.values.data();
    } else if (site == Site::kMlpInput) {
      mlp_ = std::copy_n(x, tokens * width, inputs_->mlp.values.data() + mlp_) -
             inputs_->mlp.values.data();
    }
  }

 private:
  Calibration::LayerInputs* inputs_;
  std::ptrdiff_t attention_ = 0;  // values seen
  std::ptrdiff_t mlp_ = 0;
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

Calibration::LayerInputs Calibration::NextLayer() {
  LayerInputs inputs{Matrix<float>(hidden_.rows, hidden_.cols),
                     Matrix<float>(hidden_.rows, hidden_.cols)};
  InputCollector collector(inputs);
  model_->set_observer(&collector);
  KvCache cache(model_->config(), model_->options().kv_type, window_);
  for (size_t begin = 0; begin < hidden_.rows; begin += window_) {
    cache.Clear();
    model_->ForwardLayer(layer_, hidden_.row(begin), window_, cache);
  }
  model_->set_observer(nullptr);
  ++layer_;
  return inputs;
}

}  // namespace rankforge
