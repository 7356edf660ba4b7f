#include "adapt/a3/shrink.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace rankforge {
namespace {

constexpr double kSmallestEigenvalue = 1e-12;  // of the largest

// vectors^T diag(values) vectors for eigenvectors in rows.
Matrix<double> FromEigen(const Matrix<double>& vectors,
                         const std::vector<double>& values) {
  Matrix<double> scaled = vectors;
  for (size_t i = 0; i < scaled.rows; ++i) {
    for (size_t j = 0; j < scaled.cols; ++j) scaled.row(i)[j] *= values[i];
  }
  return Product(Transposed(vectors), scaled);
}

// The first `count` columns, column j times sqrt(scales[j]).
Matrix<double> ScaledColumns(const Matrix<double>& matrix, size_t count,
                             std::span<const double> scales) {
  Matrix<double> columns(matrix.rows, count);
  for (size_t i = 0; i < matrix.rows; ++i) {
    for (size_t j = 0; j < count; ++j) {
      columns.row(i)[j] = matrix.row(i)[j] * std::sqrt(scales[j]);
    }
  }
  return columns;
}

}  // namespace

Matrix<double> BlockOfMatrix(const Matrix<double>& matrix, size_t row,
                             size_t col, size_t rows, size_t cols) {
  return MatrixOf<double>(
      MatrixView(matrix).Rows(row, rows).Columns(col, cols));
}

Result<MomentRoots> RootsOf(const Matrix<double>& moments) {
  RANKFORGE_ASSIGN_OR_RETURN(const SymmetricEigen eigen,
                             DecomposeSymmetric(moments));
  // Moments of zeros have no scale of their own: 1 stands for it.
  const double largest = eigen.values.back() > 0 ? eigen.values.back() : 1;
  std::vector<double> roots, inverses;
  for (const double value : eigen.values) {
    const double root =
        std::sqrt(std::max(value, kSmallestEigenvalue * largest));
    roots.push_back(root);
    inverses.push_back(1 / root);
  }
  return MomentRoots{FromEigen(eigen.vectors, roots),
                     FromEigen(eigen.vectors, inverses)};
}

Result<SharedSpace> SharedSpace::Make(const Matrix<double>& a_moments,
                                      const Matrix<double>& b_moments) {
  RANKFORGE_ASSIGN_OR_RETURN(const MomentRoots a, RootsOf(a_moments));
  RANKFORGE_ASSIGN_OR_RETURN(const MomentRoots b, RootsOf(b_moments));
  RANKFORGE_ASSIGN_OR_RETURN(SingularValues svd,
                             DecomposeSingular(Product(a.root, b.root)));
  SharedSpace space;
  space.left_ = Product(a.inverse, svd.left);
  space.right_ = Product(b.inverse, Transposed(svd.right));
  space.singular_ = std::move(svd.values);
  return space;
}

double SharedSpace::Loss(size_t rank) const {
  // Adds the smallest first, so that rounding does not lose them.
  double loss = 0;
  for (size_t i = singular_.size(); i > rank; --i) {
    loss += singular_[i - 1] * singular_[i - 1];
  }
  return loss;
}

Matrix<double> SharedSpace::Left(size_t rank) const {
  return ScaledColumns(left_, rank, singular_);
}

Matrix<double> SharedSpace::Right(size_t rank) const {
  return ScaledColumns(right_, rank, singular_);
}

std::vector<size_t> LargestOf(std::span<const double> scores, size_t count) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

Result<ShrunkScores> ShrunkScores::Make(const Matrix<double>& q_moments,
                                        const Matrix<double>& k_moments,
                                        size_t rotated) {
  ShrunkScores scores;
  const size_t half = rotated / 2;
  const auto score = [&](size_t i) {
    return q_moments.row(i)[i] * k_moments.row(i)[i];
  };
  for (size_t i = 0; i < half; ++i) {
    scores.pair_scores_.push_back(score(i) + score(i + half));
  }
  const size_t rest = q_moments.rows - rotated;
  if (rest > 0) {
    RANKFORGE_ASSIGN_OR_RETURN(
        scores.space_,
        SharedSpace::Make(
            BlockOfMatrix(q_moments, rotated, rotated, rest, rest),
            BlockOfMatrix(k_moments, rotated, rotated, rest, rest)));
  }
  return scores;
}

double ShrunkScores::Loss(size_t pairs, size_t unrotated) const {
  std::vector<double> sorted = pair_scores_;
  std::sort(sorted.begin(), sorted.end());
  const double dropped = std::accumulate(
      sorted.begin(), sorted.end() - static_cast<std::ptrdiff_t>(pairs), 0.0);
  return dropped + (space_ ? space_->Loss(unrotated) : 0);
}

std::vector<size_t> ShrunkScores::Pairs(size_t pairs) const {
  return LargestOf(pair_scores_, pairs);
}

Matrix<double> ShrunkScores::Map(size_t pairs, size_t unrotated,
                                 Matrix<double> (SharedSpace::*side)(size_t)
                                     const) const {
  const size_t half = pair_scores_.size();
  const size_t rest = this->unrotated();
  Matrix<double> map(2 * half + rest, 2 * pairs + unrotated);
  const std::vector<size_t> kept = Pairs(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    map.row(kept[i])[i] = 1;
    map.row(half + kept[i])[pairs + i] = 1;
  }
  if (unrotated == rest) {  // as they are, not another basis of the same space
    for (size_t i = 0; i < rest; ++i) map.row(2 * half + i)[2 * pairs + i] = 1;
    return map;
  }
  const Matrix<double> space = ((*space_).*side)(unrotated);
  for (size_t i = 0; i < rest; ++i) {
    std::copy_n(space.row(i), unrotated, map.row(2 * half + i) + 2 * pairs);
  }
  return map;
}

Matrix<double> ShrunkScores::QueryMap(size_t pairs, size_t unrotated) const {
  return Map(pairs, unrotated, &SharedSpace::Left);
}

Matrix<double> ShrunkScores::KeyMap(size_t pairs, size_t unrotated) const {
  return Map(pairs, unrotated, &SharedSpace::Right);
}

std::vector<double> ChannelScores(std::span<const double> moments,
                                  const Matrix<float>& down) {
  std::vector<double> scores(down.cols);
  for (size_t row = 0; row < down.rows; ++row) {
    for (size_t i = 0; i < down.cols; ++i) {
      scores[i] += static_cast<double>(down.row(row)[i]) * down.row(row)[i];
    }
  }
  for (size_t i = 0; i < down.cols; ++i) scores[i] *= moments[i];
  return scores;
}

Result<Matrix<double>> RefitWeights(const Matrix<double>& weights,
                                    const Matrix<double>& residual,
                                    Matrix<double> kept, double ridge,
                                    Executor& executor) {
  double mean = 0;
  for (size_t i = 0; i < kept.rows; ++i) mean += kept.row(i)[i];
  mean /= static_cast<double>(kept.rows);
  for (size_t i = 0; i < kept.rows; ++i) kept.row(i)[i] += ridge * mean;
  Matrix<double> right(residual.cols, residual.rows);
  for (size_t i = 0; i < residual.rows; ++i) {
    for (size_t j = 0; j < residual.cols; ++j) {
      right.row(j)[i] = residual.row(i)[j];
    }
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const Matrix<double> change,
      SolvePositive(std::move(kept), std::move(right), executor));
  Matrix<double> refit = weights;
  for (size_t i = 0; i < refit.rows; ++i) {
    for (size_t j = 0; j < refit.cols; ++j) {
      refit.row(i)[j] += change.row(j)[i];
    }
  }
  return refit;
}

}  // namespace rankforge
