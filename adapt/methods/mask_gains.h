// Gains and biases of the input masks of a whole adapter.
//
// A mask takes away part of what a projection computes. y = W (gain * m * x) +
// bias gives some of it back for cols + rows numbers, which cost nothing to
// run. They are learned together in all blocks, so that the adapted model
// predicts what the dense one does: the divergence of their predictions on
// calibration tokens falls along its gradient (Adam, arXiv 1412.6980), with
// masks taken as they are. OmniQuant (arXiv 2308.13137) learns such factors for
// quantized weights.
#ifndef RANKFORGE_ADAPT_METHODS_MASK_GAINS_H_
#define RANKFORGE_ADAPT_METHODS_MASK_GAINS_H_

#include <cstddef>

#include "adapt/run/method.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {

// How much of that a run does.
struct GainSchedule {
  size_t steps = 0;   // 0: none
  size_t tokens = 0;  // of calibration, in a step
  size_t held = 0;    // the last ones of the sample, on which gains must pay

  // As many steps as options.effort asks for. None where the model is too large
  // or the sample, of so many tokens, too small for as many as pay.
  static GainSchedule Of(const ModelConfig& config, const AdaptOptions& options,
                         size_t sample);
  // Of the steps and of the pass of the dense model over the sample before
  // them: multiply-adds, as WorkMeter counts.
  double Work(const ModelConfig& config, size_t sample) const;
};

// Adds gains and biases to the masks of `adapter`, whose blocks of `attempt`
// are done, and moves its thresholds so that linear layers go on to cost
// `ratio` of the multiply-adds of dense ones. Records how masks keep, and the
// ratio. Leaves the adapter as it is where the divergence on held-out tokens
// does not fall. Goes on from the run's state. Errors: stopped as asked, a
// state of another model, files that cannot be written.
Status LearnGains(const AdaptRun& run, const GainSchedule& schedule,
                  size_t attempt, double ratio, Adapter& adapter);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_MASK_GAINS_H_
