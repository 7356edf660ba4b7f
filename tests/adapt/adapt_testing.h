// Matrices for tests of adapt/.
#ifndef RANKFORGE_TESTS_ADAPT_ADAPT_TESTING_H_
#define RANKFORGE_TESTS_ADAPT_ADAPT_TESTING_H_

#include <cmath>
#include <random>

#include "adapt/math/linear_algebra.h"

namespace rankforge {

inline Matrix<float> RandomMatrix(size_t rows, size_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix<float> matrix(rows, cols);
  for (float& v : matrix.values) v = normal(random);
  return matrix;
}

// Rows like hidden states: some directions are much larger than others, mixed
// by a random matrix; `directions` of them are taken at all.
inline Matrix<float> RandomInputs(size_t tokens, size_t cols, size_t directions,
                                  unsigned seed) {
  Matrix<float> inner = RandomMatrix(tokens, directions, seed);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < directions; ++k) {
      inner.row(t)[k] *= std::exp(-4.0f * static_cast<float>(k) /
                                  static_cast<float>(directions));
    }
  }
  const Matrix<float> mix = RandomMatrix(directions, cols, seed + 1);
  Matrix<float> x(tokens, cols);
  Multiply(inner, mix, x);
  return x;
}

// a (rows, inner) b^T (inner, cols).
inline Matrix<float> TimesTransposed(const Matrix<float>& a,
                                     const Matrix<float>& b) {
  Matrix<float> c(a.rows, b.rows);
  Multiply(a, Transposed(b), c);
  return c;
}

inline double SquaredDistance(const Matrix<float>& a, const Matrix<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double difference = static_cast<double>(a.values[i]) - b.values[i];
    sum += difference * difference;
  }
  return sum;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_ADAPT_ADAPT_TESTING_H_
