#include "runtime/model/use/decode_times.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/affinity.h"
#include "base/statistics.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

Status DecodeInTurns(std::span<const int> ids, size_t context,
                     TimedModels& models, const BeforeTurn& before_turn) {
  constexpr size_t kWarmUp = 2;
  const PinnedHere pin(UsableCpus().front());
  for (auto& timed : models) timed->seconds.clear();
  std::vector<float> logits(models.front()->model.config().vocab);
  const size_t total = ids.size() - context;
  for (size_t i = 0; i < total; ++i) {
    before_turn(i, total);
    if (i == kWarmUp) {
      for (auto& timed : models) timed->model.ResetCounters();
    }
    for (size_t turn = 0; turn < models.size(); ++turn) {
      TimedModel& timed = *models[(turn + context + i) % models.size()];
      const auto start = std::chrono::steady_clock::now();
      RANKFORGE_RETURN_IF_ERROR(timed.model.Forward(ids.subspan(context + i, 1),
                                                    timed.cache, logits));
      const std::chrono::duration<double> seconds =
          std::chrono::steady_clock::now() - start;
      if (i >= kWarmUp) timed.seconds.push_back(seconds.count());
    }
  }
  return {};
}

Result<std::vector<int>> SampleIds(Model& model, size_t count, uint64_t seed) {
  std::vector<int> ids = {std::max(model.config().bos_id, 0)};
  SamplingOptions sampling{.temperature = 1, .top_p = 1, .seed = seed};
  while (ids.size() < count) {
    RANKFORGE_ASSIGN_OR_RETURN(const Generation generation,
                               Generate(model, std::span(ids).first(1),
                                        count - ids.size(), sampling, {}));
    if (generation.ids.empty()) ids.push_back(ids.front());
    ids.insert(ids.end(), generation.ids.begin(), generation.ids.end());
    ++sampling.seed;
  }
  return ids;
}

DecodeTiming TimingOf(const TimedModel& timed) {
  const ForwardCounters counters = timed.model.counters();
  const double seconds = Median(timed.seconds);
  const double bytes =
      counters.weight_bytes / static_cast<double>(counters.tokens);
  return {seconds * 1e3, bytes, bytes / seconds / 1e9};
}

std::map<std::string, KindDensity> DensityByKind(
    const ForwardCounters& counters) {
  struct Sum {
    double kept = 0;
    double total = 0;
    size_t modules = 0;
  };
  std::map<std::string, Sum> sums;
  for (const auto& [module, density] : counters.density) {
    Sum& sum = sums[KindOf(module)];
    sum.kept += density.kept;
    sum.total += density.total;
    ++sum.modules;
  }
  const auto tokens = static_cast<double>(counters.tokens);
  std::map<std::string, KindDensity> kinds;
  for (const auto& [kind, sum] : sums) {
    if (sum.total == 0) continue;  // of layers that were left out
    kinds[kind] = {sum.kept / sum.total,
                   sum.kept / tokens / static_cast<double>(sum.modules)};
  }
  return kinds;
}

StageTimes StagesOf(const TimedModel& timed) {
  const ForwardCounters counters = timed.model.counters();
  std::map<std::string, ForwardCounters::Stage> sums;
  double seconds = 0;
  for (const auto& [layer, stage] : counters.stages) {
    ForwardCounters::Stage& sum = sums[KindOf(layer)];
    sum.seconds += stage.seconds;
    sum.weight_bytes += stage.weight_bytes;
    seconds += stage.seconds;
  }
  const auto tokens = static_cast<double>(counters.tokens);
  StageTimes times;
  for (const auto& [kind, sum] : sums) {
    times.kinds[kind] = {
        sum.seconds / tokens * 1e3, sum.weight_bytes / tokens,
        sum.seconds > 0 ? sum.weight_bytes / sum.seconds / 1e9 : 0};
  }
  const double total =
      std::accumulate(timed.seconds.begin(), timed.seconds.end(), 0.0);
  times.between_ms_per_token = (total - seconds) / tokens * 1e3;
  return times;
}

}  // namespace rankforge
