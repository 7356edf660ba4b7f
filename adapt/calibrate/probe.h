// How far a model's predictions move when part of it is changed.
#ifndef RANKFORGE_ADAPT_CALIBRATE_PROBE_H_
#define RANKFORGE_ADAPT_CALIBRATE_PROBE_H_

#include <cstddef>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// Compares with the predictions of the dense model, whose blocks are packed
// only while they run.
class Probe {
 public:
  // `hidden` (tokens, hidden), whole windows: what block `layer` of the dense
  // model reads, or the final norm where `layer` is the number of layers.
  // `model` and `checkpoint`, its source, must outlive the probe.
  static Result<Probe> Start(Model& model, const Checkpoint& checkpoint,
                             size_t window, size_t layer, Matrix<float> hidden);

  // The Kullback-Leibler divergence KL(p || q) in nats, the mean over tokens,
  // for each of `hidden`: inputs of block `layer` (of the final norm where
  // `layer` is the number of layers) on the tokens of Start. p are the dense
  // model's predictions, q those that dense blocks from `layer` on make of the
  // input. Every block is packed once for all of `hidden`, which holds the
  // outputs of the last block afterwards.
  Result<std::vector<double>> Divergences(
      size_t layer, std::vector<Matrix<float>>& hidden) const;
  size_t tokens() const { return dense_.rows; }
  // (tokens, vocab): log p of the dense model.
  const Matrix<float>& dense() const { return dense_; }

 private:
  Probe(Model& model, const Checkpoint& checkpoint, size_t window)
      : model_(&model),
        checkpoint_(&checkpoint),
        window_(window),
        vocab_(model.config().vocab) {}

  Status RunFrom(size_t layer, std::vector<Matrix<float>>& hidden) const;
  // use(begin, log-probabilities) of each window.
  template <class Use>
  void Predict(const Matrix<float>& hidden, Use use) const;
  double Divergence(const Matrix<float>& hidden) const;

  Model* model_;
  const Checkpoint* checkpoint_;
  size_t window_;
  size_t vocab_;
  Matrix<float> dense_;  // (tokens, vocab), log-probabilities
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_PROBE_H_
