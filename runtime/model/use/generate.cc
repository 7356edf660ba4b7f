#include "runtime/model/use/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/layer/elementwise.h"

namespace rankforge {

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double PerSecond(size_t count, double seconds) {
  return count == 0 || seconds <= 0 ? 0 : static_cast<double>(count) / seconds;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed) {}

int Sampler::Sample(std::span<const float> logits) {
  const size_t best = ArgMax(logits.data(), logits.size());
  if (!(options_.temperature > 0)) return static_cast<int>(best);

  // Weights are relative to the largest logit. As in ArgMax, NaN never wins.
  candidates_.clear();
  double total = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double weight =
        std::exp((double{logits[id]} - logits[best]) / options_.temperature);
    if (!(weight > 0)) continue;
    candidates_.emplace_back(static_cast<float>(weight), static_cast<int>(id));
    total += weight;
  }
  if (candidates_.empty() || !std::isfinite(total)) {
    return static_cast<int>(best);
  }

  // The heap gives the most probable tokens first (of equals, the lower id). A
  // full sort of a 128,256-token vocabulary takes longer than a layer.
  if (options_.top_p < 1) {
    const auto less = [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first < b.first : a.second > b.second;
    };
    std::make_heap(candidates_.begin(), candidates_.end(), less);
    auto rest = candidates_.end();
    double mass = 0;
    while (rest != candidates_.begin()) {
      std::pop_heap(candidates_.begin(), rest, less);
      mass += (--rest)->first;
      if (mass >= options_.top_p * total) break;
    }
    candidates_.erase(candidates_.begin(), rest);
    total = mass;
  }

  // 53 random bits: the same number on every standard library.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
  double remaining = uniform * total;
  for (const auto& [weight, id] : candidates_) {
    remaining -= weight;
    if (remaining < 0) return id;
  }
  return candidates_.back().second;
}

Result<Generation> Generate(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& options,
                            const std::function<void(int)>& on_token) {
  const ModelConfig& config = model.config();
  // One position stays free: the last token is sampled and never run.
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache,
                             model.NewCache(prompt.size() + count));
  std::vector<float> logits(config.vocab);
  Sampler sampler(options);
  Generation generation;

  Clock::time_point start = Clock::now();
  RANKFORGE_RETURN_IF_ERROR(model.Forward(prompt, cache, logits));
  generation.prefill_tokens_per_s =
      PerSecond(prompt.size(), SecondsSince(start));

  start = Clock::now();
  size_t decoded = 0;
  while (generation.ids.size() < count) {
    const int id = sampler.Sample(logits);
    if (std::ranges::count(config.eos_ids, id) > 0) break;
    generation.ids.push_back(id);
    if (on_token) on_token(id);
    if (generation.ids.size() == count) break;
    if (cache.ChangesFrequencies(1)) {
      // The keys so far are rotated otherwise: all tokens run again.
      cache.Clear();
      std::vector<int> ids(prompt.begin(), prompt.end());
      ids.insert(ids.end(), generation.ids.begin(), generation.ids.end());
      RANKFORGE_RETURN_IF_ERROR(model.Forward(ids, cache, logits));
    } else {
      RANKFORGE_RETURN_IF_ERROR(model.Forward({&id, 1}, cache, logits));
    }
    ++decoded;
  }
  generation.decode_tokens_per_s = PerSecond(decoded, SecondsSince(start));
  return generation;
}

}  // namespace rankforge
