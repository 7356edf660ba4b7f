// The basis of a rank adapter: A and B such that A B = W and dropping rank i
// costs exactly (B x)_i^2 of squared output error, or of what that does to the
// model's predictions.
#ifndef RANKFORGE_ADAPT_FORMS_RANK_BASIS_H_
#define RANKFORGE_ADAPT_FORMS_RANK_BASIS_H_

#include <cstddef>
#include <span>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// C (n, n) = sum of x x^T over the rows x of `x`, in f64.
Matrix<double> SecondMoments(const Matrix<float>& x, Executor& executor);

// (m, n) = sum of u v^T over the rows u of `us` (tokens, m) and v of `vs`
// (tokens, n), in f64.
Matrix<double> CrossMoments(const Matrix<float>& us, const Matrix<float>& vs,
                            Executor& executor);

// C + 1e-10 of its mean eigenvalue on the diagonal: directions that the
// calibration text never took would otherwise be lost to the basis, and a later
// text may take them. Error: C is zero or NaN.
Result<Matrix<double>> RegularMoments(Matrix<double> moments);

// With U the left singular vectors of W X, which are the eigenvectors of W C
// W^T: A = U and B = U^T W. X itself, 32,000 columns wide, is never decomposed.
struct RankBasis {
  Matrix<float> a;  // (rank, rows): U^T, rank-major as adapters store A
  Matrix<float> b;  // (rank, cols)

  size_t rank() const { return a.rows; }  // min(rows, cols)
  size_t rows() const { return a.cols; }
  size_t cols() const { return b.cols; }
};

// A layer W (rows, cols) and the RegularMoments (cols, cols) of its inputs.
struct BasisProblem {
  const Matrix<float>* w = nullptr;
  const Matrix<double>* moments = nullptr;
  // (cols, cols): the Fisher information of the inputs, sum of g g^T over the
  // gradients g of the log-likelihood at them. Errors of the output then count
  // by what they do to predictions, see MakeRankBases. Null: all alike.
  const Matrix<double>* fisher = nullptr;
};

// Where W has more rows than columns, nothing as high as W is decomposed: with
// C = L L^T, the eigenvectors of L^T W^T W L are the right singular vectors V
// of W L, and U = W L V / sigma = W P. Squaring the singular values costs the
// small ones their digits, and with them U its orthogonality; P is made to have
// U^T U = I by a Cholesky factor of P^T (W^T W) P (as CholeskyQR2 does), rank
// after rank, so that the first ones stay what they are. Where W itself is so
// close to losing rank that W^T W cannot tell (a condition of some 1e4), W L is
// decomposed. The eigenvectors, which a single thread finds, are found side by
// side.
//
// With Fisher information F = W^T G W, G the metric of output errors that the
// curvature of the loss is, M = F + kPlainShare W^T W takes the place of W^T W
// (their traces made equal): P^T M P = I, A = W P, B = P^T M. Dropping rank i
// still costs exactly (B x)_i^2, in that metric; G itself, rows x rows, is
// never made. G is an estimate from few tokens: the share of W^T W keeps
// directions alive that those had no use for. Not where W has fewer rows than
// columns, or is close to losing rank.
inline constexpr double kPlainShare = 0.1;
Result<std::vector<RankBasis>> MakeRankBases(
    std::span<const BasisProblem> problems, Executor& executor);

// Multiply-adds of a forward pass that take as long as MakeRankBases for a
// layer or two with n inputs, roughly: half of finding eigenvectors waits for
// memory.
constexpr double BasesWork(double n) { return 25 * n * n * n; }

// Z (rank, tokens) = B x for the rows x of `x` (tokens, cols): all values of
// one rank lie together.
Matrix<float> RankActivations(const Matrix<float>& b, const Matrix<float>& x,
                              Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_RANK_BASIS_H_
