// Method "a3": makes a smaller checkpoint. Heads get fewer elements and MLPs
// fewer channels, by the closed-form solutions of adapt/a3/shrink.h; the
// products of a layer stay the same, none is added.
#ifndef RANKFORGE_ADAPT_A3_A3_H_
#define RANKFORGE_ADAPT_A3_A3_H_

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "adapt/run/adapt_state.h"
#include "adapt/run/options.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

struct A3Summary {
  ModelConfig config;
  double linear_flops_ratio = 1;  // share of the linear layers' multiply-adds
  size_t calibration_tokens = 0;
  // By layer and component: the error in the paper's objective, relative to
  // that of dropping the whole component, before refinements.
  std::vector<std::array<double, kComponents>> losses;
};

// 0: no keep is too small, as the smallest size is one multiple.
double SmallestA3Keep(const ModelConfig& config, const AdaptOptions& options);

// Writes the folder `out`, which must not exist or be empty. The caller has
// checked `options`, except those that this method alone reads. Layers that
// earlier runs have finished are read from `state`. Errors: options out of
// range, too few ids, `out` taken or not writable, stopped as asked. On an
// error no part of `out` is left behind.
Result<A3Summary> ShrinkCheckpoint(const Checkpoint& checkpoint,
                                   std::span<const int> ids,
                                   const AdaptOptions& options,
                                   AdaptState& state, const std::string& out);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_A3_H_
