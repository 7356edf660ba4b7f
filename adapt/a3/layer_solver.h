// A run of method "a3", and what every step of it needs: one layer's moments
// and closed-form solutions.
#ifndef RANKFORGE_ADAPT_A3_LAYER_SOLVER_H_
#define RANKFORGE_ADAPT_A3_LAYER_SOLVER_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "adapt/a3/block_shrinker.h"
#include "adapt/calibrate/block_moments.h"
#include "adapt/run/adapt_state.h"
#include "adapt/run/options.h"
#include "adapt/run/work_meter.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/executor.h"

namespace rankforge {

struct A3Run {
  const Checkpoint& checkpoint;
  const ModelConfig& config;  // dense
  const AdaptOptions& options;
  ModelSpec spec;  // dense: names and shapes
  WeightType type;
  std::unique_ptr<Executor> executor;
  std::vector<int> sample;  // whole windows of calibration
  AdaptState& state;
  WorkMeter meter;

  bool Refines(Refinement refinement) const {
    return !options.without.contains(refinement);
  }
  // The share of a component that is kept.
  double KeepOf(Component component) const;
  // `tokens`, or all of the sample, rounded down to whole windows; one at
  // least.
  size_t WholeWindows(size_t tokens) const;
  // Multiply-adds, roughly, of SolveLayer.
  double SolveWork(size_t layer, size_t tokens) const;
};

// Moments and solutions of a layer.
struct SolvedLayer {
  ModelConfig config;  // of the layer alone
  BlockWeights weights;
  BlockMoments moments;
  LayerSolutions solutions;
};

// Solves `layer` and runs it on `hidden` (tokens, hidden). That is what the
// layer reads on the first tokens of the sample, and then what the next layer
// reads. For layer 0, `hidden` is first filled with the embeddings of these
// tokens. Errors: token ids outside the vocabulary, moments that are not
// finite.
Result<SolvedLayer> SolveLayer(const A3Run& run, size_t layer,
                               Matrix<float>& hidden);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_LAYER_SOLVER_H_
