// The backward pass of a dense model: how what its linear layers read moves
// the log-likelihood of what it predicts. Block by block from the last to the
// first, each with the values of its forward pass made again.
#ifndef RANKFORGE_ADAPT_CALIBRATE_LOSS_GRADIENT_H_
#define RANKFORGE_ADAPT_CALIBRATE_LOSS_GRADIENT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// A token drawn from the model's prediction behind each row of `hidden`
// (tokens, hidden), which left the last block. With such labels the second
// moments of gradients are the Fisher information, the curvature of the
// Kullback-Leibler divergence that the text's own next tokens only resemble.
std::vector<int> DrawLabels(Model& model, const Matrix<float>& hidden,
                            uint64_t seed);

// (tokens, hidden): the gradient of the sum of -log p(labels[t]) at `hidden`.
Result<Matrix<float>> OutputGradient(Model& model, const WeightSource& weights,
                                     const Matrix<float>& hidden,
                                     std::span<const int> labels);

// By Site: the gradient at what the linear layers read there, (tokens, width)
// each. What other paths make of the same values is not in it.
using SiteGradients = BySite<Matrix<float>>;

// Takes `gradient` (tokens, hidden), whole windows, from behind block `layer`
// to before it. `hidden` and `inputs` are what the block and its linear layers
// read on these tokens, and may be of more tokens behind them.
Result<SiteGradients> BackThroughBlock(Model& model,
                                       const WeightSource& weights,
                                       size_t layer, size_t window,
                                       const Matrix<float>& hidden,
                                       const SiteInputs& inputs,
                                       Matrix<float>& gradient);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_LOSS_GRADIENT_H_
