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

void Sampler::See(std::span<const int> ids) {
  if (options_.repetition_penalty == 1) return;
  seen_.insert(ids.begin(), ids.end());
}

int Sampler::Sample(std::span<const float> logits) {
  logits = Penalized(logits);
  const size_t best = ArgMax(logits.data(), logits.size());
  int id = static_cast<int>(best);
  if (options_.temperature > 0) {
    // Weights are relative to the largest logit. As in ArgMax, NaN never wins.
    candidates_.clear();
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double weight =
          std::exp((double{logits[i]} - logits[best]) / options_.temperature);
      if (!(weight > 0)) continue;
      candidates_.emplace_back(static_cast<float>(weight), static_cast<int>(i));
      total += weight;
    }
    if (!candidates_.empty() && std::isfinite(total))
      id = Draw(Truncate(total));
  }
  See({&id, 1});
  return id;
}

std::span<const float> Sampler::Penalized(std::span<const float> logits) {
  if (seen_.empty()) return logits;
  penalized_.assign(logits.begin(), logits.end());
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const int id : seen_) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& logit = penalized_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  return penalized_;
}

double Sampler::Truncate(double total) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const auto weight_of_all = [&] {
    double sum = 0;
    for (const Candidate& candidate : candidates_) sum += candidate.first;
    return sum;
  };
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    const auto end =
        candidates_.begin() + static_cast<ptrdiff_t>(options_.top_k);
    std::nth_element(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
    total = weight_of_all();
  }
  // The heap gives the most probable tokens first (of equals, the lower id). A
  // full sort of a 128,256-token vocabulary takes longer than a layer.
  if (options_.top_p < 1) {
    const auto less = [&](const Candidate& a, const Candidate& b) {
      return likelier(b, a);
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
  if (options_.min_p > 0) {
    // The likeliest token has the weight 1.
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      return candidate.first < options_.min_p;
    });
    total = weight_of_all();
  }
  return total;
}

int Sampler::Draw(double total) {
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
                            const TokenObserver& on_token) {
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache,
                             model.NewCache(prompt.size() + count));
  Sampler sampler(options);
  return Continue(model, cache, {prompt.begin(), prompt.end()}, count, sampler,
                  on_token);
}

Result<Generation> Continue(Model& model, KvCache& cache,
                            std::vector<int> sequence, size_t count,
                            Sampler& sampler, const TokenObserver& on_token) {
  std::vector<float> logits(model.config().vocab);
  // Runs what the cache does not hold.
  const auto forward = [&]() -> Status {
    const size_t known = std::min(cache.length(), sequence.size());
    if (cache.ChangesFrequencies(sequence.size() - known)) {
      // The keys so far are rotated otherwise: all tokens run again.
      cache.Clear();
    }
    RANKFORGE_RETURN_IF_ERROR(model.Forward(
        std::span(sequence).subspan(cache.length()), cache, logits));
    return cache.decision() ? Status() : model.EndPrompt(cache);
  };
  const size_t prompt = sequence.size();
  if (cache.decision() && prompt - std::min(cache.length(), prompt) > 1) {
    cache.Clear();
  }
  const size_t known = cache.length();
  Generation generation;
  Clock::time_point start = Clock::now();
  RANKFORGE_RETURN_IF_ERROR(forward());
  generation.prefill_tokens_per_s =
      PerSecond(prompt - std::min(known, prompt), SecondsSince(start));
  sampler.See(sequence);

  const std::vector<int>& ends = model.config().eos_ids;
  double seconds = 0;
  size_t decoded = 0;
  while (generation.ids.size() < count) {
    start = Clock::now();
    const int id = sampler.Sample(logits);
    seconds += SecondsSince(start);
    generation.ended = std::ranges::count(ends, id) > 0;
    if (generation.ended) break;
    generation.ids.push_back(id);
    sequence.push_back(id);
    if (on_token && !on_token(id)) break;
    if (generation.ids.size() == count) break;
    start = Clock::now();
    RANKFORGE_RETURN_IF_ERROR(forward());
    seconds += SecondsSince(start);
    ++decoded;
  }
  generation.decode_tokens_per_s = PerSecond(decoded, seconds);
  generation.layers = cache.decision();
  return generation;
}

}  // namespace rankforge
