// Adapts a block, one projection after the other.
#ifndef RANKFORGE_ADAPT_METHODS_BLOCK_BUILDER_H_
#define RANKFORGE_ADAPT_METHODS_BLOCK_BUILDER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/forms/linear_forms.h"
#include "adapt/run/method.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// Under what name the state keeps the slopes of a projection in a rotated
// block (AdaptState::SaveSlopes).
std::string TurnedSlopes(const std::string& module);

// The weights of the projection that reads at `site`, stacked.
Result<Matrix<float>> WeightsAt(const AdaptRun& run, size_t layer, Site site);

struct BuildOptions {
  // Each projection is calibrated on what the adapted ones before it compute,
  // so that every threshold keeps what was planned; else on what the dense
  // model computes.
  bool behind = true;
  bool refit = false;  // RefitRankAdapter
};

// Adds the chosen forms of the block that `calibration` is at to `adapter`, and
// runs calibration through the block, adapted or dense as `options` say. Rank
// adapters are made in the bases that the run's state has, else in new ones. In
// a block that adapter.rotation rotates, forms of what reads the stream are
// those of its basis, and so are the hidden values of calibration.
// Errors: a form that is not possible at its cost.
Status BuildBlock(const AdaptRun& run, const BlockChoices& choices,
                  const BuildOptions& options, Calibration& calibration,
                  Adapter& adapter);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_BLOCK_BUILDER_H_
