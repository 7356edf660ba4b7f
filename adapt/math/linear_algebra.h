// The few dense operations that adapters need: BLAS and LAPACK, called on views
// of row-major matrices. An operation runs on one thread, unless it takes an
// executor. It then runs parts of fixed size side by side, so that results do
// not depend on the number of threads.
#ifndef RANKFORGE_ADAPT_MATH_LINEAR_ALGEBRA_H_
#define RANKFORGE_ADAPT_MATH_LINEAR_ALGEBRA_H_

#include <cstddef>
#include <vector>

#include "adapt/math/matrix.h"
#include "base/status.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// c = a b + beta c, for a (rows, inner), b (inner, cols) and c (rows, cols).
void Multiply(const Factor<float>& a, const Factor<float>& b,
              const MatrixView<float>& c, float beta = 0);
void Multiply(const Factor<double>& a, const Factor<double>& b,
              const MatrixView<double>& c, double beta = 0);

// c = a b.
void Multiply(Executor& executor, const Factor<float>& a,
              const Factor<float>& b, const MatrixView<float>& c);
void Multiply(Executor& executor, const Factor<double>& a,
              const Factor<double>& b, const MatrixView<double>& c);

// a b.
Matrix<double> Product(const Factor<double>& a, const Factor<double>& b);
Matrix<float> Product(Executor& executor, const Factor<float>& a,
                      const Factor<float>& b);
Matrix<double> Product(Executor& executor, const Factor<double>& a,
                       const Factor<double>& b);

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
