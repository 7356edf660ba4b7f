// CATS (arXiv 2404.08763) as a baseline: in every MLP the activated gate
// decides which neurons take part, |act(gate_j)| >= t with t a percentile over
// calibration; gate and attention stay dense.
#ifndef RANKFORGE_ADAPT_METHODS_CATS_H_
#define RANKFORGE_ADAPT_METHODS_CATS_H_

#include <memory>

#include "adapt/run/method.h"

namespace rankforge {

// The same share of the neurons in every block. Errors: an MLP without a gate,
// or with biases.
std::unique_ptr<Planner> MakeCatsPlanner(const AdaptRun& run);
double SmallestCatsKeep(const ModelConfig& config, const AdaptOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_CATS_H_
