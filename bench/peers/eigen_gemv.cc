#include "bench/peers/eigen_gemv.h"

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

namespace rankforge {

void EigenGemv(const float* w, size_t rows, size_t cols, const float* x,
               float* y) {
  using Matrix =
      Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto m = static_cast<Eigen::Index>(rows);
  const auto n = static_cast<Eigen::Index>(cols);
  Eigen::Map<Eigen::VectorXf>(y, m).noalias() =
      Eigen::Map<const Matrix>(w, m, n) *
      Eigen::Map<const Eigen::VectorXf>(x, n);
}

}  // namespace rankforge
