#include "adapt/calibrate/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

namespace rankforge {

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
  for (size_t i = 0; i < count; ++i) {
    std::swap(order[i], order[i + random() % (order.size() - i)]);
  }
  const size_t last_part = order.size() - order.size() / 4;
  order.resize(count);
  std::ranges::stable_partition(
      order, [&](size_t place) { return place < last_part; });
  std::vector<int> sample;
  for (const size_t place : order) {
    const auto begin =
        ids.begin() + static_cast<std::ptrdiff_t>(place * window);
    sample.insert(sample.end(), begin,
                  begin + static_cast<std::ptrdiff_t>(window));
  }
  return sample;
}

void RunBlock(Model& model, size_t layer, size_t window,
              Matrix<float>& hidden) {
  KvCache cache(model.config(), model.options().kv_type, window);
  for (size_t begin = 0; begin < hidden.rows; begin += window) {
    cache.Clear();
    model.ForwardLayer(layer, hidden.row(begin), window, cache);
  }
}

Result<Calibration> Calibration::Start(Model& model, std::span<const int> ids,
                                       size_t window) {
  Calibration calibration(model, window);
  calibration.hidden_ = Matrix<float>(ids.size(), model.config().hidden);
  RANKFORGE_RETURN_IF_ERROR(
      model.Embed(ids, calibration.hidden_.values.data()));
  return calibration;
}

Calibration Calibration::Continue(Model& model, Matrix<float> hidden,
                                  size_t window, size_t layer) {
  Calibration calibration(model, window);
  calibration.hidden_ = std::move(hidden);
  calibration.layer_ = layer;
  return calibration;
}

Matrix<float> Calibration::First() {
  Matrix<float> x(hidden_.rows, hidden_.cols);
  model_->AttentionInput(layer_, hidden_.values.data(), hidden_.rows,
                         x.values.data());
  return x;
}

Matrix<float> Calibration::Next(Site site, const Matrix<float>& x) {
  const bool last = site == Site::kMlpHidden;
  Matrix<float> next;
  if (!last) {
    const Site behind = kSites[static_cast<size_t>(site) + 1];
    next = Matrix<float>(x.rows, SiteWidth(model_->config(), layer_, behind));
  }
  KvCache cache(model_->config(), model_->options().kv_type, window_);
  for (size_t begin = 0; begin < x.rows; begin += window_) {
    cache.Clear();
    model_->ForwardSite(layer_, site, x.row(begin), window_, cache,
                        hidden_.row(begin), last ? nullptr : next.row(begin));
  }
  if (last) ++layer_;
  return next;
}

void Calibration::SkipBlock() {
  Matrix<float> x = First();
  for (const Site site : kSites) x = Next(site, x);
}

SiteInputs Calibration::NextBlock() {
  SiteInputs inputs;
  Matrix<float> x = First();
  for (const Site site : kSites) {
    inputs[site] = std::move(x);
    x = Next(site, inputs[site]);
  }
  return inputs;
}

}  // namespace rankforge
