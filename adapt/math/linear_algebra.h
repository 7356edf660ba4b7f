// The few dense operations that adapters need, on row-major matrices. One
// thread each unless they take an executor: they then run parts of fixed size
// side by side, so that results do not depend on the number of threads.
#ifndef RANKFORGE_ADAPT_MATH_LINEAR_ALGEBRA_H_
#define RANKFORGE_ADAPT_MATH_LINEAR_ALGEBRA_H_

#include <cstddef>
#include <vector>

#include "base/status.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// A row-major matrix that owns its values.
template <class T>
struct Matrix {
  size_t rows = 0;
  size_t cols = 0;
  std::vector<T> values;  // (rows, cols)

  Matrix() = default;
  Matrix(size_t rows, size_t cols)
      : rows(rows), cols(cols), values(rows * cols) {}
  T* row(size_t i) { return values.data() + i * cols; }
  const T* row(size_t i) const { return values.data() + i * cols; }
};

// `count` of them, from `begin` on.
Matrix<float> Rows(const Matrix<float>& matrix, size_t begin, size_t count);

Matrix<double> Widen(const Matrix<float>& matrix);

// A factor of a product: row i at data + i * stride; used as its transpose when
// `transposed`.
template <class T>
struct Factor {
  const T* data = nullptr;
  size_t stride = 0;
  bool transposed = false;
};

// c (rows, cols) = a (rows, inner) b (inner, cols) + beta c.
void Multiply(size_t rows, size_t cols, size_t inner, const Factor<float>& a,
              const Factor<float>& b, float beta, float* c, size_t c_stride);
void Multiply(size_t rows, size_t cols, size_t inner, const Factor<double>& a,
              const Factor<double>& b, double beta, double* c, size_t c_stride);

// c (rows, cols) = a (rows, inner) b (inner, cols).
void Multiply(Executor& executor, size_t rows, size_t cols, size_t inner,
              const Factor<float>& a, const Factor<float>& b, float* c,
              size_t c_stride);
void Multiply(Executor& executor, size_t rows, size_t cols, size_t inner,
              const Factor<double>& a, const Factor<double>& b, double* c,
              size_t c_stride);

// a (n, k) b (k, m).
template <class T>
Matrix<T> Product(Executor& executor, const Matrix<T>& a, const Matrix<T>& b) {
  Matrix<T> product(a.rows, b.cols);
  Multiply(executor, a.rows, b.cols, a.cols,
           {.data = a.values.data(), .stride = a.cols},
           {.data = b.values.data(), .stride = b.cols}, product.values.data(),
           product.cols);
  return product;
}

double SquaredNorm(const Matrix<float>& matrix);

// y (tokens, rows) = x (tokens, cols) w^T for w (rows, cols).
Matrix<float> OutputOf(const Matrix<float>& w, const Matrix<float>& x);

// Eigenvalues in ascending order, and the eigenvectors as rows.
struct SymmetricEigen {
  std::vector<double> values;
  Matrix<double> vectors;
};
Result<SymmetricEigen> DecomposeSymmetric(Matrix<double> matrix);

// L (n, n), lower triangular, with L L^T = a symmetric positive definite
// matrix.
Result<Matrix<double>> CholeskyFactor(Matrix<double> matrix);

// L^-1 b for a lower triangular L (n, n) and b (n, k); L^-T b when
// `transposed`.
void SolveLower(const Matrix<double>& lower, bool transposed, Matrix<double>& b,
                Executor& executor);

// x (n, k) with a x = b for a symmetric positive definite a (n, n) and b (n,
// k).
Result<Matrix<double>> SolvePositive(Matrix<double> a, Matrix<double> b,
                                     Executor& executor);

// matrix (m, n) = left diag(values) right, values in descending order; left (m,
// k) and right (k, n) for k = min(m, n), orthonormal even where the matrix is
// rank-deficient.
struct SingularValues {
  Matrix<double> left;
  std::vector<double> values;
  Matrix<double> right;
};
Result<SingularValues> DecomposeSingular(Matrix<double> matrix);

// The left singular vectors of `matrix` (m, n) as columns of an (m, min(m, n))
// matrix, by descending singular value; orthonormal even where the matrix is
// rank-deficient.
Result<Matrix<double>> LeftSingularVectors(Matrix<double> matrix);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MATH_LINEAR_ALGEBRA_H_
