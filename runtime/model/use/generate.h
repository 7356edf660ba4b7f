// Sampling and the generation loop.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
#define RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// They apply in the order of Transformers' logits processors: the penalty, the
// temperature, then top_k, top_p and min_p, each of what the former left.
struct SamplingOptions {
  double temperature = 0;  // 0: greedy
  size_t top_k = 0;        // keeps so many of the likeliest tokens; 0: all
  // Keeps the smallest set of tokens whose probability reaches it.
  double top_p = 1;
  // Keeps tokens of at least this share of the likeliest one's probability.
  double min_p = 0;
  // Divides positive logits of tokens that were seen by it, and multiplies
  // negative ones (Keskar et al. 2019, arXiv 1909.05858).
  double repetition_penalty = 1;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // Tokens of the text so far, for the penalty. Sampled ones count as seen.
  void See(std::span<const int> ids);
  int Sample(std::span<const float> logits);

 private:
  using Candidate = std::pair<float, int>;  // weight, id

  std::span<const float> Penalized(std::span<const float> logits);
  // Takes unlikely candidates out; returns the total weight of the others.
  double Truncate(double total);
  int Draw(double total);

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::unordered_set<int> seen_;
  std::vector<float> penalized_;
  std::vector<Candidate> candidates_;
};

struct Generation {
  std::vector<int> ids;  // without the prompt and without an end of text
  bool ended = false;    // by an end of text
  // Without the time in `on_token`.
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;
  // What the prompt decided; none where the model never leaves out layers.
  std::optional<LayerDecision> layers = {};
};

// Sees each id as it is sampled; false: no more are wanted. May be empty.
using TokenObserver = std::function<bool(int)>;

// Up to `count` tokens after `prompt` (at least one id); stops at an end of
// text.
Result<Generation> Generate(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& options,
                            const TokenObserver& on_token);
// The same after `sequence`, of which `cache` holds fewer tokens than there
// are: its first ones. The cache must have room for `count` more, and then
// holds all but the last that was sampled.
// Where its prompt has ended (Model::EndPrompt), one token that it does not
// hold is decoded like those before. More of them are another prompt, which
// needs all layers: then all of `sequence` runs again, and decides anew.
Result<Generation> Continue(Model& model, KvCache& cache,
                            std::vector<int> sequence, size_t count,
                            Sampler& sampler, const TokenObserver& on_token);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
