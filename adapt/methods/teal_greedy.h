// TEAL with its own search (arXiv 2408.14690, algorithm 1) as a baseline: input
// masks by magnitude, whose densities a greedy search finds block by block.
#ifndef RANKFORGE_ADAPT_METHODS_TEAL_GREEDY_H_
#define RANKFORGE_ADAPT_METHODS_TEAL_GREEDY_H_

#include <memory>

#include "adapt/methods/block_builder.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// The masks of one block that cost the share `keep` of the dense block. From
// the dense block on, the projection whose step raises the error of the block's
// output least is cut by one step, until the block costs no more. All steps
// save the same. The block is packed, dense, and reads `hidden` (tokens,
// hidden), whole windows. The error is that of ordinary tokens
// (adapt/calibrate/ordinary_tokens.h). Errors: a mask that keeps nothing.
Result<BlockChoices> GreedyMasks(const AdaptRun& run, size_t layer,
                                 const Matrix<float>& hidden, double keep);

// The same share for every block. Each block reads what the adapted ones before
// it compute.
std::unique_ptr<Planner> MakeTealGreedyPlanner(const AdaptRun& run);
double SmallestTealGreedyKeep(const ModelConfig& config,
                              const AdaptOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_TEAL_GREEDY_H_
