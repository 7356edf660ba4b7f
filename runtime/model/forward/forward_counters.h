// The work of a model's forward passes.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rankforge {

// Work done since ResetCounters, averaged over tokens by the caller. Prefill
// counts what decode would have read for the same tokens.
struct ForwardCounters {
  uint64_t tokens = 0;
  double block_macs = 0;  // of linear layers inside blocks, masked ones by kept
  double weight_bytes = 0;  // useful bytes of all weights, lm_head included
  struct LayerDensity {
    double kept = 0;
    double total = 0;
    std::vector<uint64_t> tokens_by_kept;  // that kept 0, 1, ... channels
  };
  std::map<std::string, LayerDensity> density;  // by adapted module
  // Products that run together: dense, B with its neighbours, A after its mask.
  // Only decoding is timed, so that a rate means something only where nothing
  // was prefilled since ResetCounters.
  struct Stage {
    double seconds = 0;
    double weight_bytes = 0;
  };
  std::map<std::string, Stage> stages;  // by the layer of ProductSpec
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_FORWARD_COUNTERS_H_
