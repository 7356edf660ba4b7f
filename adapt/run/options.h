// What a user asks of a run of `adapt`.
#ifndef RANKFORGE_ADAPT_RUN_OPTIONS_H_
#define RANKFORGE_ADAPT_RUN_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapt/forms/cost_model.h"

namespace rankforge {

// What method "rana" does beyond the paper, each of which can be left out to
// see what it is worth (docs/rana.md).
enum class Refinement : uint8_t {
  kFisher,        // bases by what errors do to predictions
  kRefit,         // A by least squares behind the mask
  kBehind,        // calibrated behind the adapted layers
  kCrossLayer,    // one budget for all blocks, not the same share for each
  kRankAdapters,  // qkv and gate_up may become rank adapters
  kInputMasks,    // layers may become input masks
};
// Their names on the command line, in the order of Refinement.
const std::vector<std::string>& RefinementNames();

struct AdaptOptions {
  std::string method = "rana";
  std::set<Refinement> without;  // of method "rana"
  // The share of what the linear layers cost dense, in (0, 1].
  double keep = 0.6;
  // Nanoseconds by what products read; none: they cost their multiply-adds.
  std::optional<CostModel> times;
  size_t window = 256;                // calibration sequence length
  size_t calibration_tokens = 32000;  // hidden vectors a layer
  size_t split_tokens = 4096;         // of them for the MLP split search
  bool round_d = true;  // multiple of 64 from 1024 on, of 16 below
  size_t threads = 1;
  uint64_t seed = 0;
  // Of method "rana": blocks whose divergence is measured, and on how many
  // tokens at most; 0: see docs/rana.md.
  size_t probe_blocks = 0;
  size_t probe_tokens = 0;
  // Steps of unequal length; the time left goes by the work that they take.
  std::function<void(size_t done, size_t total, const std::string& what,
                     std::optional<double> seconds_left)>
      progress;

  CostModel Costs() const { return times.value_or(CostModel{}); }
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_OPTIONS_H_
