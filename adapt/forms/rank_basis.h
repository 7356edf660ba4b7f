// The basis of a rank adapter: A and B with A B = W. Dropping rank i costs
// exactly (B x)_i^2. That is a squared output error, or the squared error in a
// metric of what it does to the model's predictions.
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

// C with 1e-10 of its mean eigenvalue added to the diagonal. Without that the
// basis would lose directions that the calibration text never took, and a later
// text may take them. Error: C is zero or NaN.
Result<Matrix<double>> RegularMoments(Matrix<double> moments);

// A = U and B = U^T W. U are the left singular vectors of W X, which are the
// eigenvectors of W C W^T. X itself, 32,000 columns wide, is never decomposed.
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
  // by what they do to predictions (MakeRankBases). Null: they count alike.
  const Matrix<double>* fisher = nullptr;
};

// Where W has more rows than columns, no matrix with as many rows is
// decomposed. With C = L L^T, the eigenvectors of L^T W^T W L are the right
// singular vectors V of W L, and U = W L V / sigma = W P. Squaring the singular
// values costs the small ones their digits, and U its orthogonality. A Cholesky
// factor of P^T (W^T W) P corrects P so that U^T U = I (as CholeskyQR2 does).
// It does so rank after rank, so that the first ranks stay what they are. Where
// W is so close to losing rank that W^T W cannot tell (a condition of some
// 1e4), W L itself is decomposed. One thread finds the eigenvectors of a
// problem; several problems run side by side.
//
// Fisher information is F = W^T G W. G is the curvature of the loss, as a
// metric of output errors. M = F + kPlainShare W^T W takes the place of W^T W,
// with F and M scaled to the trace of W^T W: P^T M P = I, A = W P, B = P^T M.
// Dropping rank i still costs exactly (B x)_i^2, in that metric. G itself,
// (rows, rows), is never made. It is an estimate from few tokens: the share of
// W^T W keeps directions that those tokens had no use for. Where W has no more
// rows than columns, or is close to losing rank, the Fisher information is not
// used.
inline constexpr double kPlainShare = 0.1;
Result<std::vector<RankBasis>> MakeRankBases(
    std::span<const BasisProblem> problems, Executor& executor);

// Roughly the multiply-adds of a forward pass that take as long as
// MakeRankBases for a layer or two with n inputs. Half of the time of finding
// eigenvectors goes to waiting for memory.
constexpr double BasesWork(double n) { return 25 * n * n * n; }

// Z (rank, tokens) = B x for the rows x of `x` (tokens, cols): all values of
// one rank lie together.
Matrix<float> RankActivations(const Matrix<float>& b, const Matrix<float>& x,
                              Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_RANK_BASIS_H_
