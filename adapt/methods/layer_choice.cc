#include "adapt/methods/layer_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>
#include <utility>

namespace rankforge {
namespace {

// The angle between x and y (n,) over pi; negative: one of them is zero.
double AngularDistance(const float* x, const float* y, size_t n) {
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < n; ++i) {
    xx += double{x[i]} * x[i];
    yy += double{y[i]} * y[i];
    xy += double{x[i]} * y[i];
  }
  if (xx == 0 || yy == 0) return -1;
  const double cosine = xy / std::sqrt(xx) / std::sqrt(yy);
  return std::acos(std::clamp(cosine, -1.0, 1.0)) / std::numbers::pi;
}

// The mean angular distance of one layer, which is packed. `hidden` (tokens,
// hidden), whole windows, becomes what it writes.
double MeanDistance(Model& model, size_t layer, size_t window,
                    Matrix<float>& hidden) {
  KvCache cache(model.config(), model.options().kv_type, window);
  double sum = 0;
  size_t count = 0;
  for (size_t begin = 0; begin < hidden.rows; begin += window) {
    const std::vector<float> before(hidden.row(begin),
                                    hidden.row(begin) + window * hidden.cols);
    cache.Clear();
    model.ForwardLayer(layer, hidden.row(begin), window, cache);
    for (size_t token = 0; token < window; ++token) {
      const double distance =
          AngularDistance(before.data() + token * hidden.cols,
                          hidden.row(begin + token), hidden.cols);
      if (distance < 0) continue;
      sum += distance;
      ++count;
    }
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

Result<std::vector<double>> AngularDistances(const LayerChoiceRun& run) {
  const size_t layers = run.model->config().layers;
  const size_t window = run.options.window;
  Matrix<float> hidden(run.sample.size(), run.model->config().hidden);
  RANKFORGE_RETURN_IF_ERROR(run.model->Embed(run.sample, hidden.values.data()));
  run.meter.Extend(layers, static_cast<double>(layers));
  std::vector<double> distances;
  for (size_t layer = 0; layer < layers; ++layer) {
    RANKFORGE_RETURN_IF_ERROR(
        run.model->AdaptBlock(layer, run.checkpoint, nullptr));
    distances.push_back(MeanDistance(*run.model, layer, window, hidden));
    RANKFORGE_RETURN_IF_ERROR(run.model->CheckFinite());
    run.model->DropBlock(layer);
    run.checkpoint.ReleasePages();
    RANKFORGE_RETURN_IF_ERROR(
        run.meter.Step(fmt::format("layer {}", layer), 1));
  }
  return distances;
}

}  // namespace

Result<LayerChoice> UnifiedLayers(const LayerChoiceRun& run) {
  const size_t layers = run.checkpoint.config().layers;
  const size_t wanted = layers - run.options.skip;
  // Two at least are wanted, so that nothing divides by zero.
  const size_t interval = layers / (wanted - 1);
  size_t kept = 2;  // the first and the last
  LayerChoice choice;
  for (size_t layer = 1; layer + 1 < layers; ++layer) {
    if (layer % interval == 0 && kept < wanted) {
      ++kept;
    } else {
      choice.layers.push_back(layer);
    }
  }
  choice.parameters["interval"] = std::to_string(interval);
  return choice;
}

Result<LayerChoice> RandomLayers(const LayerChoiceRun& run) {
  LayerChoice choice;
  choice.layers.resize(run.checkpoint.config().layers - 2);
  std::iota(choice.layers.begin(), choice.layers.end(), size_t{1});
  // The start of a Fisher-Yates shuffle, as in SampleWindows.
  std::mt19937_64 random(run.options.seed);
  for (size_t i = 0; i < run.options.skip; ++i) {
    std::swap(choice.layers[i],
              choice.layers[i + random() % (choice.layers.size() - i)]);
  }
  choice.layers.resize(run.options.skip);
  std::ranges::sort(choice.layers);
  return choice;
}

Result<LayerChoice> AngularLayers(const LayerChoiceRun& run) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> distances,
                             AngularDistances(run));
  std::vector<std::pair<double, size_t>> inner;
  for (size_t layer = 1; layer + 1 < distances.size(); ++layer) {
    inner.emplace_back(distances[layer], layer);
  }
  std::ranges::sort(inner);
  inner.resize(run.options.skip);
  LayerChoice choice;
  for (const auto& [distance, layer] : inner) choice.layers.push_back(layer);
  std::ranges::sort(choice.layers);
  choice.parameters["angular_distances"] =
      fmt::format("{:.4f}", fmt::join(distances, " "));
  return choice;
}

}  // namespace rankforge
