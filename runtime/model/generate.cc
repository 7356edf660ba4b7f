#include "runtime/model/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <numeric>
#include <utility>

#include "kernels/elementwise.h"
#include "runtime/model/parallel.h"

namespace rankforge {

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double PerSecond(size_t count, double seconds) {
  return count == 0 || seconds <= 0 ? 0 : static_cast<double>(count) / seconds;
}

// -log softmax(logits)[id], in double: a mean over thousands of tokens is
// compared with golden values to a hundredth of a per cent.
double Loss(std::span<const float> logits, int id) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  return std::log(sum) + largest - logits[static_cast<size_t>(id)];
}

Status CheckIds(std::span<const int> ids, size_t vocab) {
  for (const int id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocab) {
      return Failed(
          fmt::format("evaluate: token id {} is outside the "
                      "vocabulary of {}; use this model's tokenizer",
                      id, vocab));
    }
  }
  return {};
}

// A cache for `capacity` positions, if the model was made for as many.
Result<KvCache> MakeCache(const Model& model, size_t capacity) {
  const size_t most = model.config().max_positions;
  if (capacity > most) {
    return Failed(fmt::format(
        "{} positions are asked for, 'max_position_embeddings' of this model "
        "is {}; use a shorter prompt, fewer tokens or a smaller window",
        capacity, most));
  }
  try {
    return KvCache(model.config(), model.options().kv_type, capacity);
  } catch (const std::exception&) {  // bad_alloc or length_error
    return EnvironmentError(fmt::format(
        "not enough memory for a KV cache of {} positions; use fewer tokens or "
        "--kv-dtype i8",
        capacity));
  }
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed) {}

int Sampler::Sample(std::span<const float> logits) {
  const size_t best = ArgMax(logits.data(), logits.size());
  if (!(options_.temperature > 0)) return static_cast<int>(best);

  // Weights relative to the largest logit. NaN never wins, as in ArgMax.
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

  // The heap gives the most probable tokens first (of equals, the lower id);
  // a full sort of a 128,256-token vocabulary takes longer than a layer.
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
  // The last token is sampled and never run.
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache,
                             MakeCache(model, prompt.size() + count));
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
    if (id == config.eos_id) break;
    generation.ids.push_back(id);
    if (on_token) on_token(id);
    if (generation.ids.size() == count) break;
    RANKFORGE_RETURN_IF_ERROR(model.Forward({&id, 1}, cache, logits));
    ++decoded;
  }
  generation.decode_tokens_per_s = PerSecond(decoded, SecondsSince(start));
  return generation;
}

Result<Evaluation> Evaluate(
    Model& model, std::span<const int> ids, const EvaluationOptions& options,
    const std::function<void(size_t, size_t)>& progress) {
  const size_t window = options.window;
  if (window < 2) {
    return UsageError(
        fmt::format("--window {}: a window needs at least two tokens", window));
  }
  const size_t available = ids.size() / window;
  const size_t total =
      options.windows == 0 ? available : std::min(options.windows, available);
  if (total == 0) {
    return Failed(
        fmt::format("evaluate: {} token ids are less than one window "
                    "of {}; give a longer text or a smaller --window",
                    ids.size(), window));
  }
  const ModelConfig& config = model.config();
  // The last token of a window predicts nothing and is not run.
  const size_t inputs = window - 1;
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, MakeCache(model, inputs));
  std::vector<float> logits(inputs * config.vocab);
  std::vector<double> losses(inputs);
  model.ResetCounters();

  Evaluation evaluation;
  double loss = 0;
  for (size_t w = 0; w < total; ++w) {
    const std::span<const int> text = ids.subspan(w * window, window);
    RANKFORGE_RETURN_IF_ERROR(CheckIds(text, config.vocab));
    cache.Clear();
    const size_t at_once = options.decode ? 1 : inputs;
    for (size_t i = 0; i < inputs; i += at_once) {
      RANKFORGE_RETURN_IF_ERROR(model.Forward(
          text.subspan(i, at_once), cache,
          std::span(logits).subspan(i * config.vocab, at_once * config.vocab),
          /*all_logits=*/true));
    }
    ParallelFor(model.executor(), inputs, [&](size_t i, size_t) {
      losses[i] =
          Loss({logits.data() + i * config.vocab, config.vocab}, text[i + 1]);
    });
    loss = std::accumulate(losses.begin(), losses.end(), loss);
    if (progress) progress(w + 1, total);
  }

  const ForwardCounters counters = model.counters();
  const auto tokens = static_cast<double>(counters.tokens);
  evaluation.tokens = total * inputs;
  evaluation.loss = loss / static_cast<double>(evaluation.tokens);
  evaluation.perplexity = std::exp(evaluation.loss);
  evaluation.linear_flops_ratio =
      counters.block_macs /
      (tokens * static_cast<double>(config.layers * config.BlockMacs()));
  evaluation.bytes_per_token = counters.weight_bytes / tokens;
  for (const auto& [module, density] : counters.density) {
    evaluation.density[module] = density.kept / density.total;
  }
  return evaluation;
}

}  // namespace rankforge
