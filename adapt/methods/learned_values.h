// Values that Adam (arXiv 1412.6980) learns in few, noisy steps.
#ifndef RANKFORGE_ADAPT_METHODS_LEARNED_VALUES_H_
#define RANKFORGE_ADAPT_METHODS_LEARNED_VALUES_H_

#include <cstddef>
#include <vector>

#include "adapt/math/matrix.h"

namespace rankforge {

class LearnedValues {
 public:
  LearnedValues() = default;
  // `count` values that begin at `start`.
  LearnedValues(size_t count, float start);

  // Step `number`, from 1, of this size. `gradient` (count,) is of a sum over
  // `tokens`; where it is not finite, nothing moves.
  void Step(const std::vector<float>& gradient, size_t tokens, size_t number,
            double size);

  std::vector<float>& values() { return values_; }
  const std::vector<float>& values() const { return values_; }

  // The values after `steps` steps, each drawn back to where it began by 0.5 /
  // t^2 of the way, all of it at most. t is the mean of its gradients in
  // standard errors: what the steps do not agree on is noise.
  std::vector<float> Trusted(size_t steps) const;

  // Everything, as rows (5, count).
  Matrix<float> Save() const;
  // Whether `rows` are of as many values.
  bool Restore(const Matrix<float>& rows);

 private:
  float start_ = 0;
  std::vector<float> values_;
  // Adam's means of gradients and of their squares.
  std::vector<float> mean_;
  std::vector<float> square_;
  // Of all gradients, without decay.
  std::vector<float> sum_;
  std::vector<float> sum_of_squares_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_LEARNED_VALUES_H_
