// The basis of a rank adapter: A and B such that A B = W and dropping rank i
// costs exactly (B x)_i^2 of squared output error.
#ifndef RANKFORGE_ADAPT_RANK_BASIS_H_
#define RANKFORGE_ADAPT_RANK_BASIS_H_

#include <cstddef>

#include "adapt/linear_algebra.h"
#include "runtime/executor.h"
#include "runtime/status.h"

namespace rankforge {

// C (n, n) = sum of x x^T over the rows x of `x`, in f64.
Matrix<double> SecondMoments(const Matrix<float>& x, Executor& executor);

// (m, n) = sum of u v^T over the rows u of `us` (tokens, m) and v of `vs`
// (tokens, n), in f64.
Matrix<double> CrossMoments(const Matrix<float>& us, const Matrix<float>& vs,
                            Executor& executor);

// L (n, n) with L L^T = C. The eigenvalues are raised to at least 1e-10 of
// their mean: directions that the calibration text never took would otherwise
// be lost to the basis, and a later text may take them. (In the singular values
// of W L that is a factor of 1e-5, far above the rounding of f64.)
Result<Matrix<double>> MomentsRoot(Matrix<double> moments);

// With U the left singular vectors of W X, which are those of W L: A = U and
// B = U^T W. X itself, 32,000 columns wide, is never decomposed.
struct RankBasis {
  Matrix<float> a;  // (rank, rows): U^T, rank-major as adapters store A
  Matrix<float> b;  // (rank, cols)

  size_t rank() const { return a.rows; }  // min(rows, cols)
  size_t rows() const { return a.cols; }
  size_t cols() const { return b.cols; }
};
Result<RankBasis> MakeRankBasis(const Matrix<float>& w,
                                const Matrix<double>& moments_root);

// Z (rank, tokens) = B x for the rows x of `x` (tokens, cols): all values of
// one rank lie together.
Matrix<float> RankActivations(const Matrix<float>& b, const Matrix<float>& x,
                              Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RANK_BASIS_H_
