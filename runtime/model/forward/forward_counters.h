// The work of a model's forward passes.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rankforge {

// The sum of the work since ResetCounters; callers divide by `tokens`. Prefill
// counts what decode would have read for the same tokens, one at a time, and so
// does Model::Decode of several: its kernels may read weights once for all of
// them. Tokens count that a caller takes back from the cache, too.
struct ForwardCounters {
  uint64_t tokens = 0;
  double block_macs = 0;    // of linear layers in blocks; only what masks keep
  double weight_bytes = 0;  // useful bytes of all weights, lm_head included
  struct LayerDensity {
    double kept = 0;
    double total = 0;
    std::vector<uint64_t> tokens_by_kept;  // that kept 0, 1, ... channels
  };
  std::map<std::string, LayerDensity> density;  // by adapted module
  // Products that run together: dense ones, B with those beside it, or A after
  // its mask. Only decoding is timed, so a rate has a meaning only if nothing
  // was prefilled since ResetCounters. Where several tokens are decoded
  // together it is that of single ones, above what memory gives.
  struct Stage {
    double seconds = 0;
    double weight_bytes = 0;
  };
  // By ProductSpec::layer of one of the products; of the A's of a projection,
  // by "<projection>.rank.A".
  std::map<std::string, Stage> stages;

  ForwardCounters& operator+=(const ForwardCounters& other);
};

inline ForwardCounters& ForwardCounters::operator+=(
    const ForwardCounters& other) {
  tokens += other.tokens;
  block_macs += other.block_macs;
  weight_bytes += other.weight_bytes;
  for (const auto& [module, theirs] : other.density) {
    LayerDensity& ours = density[module];
    ours.kept += theirs.kept;
    ours.total += theirs.total;
    std::vector<uint64_t>& counts = ours.tokens_by_kept;
    counts.resize(std::max(counts.size(), theirs.tokens_by_kept.size()));
    for (size_t i = 0; i < theirs.tokens_by_kept.size(); ++i) {
      counts[i] += theirs.tokens_by_kept[i];
    }
  }
  for (const auto& [layer, theirs] : other.stages) {
    stages[layer].seconds += theirs.seconds;
    stages[layer].weight_bytes += theirs.weight_bytes;
  }
  return *this;
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_
