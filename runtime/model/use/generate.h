// Sampling and the generation loop.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
#define RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// temperature 0 is greedy. top_p keeps the smallest set of tokens whose
// probability reaches it.
struct SamplingOptions {
  double temperature = 0;
  double top_p = 1;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  int Sample(std::span<const float> logits);

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<std::pair<float, int>> candidates_;
};

struct Generation {
  std::vector<int> ids;  // without the prompt and the id that ended them
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;
};

// Up to `count` tokens after `prompt` (at least one id); stops at any
// of eos_ids.
// `on_token` (may be empty) sees each id as it is sampled.
Result<Generation> Generate(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& options,
                            const std::function<void(int)>& on_token);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_GENERATE_H_
