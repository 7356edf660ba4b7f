// The backward pass of a model, dense or adapted: how the inputs of its linear
// layers move the log-likelihood of its predictions, or their divergence from
// those of the dense model. It goes from the last block to the first and
// computes the forward values of each block again.
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

// A token drawn from the model's prediction for each row of `hidden` (tokens,
// hidden), the output of the last block. With such labels the second moments of
// gradients are the Fisher information: the curvature of the Kullback-Leibler
// divergence. The text's own next tokens give no more than an approximation.
std::vector<int> DrawLabels(Model& model, const Matrix<float>& hidden,
                            uint64_t seed);

// (tokens, hidden): the gradient of the sum of -log p(labels[t]) at `hidden`.
Result<Matrix<float>> OutputGradient(Model& model, const WeightSource& weights,
                                     const Matrix<float>& hidden,
                                     std::span<const int> labels);

// (tokens, hidden): the gradient of the sum of KL(p || q) at `hidden`, where q
// are the predictions it makes, and `dense` (tokens, vocab) is log p.
Result<Matrix<float>> DivergenceGradient(Model& model,
                                         const WeightSource& weights,
                                         const Matrix<float>& hidden,
                                         const Matrix<float>& dense);

// The sum of KL(p || q), where p are the predictions that `dense` (tokens,
// hidden) makes, and q those of `hidden`.
double Divergence(Model& model, const Matrix<float>& hidden,
                  const Matrix<float>& dense);

// Its gradient at `hidden`. Adds the sum itself to `divergence`.
Result<Matrix<float>> DivergenceGradientFrom(Model& model,
                                             const WeightSource& weights,
                                             const Matrix<float>& hidden,
                                             const Matrix<float>& dense,
                                             double& divergence);

// By Site: the gradient at what the linear layers read there, (tokens, width)
// each. It leaves out what reaches the same values on other paths.
using SiteGradients = BySite<Matrix<float>>;

// By Site: the gradient at the output of the linear layers there times what an
// adapter changes that output by, summed over outputs and tokens.
using SiteEffects = BySite<double>;

// By Site: the gradients at gain and bias of the input mask there, summed over
// tokens. Empty: there is no mask.
struct MaskGradient {
  std::vector<float> gain;  // (cols,)
  std::vector<float> bias;  // (rows,)
};
using MaskGradients = BySite<MaskGradient>;

// The backward pass of an adapted block. Values are those of its input masks
// and rank adapters, of whole projections, and of the basis that its rotation
// gives the block: what linear layers read there, and what the block reads and
// writes, is in the bases in which the model hands it on.
struct AdaptedBlock {
  const Adapter* adapter = nullptr;  // null: the block is dense
  // Not null: derivatives are those of the dense projections at these values,
  // masks have no gains, and the effects, which must be 0s or the sums so far,
  // of all projections add up to the derivative along all that the adapter
  // changes. What it changes at one projection passes through dense ones; what
  // it changes at a later one counts there.
  SiteEffects* effects = nullptr;
  // Not null, in place of effects: derivatives are those of the adapted
  // projections, with masks taken as they are. No gain is 0.
  MaskGradients* gradients = nullptr;
};

// Takes `gradient` (tokens, hidden), whole windows, from the output of block
// `layer` to its input. `hidden` and `inputs` are what the block and its linear
// layers read on these tokens; they may hold more tokens after these.
Result<SiteGradients> BackThroughBlock(
    Model& model, const WeightSource& weights, size_t layer, size_t window,
    const Matrix<float>& hidden, const SiteInputs& inputs,
    Matrix<float>& gradient, const AdaptedBlock& adapted = {});

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_LOSS_GRADIENT_H_
