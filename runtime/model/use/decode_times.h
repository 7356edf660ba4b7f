// How long decoding takes: several models in turn, so that what drifts on a
// shared machine hits all of them alike.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_DECODE_TIMES_H_
#define RANKFORGE_RUNTIME_MODEL_USE_DECODE_TIMES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// One of the models that take turns.
struct TimedModel {
  Model model;
  KvCache cache;
  std::vector<double> seconds;  // of each timed token

  TimedModel(Model built, size_t capacity)
      : model(std::move(built)),
        cache(model.config(), model.options().kv_type, capacity) {}
};
using TimedModels = std::vector<std::unique_ptr<TimedModel>>;

// Called before each token, with how many of `total` tokens are decoded.
using BeforeTurn = std::function<void(size_t done, size_t total)>;

// Decodes ids[context] and those that follow. Every model decodes a token
// before the next token begins, and each token begins with another model. The
// caches must hold the first `context` tokens. Replaces `seconds` and the
// counters of all models. The first two tokens warm up and count in neither.
// Pins the calling thread to the first usable CPU, as the executor pins its
// helpers to theirs.
Status DecodeInTurns(std::span<const int> ids, size_t context,
                     TimedModels& models, const BeforeTurn& before_turn);

// `count` ids that the model generates. It starts again where a text ends.
Result<std::vector<int>> SampleIds(Model& model, size_t count, uint64_t seed);

// Of the timed tokens. Bytes are the useful bytes of the weights.
struct DecodeTiming {
  double ms_per_token = 0;  // median
  double bytes_per_token = 0;
  double useful_gbps = 0;
};
DecodeTiming TimingOf(const TimedModel& timed);

// What the modules of one kind keep, over all layers and tokens.
struct KindDensity {
  double density = 0;    // kept / total
  double mean_kept = 0;  // channels per token and module
};
std::map<std::string, KindDensity> DensityByKind(
    const ForwardCounters& counters);

// Means per token of the products of one kind, over all layers.
struct StageTime {
  double ms_per_token = 0;
  double bytes_per_token = 0;
  double useful_gbps = 0;
};
struct StageTimes {
  std::map<std::string, StageTime> kinds;
  // The rest of a token's time, between the products: attention, norms, ...
  double between_ms_per_token = 0;
};
StageTimes StagesOf(const TimedModel& timed);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_DECODE_TIMES_H_
