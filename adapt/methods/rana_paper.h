// RaNA as the paper has it (docs/rana.md): rank adapters for stacked q, k, v
// and for up and gate, a neuron threshold for down, the same share of
// multiply-adds for every adapted layer.
#ifndef RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_
#define RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_

#include "adapt/run/method.h"

namespace rankforge {

std::unique_ptr<Planner> MakeRanaPaperPlanner(const AdaptRun& run);
double SmallestRanaPaperKeep(const ModelConfig& config,
                             const AdaptOptions& options);

// One transformer block and what its first linear layers read on the
// calibration tokens, computed by the dense model.
struct DenseBlock {
  const ModelConfig& config;
  size_t layer;
  const WeightSource& weights;
  const BlockSpec& spec;           // dense: names and shapes
  const Matrix<float>& attention;  // (tokens, hidden), of q, k, v
  const Matrix<float>& mlp;        // (tokens, hidden), of gate and up
  Executor& executor;
};

// Adds the forms of the block's layers to `adapter`, and says why layers stay
// dense. Errors: `keep` leaves an MLP no rank.
Status AdaptBlockRanaPaper(const DenseBlock& block, const AdaptOptions& options,
                           double keep, Adapter& adapter);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_
