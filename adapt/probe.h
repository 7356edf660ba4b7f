// How far a model's predictions move when part of it is changed.
#ifndef RANKFORGE_ADAPT_PROBE_H_
#define RANKFORGE_ADAPT_PROBE_H_

#include <cstddef>

#include "adapt/linear_algebra.h"
#include "runtime/model/model.h"

namespace rankforge {

class Probe {
 public:
  // `model` predicts now as the one that others are compared with. `hidden`:
  // what layer 0 reads, (tokens, hidden), whole windows.
  Probe(Model& model, size_t window, Matrix<float> hidden);

  // Mean over tokens of the sum of p (log p - log q), with p the predictions
  // compared with and q those from `hidden`, which layer `layer` reads.
  double Divergence(size_t layer, Matrix<float> hidden) const;
  size_t tokens() const { return dense_.rows; }

 private:
  // use(begin, log-probabilities) of each window.
  template <class Use>
  void Run(size_t layer, Matrix<float> hidden, Use use) const;

  Model* model_;
  size_t window_;
  size_t vocab_;
  Matrix<float> dense_;  // (tokens, vocab), log-probabilities
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_PROBE_H_
