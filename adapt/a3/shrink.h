// The closed-form solutions of A3 ("A3: an Analytical Low-Rank Approximation
// Framework for Attention", arXiv 2505.12942), from second moments of what the
// linear layers compute. docs/a3.md has the equations in these names.
#ifndef RANKFORGE_ADAPT_A3_SHRINK_H_
#define RANKFORGE_ADAPT_A3_SHRINK_H_

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// The symmetric square root of second moments (d, d), and its inverse.
// Eigenvalues below 1e-12 of the largest, in directions that the text never
// took, are raised to that.
struct MomentRoots {
  Matrix<double> root;
  Matrix<double> inverse;
};
Result<MomentRoots> RootsOf(const Matrix<double>& moments);

// The best product of rank r for A B^T, with A (n, d) and B (m, d) known by
// their second moments A^T A and B^T B alone (the paper's theorems 2 and 3 and
// their joint forms). U S V^T = SVD((A^T A)^(1/2) (B^T B)^(1/2)).
//
// Queries and keys: A = Q, B = K. Values and the output projection: A = Z, the
// attention outputs, and B = the columns of W_o.
class SharedSpace {
 public:
  static Result<SharedSpace> Make(const Matrix<double>& a_moments,
                                  const Matrix<double>& b_moments);
  size_t dim() const { return singular_.size(); }
  // |A B^T - (A Left(r)) (B Right(r))^T|^2 = sum of the dropped S^2.
  double Loss(size_t rank) const;
  // (d, rank) each. S is shared out evenly, so that both factors have weights
  // of the same size.
  Matrix<double> Left(size_t rank) const;   // (A^T A)^(-1/2) U_r S_r^(1/2)
  Matrix<double> Right(size_t rank) const;  // (B^T B)^(-1/2) V_r S_r^(1/2)

 private:
  Matrix<double> left_;   // (d, d), column i belongs to singular value i
  Matrix<double> right_;  // (d, d)
  std::vector<double> singular_;
};

// Indices of the `count` largest scores, ascending.
std::vector<size_t> LargestOf(std::span<const double> scores, size_t count);

// Queries and keys of one KV head and its group. Rotated elements are kept or
// dropped in pairs; the others share a space.
class ShrunkScores {
 public:
  // Moments (d, d) of q, summed over the group's heads, and of k, before
  // rotation. Elements [0, rotated) are rotated: i is paired with
  // i + rotated / 2.
  static Result<ShrunkScores> Make(const Matrix<double>& q_moments,
                                   const Matrix<double>& k_moments,
                                   size_t rotated);
  size_t pairs() const { return pair_scores_.size(); }
  size_t unrotated() const { return space_ ? space_->dim() : 0; }
  // What is lost when this many pairs and other elements are kept:
  // the scores of the dropped pairs, E[q_i^2] E[k_i^2] summed over a pair, and
  // the dropped singular values squared.
  double Loss(size_t pairs, size_t unrotated) const;
  // Which pairs are kept, ascending.
  std::vector<size_t> Pairs(size_t pairs) const;
  // (d, 2 pairs + unrotated): q T_q and k T_k are the new q and k.
  Matrix<double> QueryMap(size_t pairs, size_t unrotated) const;
  Matrix<double> KeyMap(size_t pairs, size_t unrotated) const;

 private:
  Matrix<double> Map(size_t pairs, size_t unrotated,
                     Matrix<double> (SharedSpace::*side)(size_t) const) const;

  std::vector<double> pair_scores_;
  std::optional<SharedSpace> space_;  // none: all elements are rotated
};

// E[x_i^2] |W_down[:, i]|^2 for each hidden channel i of an MLP: the squared
// error of the output when this channel alone is dropped. `down` (hidden, mlp);
// `moments` (mlp,): E[x_i^2] of its inputs, or the sum over tokens.
std::vector<double> ChannelScores(std::span<const double> moments,
                                  const Matrix<float>& down);

// The least-squares weights (m, r) for inputs x with moments `kept` (r, r):
//   weights + residual (kept + ridge mean(diagonal of kept) I)^-1
// `residual` (m, r) = sum of (y - weights x) x^T is the correlation of x with
// the error that `weights` make against the wanted outputs y. A large ridge
// leaves `weights` as they are.
Result<Matrix<double>> RefitWeights(const Matrix<double>& weights,
                                    const Matrix<double>& residual,
                                    Matrix<double> kept, double ridge,
                                    Executor& executor);

// The block of `matrix` at (row, col).
Matrix<double> BlockOfMatrix(const Matrix<double>& matrix, size_t row,
                             size_t col, size_t rows, size_t cols);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_SHRINK_H_
