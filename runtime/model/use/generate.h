// Sampling and the generation loop.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
#define RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/use/prompt_lookup.h"

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

// What drafts were worth. Of the first token, which comes of the prompt, there
// is none.
struct DraftCounts {
  size_t passes = 0;    // after the prompt's
  size_t decoded = 0;   // tokens that came of them, an end of text included
  size_t drafted = 0;   // tokens that ran as part of a draft
  size_t accepted = 0;  // of those, how many came out
  // Drafts that made their pass fail: it ran again without. They are not in
  // `drafted`.
  size_t failed = 0;
  std::string failure;  // of the first of them
};

// The tokens after a sequence, one for each call of Next, whatever the drafts:
// a token is sampled from the logits that follow those before it, in order.
class Decoder {
 public:
  // `cache` holds the first tokens of `sequence`, fewer than there are, and has
  // room for `count` more. Where its prompt has ended (Model::EndPrompt), one
  // token that it does not hold is decoded like those before. More of them are
  // another prompt, which needs all layers: then all of `sequence` runs again,
  // and decides anew. With `lookup`, passes check drafts of up to so many
  // tokens (PromptLookup). Model, cache and sampler must outlive this.
  Decoder(Model& model, KvCache& cache, std::vector<int> sequence, size_t count,
          size_t lookup, Sampler& sampler);

  // Runs what the cache does not hold of the prompt. The first Next does it
  // where nobody did.
  Status RunPrompt();
  // The next token, which may be an end of text. At most `count` calls.
  Result<int> Next();
  // Takes what came of drafts out of the cache, which then holds all tokens but
  // the last of Next.
  void Finish();

  const DraftCounts& counts() const { return counts_; }

 private:
  Status Pass();
  // Runs the last token and a draft of what follows. False: there was no draft,
  // or what was drafted made the pass fail, and the cache is as before.
  Result<bool> RunDraft();

  Model& model_;
  KvCache& cache_;
  Sampler& sampler_;
  std::vector<int> sequence_;
  size_t prompt_;  // tokens
  size_t end_;     // of the sequence, with `count` more
  PromptLookup lookup_;
  std::vector<int> draft_;     // of the last pass
  std::vector<float> logits_;  // (1 + draft_, vocab) of the last pass
  size_t row_ = 0;             // the next of them
  size_t rows_ = 0;            // 0: the prompt has not run
  DraftCounts counts_;
};

struct Generation {
  std::vector<int> ids;  // without the prompt and without an end of text
  bool ended = false;    // by an end of text
  // Without the time in `on_token`.
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;
  // What the prompt decided; none where the model never leaves out layers.
  std::optional<LayerDecision> layers = {};
  DraftCounts drafts = {};
};

// Sees each id as it is sampled; false: no more are wanted. May be empty.
using TokenObserver = std::function<bool(int)>;

// Up to `count` tokens after `prompt` (at least one id); stops at an end of
// text. `lookup` changes the time and no token: see Decoder.
Result<Generation> Generate(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& options,
                            const TokenObserver& on_token, size_t lookup = 0);
// The same after `sequence` in `cache`, as a Decoder does it. The cache then
// holds all but the last token that was sampled.
Result<Generation> Continue(Model& model, KvCache& cache,
                            std::vector<int> sequence, size_t count,
                            Sampler& sampler, const TokenObserver& on_token,
                            size_t lookup = 0);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
