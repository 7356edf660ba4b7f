#include "runtime/model/forward/layer_skipper.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// In double, in the order of the values: no number of threads changes it.
double Dot(const std::vector<float>& w, const float* h) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) sum += double{w[i]} * h[i];
  return sum;
}

// Q^T w, which reads h' = Q^T h as w reads h.
std::vector<float> Turned(const RotationGroup& group,
                          const std::vector<float>& w) {
  const size_t n = w.size();
  std::vector<double> sums(n);
  for (size_t i = 0; i < n; ++i) {
    const float* const row = group.q.data() + i * n;
    for (size_t j = 0; j < n; ++j) sums[j] += double{row[j]} * w[i];
  }
  return {sums.begin(), sums.end()};
}

}  // namespace

Result<LayerSkipper> LayerSkipper::Create(const ModelConfig& config,
                                          const Adapter* adapter,
                                          const SkipOptions& options) {
  LayerSkipper skipper;
  skipper.layers_ = config.layers;
  skipper.hidden_ = config.hidden;
  RANKFORGE_RETURN_IF_ERROR(skipper.SetAlwaysOn(config, options));
  const bool routed = adapter != nullptr && !adapter->skip.routers.empty() &&
                      options.layers.empty();
  if (!routed && (options.threshold || options.most)) {
    return UsageError(
        fmt::format("{}: nothing judges the layers: {}",
                    options.threshold ? "skip threshold" : "max skip",
                    options.layers.empty()
                        ? "give an adapter with routers"
                        : "layers to skip are given; leave one of both out"));
  }
  if (routed) {
    RANKFORGE_RETURN_IF_ERROR(skipper.SetRouters(*adapter, options));
    return skipper;
  }
  std::vector<size_t> layers = options.layers;
  if (layers.empty() && adapter != nullptr) layers = adapter->skip.layers;
  std::ranges::sort(layers);
  RANKFORGE_RETURN_IF_ERROR(skipper.SetFixed(layers));
  if (!skipper.skips() && options.always_on) {
    return UsageError(
        "always on: all layers are, as nothing skips them; give layers to "
        "skip, or an adapter that does");
  }
  return skipper;
}

Status LayerSkipper::SetAlwaysOn(const ModelConfig& config,
                                 const SkipOptions& options) {
  if (!options.always_on) {
    // Of a model of two layers or fewer, all.
    first_on_ = std::min<size_t>(1, config.layers);
    last_on_ = config.layers - first_on_ > 0 ? 1 : 0;
    return {};
  }
  const auto [first, last] = *options.always_on;
  if (first >= config.layers || last >= config.layers - first) {
    return UsageError(fmt::format(
        "always on: the first {} and the last {} of {} layers leave none to "
        "skip; give fewer",
        first, last, config.layers));
  }
  first_on_ = first;
  last_on_ = last;
  return {};
}

Status LayerSkipper::SetFixed(const std::vector<size_t>& layers) {
  for (size_t i = 0; i < layers.size(); ++i) {
    const size_t layer = layers[i];
    if (layer >= layers_) {
      return UsageError(fmt::format(
          "skip layers: {} is none of this model's, which are 0 to {}", layer,
          layers_ - 1));
    }
    if (i > 0 && layer == layers[i - 1]) {
      return UsageError(fmt::format("skip layers: {} is given twice", layer));
    }
    if (AlwaysOn(layer)) {
      return UsageError(fmt::format(
          "skip layers: {} is one of the first {} and last {}, which always "
          "run; leave it out, or make fewer always on",
          layer, first_on_, last_on_));
    }
  }
  fixed_ = layers;
  return {};
}

Status LayerSkipper::SetRouters(const Adapter& adapter,
                                const SkipOptions& options) {
  threshold_ = options.threshold.value_or(adapter.skip.threshold);
  most_ = options.most;
  if (!(threshold_ >= 0 && threshold_ <= 1)) {
    return UsageError(fmt::format(
        "skip threshold: is {}, expected a number from 0 to 1", threshold_));
  }
  for (const auto& [layer, weight] : adapter.skip.routers) {
    const RotationGroup* const group = adapter.rotation.OfStream(layer);
    if (group == nullptr) {
      routers_[layer] = weight;
      continue;
    }
    if (group->q.size() != weight.size() * weight.size()) {
      return Failed(fmt::format(
          "adapter: the router of block {} reads a rotated stream, whose basis "
          "was not loaded; load it with its matrices",
          layer));
    }
    routers_[layer] = Turned(*group, weight);
  }
  return {};
}

void LayerSkipper::Judge(size_t layer, const float* hidden, size_t tokens,
                         Executor& executor, KvCache& cache) const {
  const auto router = routers_.find(layer);
  if (router == routers_.end()) return;
  float* const judgements = cache.Judgements(layer) + cache.length();
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    const double score = Dot(router->second, hidden + token * hidden_);
    judgements[token] = static_cast<float>(1 / (1 + std::exp(-score)));
  });
}

std::optional<double> LayerSkipper::Rho(size_t layer,
                                        std::span<KvCache* const> caches) {
  double rho = 0;
  for (KvCache* cache : caches) {
    const std::span judged(cache->Judgements(layer), cache->length());
    double sum = 0;
    for (const float value : judged) sum += value;
    rho += sum / static_cast<double>(judged.size());
  }
  if (std::isnan(rho)) return std::nullopt;
  return rho / static_cast<double>(caches.size());
}

Result<LayerDecision> LayerSkipper::Decide(
    std::span<KvCache* const> caches) const {
  if (caches.empty()) {
    return UsageError("end of prompt: no sequences; give at least one");
  }
  for (const KvCache* cache : caches) {
    if (cache->length() == 0 || cache->decision()) {
      return UsageError(fmt::format(
          "end of prompt: {}; run the prompt in a cleared KV cache first",
          cache->decision() ? "the prompt of this sequence has ended before"
                            : "the sequence is empty"));
    }
  }
  LayerDecision decision;
  decision.skipped = fixed_;
  std::vector<std::pair<double, size_t>> below;
  for (const auto& [layer, weight] : routers_) {
    const std::optional<double> rho = Rho(layer, caches);
    if (!rho) {
      return UsageError(
          fmt::format("end of prompt: no router has judged all tokens in layer "
                      "{}; run the prompt with this model alone",
                      layer));
    }
    decision.rho[layer] = *rho;
    if (*rho < threshold_ && !AlwaysOn(layer)) below.emplace_back(*rho, layer);
  }
  std::ranges::sort(below);
  below.resize(std::min(below.size(), most_.value_or(below.size())));
  for (const auto& [rho, layer] : below) decision.skipped.push_back(layer);
  std::ranges::sort(decision.skipped);
  return decision;
}

}  // namespace rankforge
