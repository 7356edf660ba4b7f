// Runs a model over calibration text one layer at a time and hands out the
// inputs of that layer's linear layers, so that no more than one layer's
// activations are ever held.
#ifndef RANKFORGE_ADAPT_CALIBRATION_H_
#define RANKFORGE_ADAPT_CALIBRATION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adapt/linear_algebra.h"
#include "runtime/model/model.h"
#include "runtime/status.h"

namespace rankforge {

// At most tokens / window non-overlapping windows of `ids`, drawn without
// replacement and laid out one after the other in the order drawn, so that the
// first ones are a sample of the whole text. Errors: fewer ids, or tokens, than
// one window.
Result<std::vector<int>> SampleWindows(std::span<const int> ids, size_t window,
                                       size_t tokens, uint64_t seed);

class Calibration {
 public:
  struct LayerInputs {
    Matrix<float> attention;  // (tokens, hidden), of q, k, v
    Matrix<float> mlp;        // (tokens, hidden), of gate and up
    Matrix<float> o = {};     // (tokens, o_cols); none unless asked for
    Matrix<float> down = {};  // (tokens, mlp); none unless asked for
  };

  // `ids` are whole windows, each run from an empty cache.
  static Result<Calibration> Start(Model& model, std::span<const int> ids,
                                   size_t window);

  // Runs the next layer over all windows.
  LayerInputs NextLayer();
  // The inputs of all four projections of the next layer, which stays the next.
  LayerInputs PeekLayer();
  // Goes on behind the next layer.
  void SkipLayer();

  // (tokens, hidden), what the next layer reads.
  const Matrix<float>& hidden() const { return hidden_; }

 private:
  // Runs the next layer on `hidden`, in place.
  void Run(Matrix<float>& hidden, LayerInputs* inputs);

  Calibration(Model& model, size_t window) : model_(&model), window_(window) {}

  Model* model_;
  size_t window_;
  size_t layer_ = 0;
  Matrix<float> hidden_;  // (tokens, hidden), the next layer's input
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATION_H_
