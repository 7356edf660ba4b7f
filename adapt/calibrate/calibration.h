// Runs a model over calibration text one block at a time and hands out the
// inputs of that block's linear layers. No more than one block's activations
// are in memory.
#ifndef RANKFORGE_ADAPT_CALIBRATE_CALIBRATION_H_
#define RANKFORGE_ADAPT_CALIBRATE_CALIBRATION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// At most tokens / window non-overlapping windows of `ids`, drawn without
// replacement and laid out one after the other in the order drawn: first those
// of the first three quarters of the text, then those of the last. So the first
// windows are a sample of most of the text, and the last ones are of pages that
// no other window is of. On WikiText-2, bases of the residual stream that had
// seen other windows of the same articles kept 2 % more on new articles than on
// the windows held out. Errors: fewer ids, or tokens, than
// one window.
Result<std::vector<int>> SampleWindows(std::span<const int> ids, size_t window,
                                       size_t tokens, uint64_t seed);

// Runs block `layer`, as it is packed, on whole windows of `hidden` (tokens,
// hidden), in place.
void RunBlock(Model& model, size_t layer, size_t window, Matrix<float>& hidden);

// What the linear layers of a block read: (tokens, SiteWidth) at each site.
using SiteInputs = BySite<Matrix<float>>;

// Blocks run as the model has them: they must have been packed
// (Model::AdaptBlock).
class Calibration {
 public:
  // `ids` are whole windows, each run from an empty cache.
  static Result<Calibration> Start(Model& model, std::span<const int> ids,
                                   size_t window);
  // Starts at block `layer`, which reads `hidden`, of whole windows.
  static Calibration Continue(Model& model, Matrix<float> hidden, size_t window,
                              size_t layer);

  // What the first linear layers of the block read: (tokens, hidden). Once a
  // block: a rotated one turns hidden().
  Matrix<float> First();
  // Runs the projection that reads `x` at `site`. Returns what is read at the
  // next site; nothing after kMlpHidden, the last, which ends the block.
  Matrix<float> Next(Site site, const Matrix<float>& x);

  // Runs the block. Returns the inputs of all four sites.
  SiteInputs NextBlock();
  // Runs the block.
  void SkipBlock();

  // (tokens, hidden), what the block reads.
  const Matrix<float>& hidden() const { return hidden_; }
  size_t layer() const { return layer_; }  // of the block

 private:
  Calibration(Model& model, size_t window) : model_(&model), window_(window) {}

  Model* model_;
  size_t window_;
  size_t layer_ = 0;
  Matrix<float> hidden_;  // (tokens, hidden)
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_CALIBRATION_H_
