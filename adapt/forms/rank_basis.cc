#include "adapt/forms/rank_basis.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

constexpr size_t kPanel = 64;     // columns of C, or ranks, of one part
constexpr size_t kTokens = 1024;  // tokens widened at a time
constexpr double kSmallestEigenvalue = 1e-10;  // of the mean

}  // namespace

Matrix<double> SecondMoments(const Matrix<float>& x, Executor& executor) {
  const size_t n = x.cols;
  Matrix<double> moments(n, n);
  // Every part owns a panel of columns, down to the diagonal, and adds the
  // tokens in order.
  const size_t parts = (n + kPanel - 1) / kPanel;
  std::vector<std::vector<double>> wide(executor.threads());
  ParallelFor(executor, parts, [&](size_t part, size_t worker) {
    const size_t begin = part * kPanel;
    const size_t end = std::min(begin + kPanel, n);
    std::vector<double>& tile = wide[worker];
    for (size_t token = 0; token < x.rows; token += kTokens) {
      const size_t count = std::min(kTokens, x.rows - token);
      tile.assign(x.row(token), x.row(token) + count * n);
      const MatrixView<const double> all(tile.data(), count, n);
      Multiply(Transposed(all.Columns(0, end)), all.Columns(begin, end - begin),
               MatrixView(moments).Rows(0, end).Columns(begin, end - begin),
               1.0);
    }
  });
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < i; ++j) moments.row(i)[j] = moments.row(j)[i];
  }
  return moments;
}

Matrix<double> CrossMoments(const Matrix<float>& us, const Matrix<float>& vs,
                            Executor& executor) {
  Matrix<double> moments(us.cols, vs.cols);
  const size_t parts = (vs.cols + kPanel - 1) / kPanel;
  ParallelFor(executor, parts, [&](size_t part, size_t) {
    const size_t begin = part * kPanel;
    const size_t width = std::min(kPanel, vs.cols - begin);
    for (size_t token = 0; token < us.rows; token += kTokens) {
      const size_t count = std::min(kTokens, us.rows - token);
      const Matrix<double> left =
          MatrixOf<double>(MatrixView(us).Rows(token, count));
      const Matrix<double> right = MatrixOf<double>(
          MatrixView(vs).Rows(token, count).Columns(begin, width));
      Multiply(Transposed(left), right,
               MatrixView(moments).Columns(begin, width), 1.0);
    }
  });
  return moments;
}

Result<Matrix<double>> RegularMoments(Matrix<double> moments) {
  const size_t n = moments.rows;
  double mean = 0;
  for (size_t i = 0; i < n; ++i) {
    mean += moments.row(i)[i] / static_cast<double>(n);
  }
  if (!(mean > 0)) {
    return Failed(
        "the inputs of a layer are zero or NaN on the whole calibration text: "
        "check the checkpoint");
  }
  for (size_t i = 0; i < n; ++i) {
    moments.row(i)[i] += kSmallestEigenvalue * mean;
  }
  return moments;
}

namespace {

// left (rank, cols) W^T: (rank, rows), W widened a panel at a time.
Matrix<float> TimesWeights(const Matrix<double>& left, const Matrix<float>& w,
                           Executor& executor) {
  Matrix<float> result(left.rows, w.rows);
  constexpr size_t kRows = 256;
  ParallelFor(executor, (w.rows + kRows - 1) / kRows, [&](size_t part, size_t) {
    const size_t begin = part * kRows;
    const size_t count = std::min(kRows, w.rows - begin);
    const Matrix<double> wide =
        MatrixOf<double>(MatrixView(w).Rows(begin, count));
    const Matrix<double> panel = Product(left, Transposed(wide));
    Copy(MatrixView(panel), MatrixView(result).Columns(begin, count));
  });
  return result;
}

// Rows of `matrix`, the last first.
void ReverseRows(Matrix<double>& matrix) {
  for (size_t i = 0, j = matrix.rows - 1; i < j; ++i, --j) {
    std::swap_ranges(matrix.row(i), matrix.row(i + 1), matrix.row(j));
  }
}

// By the singular value decomposition of W L itself.
Result<RankBasis> DirectBasis(const Matrix<float>& w,
                              const Matrix<double>& root, Executor& executor) {
  const Matrix<double> wide = Widen(w);
  RANKFORGE_ASSIGN_OR_RETURN(
      const Matrix<double> u,
      LeftSingularVectors(Product(executor, wide, root)));
  const size_t rank = u.cols;
  RankBasis basis{Matrix<float>(rank, w.rows), {}};
  for (size_t k = 0; k < rank; ++k) {
    for (size_t i = 0; i < w.rows; ++i) {
      basis.a.row(k)[i] = static_cast<float>(u.row(i)[k]);
    }
  }
  basis.b = Narrow(Product(executor, Transposed(u), wide));
  return basis;
}

// The smallest diagonal element of a triangular factor relative to the largest.
// Below this, squaring has cost the small singular values their digits.
constexpr double kSmallestPivot = 1e-4;

double SmallestPivot(const Matrix<double>& lower) {
  double smallest = lower.row(0)[0], largest = smallest;
  for (size_t i = 1; i < lower.rows; ++i) {
    smallest = std::min(smallest, lower.row(i)[i]);
    largest = std::max(largest, lower.row(i)[i]);
  }
  return smallest / largest;
}

double Trace(const Matrix<double>& matrix) {
  double trace = 0;
  for (size_t i = 0; i < matrix.rows; ++i) trace += matrix.row(i)[i];
  return trace;
}

// Makes M of `gram`, with the same trace. Leaves `gram` as it is where `fisher`
// is zero or not finite.
void Weigh(const Matrix<double>& fisher, Matrix<double>& gram) {
  const double scale = Trace(gram) / Trace(fisher);
  if (!(scale > 0 && std::isfinite(scale))) return;
  for (size_t i = 0; i < gram.values.size(); ++i) {
    gram.values[i] = (fisher.values[i] * scale + gram.values[i] * kPlainShare) /
                     (1 + kPlainShare);
  }
}

// One problem on its way to a basis: Prepare makes `symmetric`, MakeRankBases
// finds its eigenvectors, and Finish makes the basis of them.
struct BasisWork {
  const Matrix<float>& w;
  const Matrix<double>& moments;
  const Matrix<double>* fisher;
  bool tall() const { return w.rows > w.cols; }

  bool direct = false;       // W L itself is decomposed
  Matrix<double> root = {};  // L, where tall
  Matrix<double> gram = {};  // W^T W, or M, where tall
  Matrix<double> symmetric = {};
  std::optional<Result<SymmetricEigen>> eigen = {};

  Status Prepare(Executor& executor) {
    if (!tall()) {
      const Matrix<double> wide = Widen(w);
      const Matrix<double> product = Product(executor, wide, moments);
      symmetric = Product(executor, product, Transposed(wide));
      return {};
    }
    RANKFORGE_ASSIGN_OR_RETURN(root, CholeskyFactor(moments));
    gram = SecondMoments(w, executor);
    const Result<Matrix<double>> factor = CholeskyFactor(gram);
    direct = !factor.ok() || !(SmallestPivot(*factor) > kSmallestPivot);
    if (direct) return {};
    if (fisher != nullptr) Weigh(*fisher, gram);
    const Matrix<double> product = Product(executor, gram, root);
    symmetric = Product(executor, Transposed(root), product);
    return {};
  }

  Result<RankBasis> Finish(Executor& executor) {
    if (direct) return DirectBasis(w, root, executor);
    RANKFORGE_ASSIGN_OR_RETURN(SymmetricEigen found, *std::move(eigen));
    ReverseRows(found.vectors);
    if (!tall()) {
      RankBasis basis{Narrow(found.vectors), {}};
      const Matrix<double> wide = Widen(w);
      basis.b = Narrow(Product(executor, found.vectors, wide));
      return basis;
    }
    const size_t n = w.cols;
    // P^T, rows by descending singular value.
    Matrix<double> p = Product(executor, found.vectors, Transposed(root));
    found.vectors = {};
    const double least = found.values.back() * 1e-16;
    for (size_t k = 0; k < n; ++k) {
      const double sigma = std::sqrt(std::max(found.values[n - 1 - k], least));
      for (double* v = p.row(k); v != p.row(k + 1); ++v) *v /= sigma;
    }
    // P^T W^T W, or P^T M. The correction that makes U orthonormal makes it B.
    Matrix<double> b = Product(executor, p, gram);
    const Result<Matrix<double>> lower =
        CholeskyFactor(Product(executor, b, Transposed(p)));
    if (!lower.ok() || !(SmallestPivot(*lower) > kSmallestPivot)) {
      return DirectBasis(w, root, executor);
    }
    SolveLower(*lower, false, p, executor);
    SolveLower(*lower, false, b, executor);
    return RankBasis{TimesWeights(p, w, executor), Narrow(b)};
  }
};

}  // namespace

Result<std::vector<RankBasis>> MakeRankBases(
    std::span<const BasisProblem> problems, Executor& executor) {
  std::vector<BasisWork> works;
  for (const BasisProblem& problem : problems) {
    works.push_back({*problem.w, *problem.moments, problem.fisher});
    RANKFORGE_RETURN_IF_ERROR(works.back().Prepare(executor));
  }
  ParallelFor(executor, works.size(), [&](size_t i, size_t) {
    if (works[i].direct) return;
    works[i].eigen = DecomposeSymmetric(std::move(works[i].symmetric));
  });
  std::vector<RankBasis> bases;
  for (BasisWork& work : works) {
    RANKFORGE_ASSIGN_OR_RETURN(RankBasis basis, work.Finish(executor));
    bases.push_back(std::move(basis));
    work.root = work.gram = {};
  }
  return bases;
}

Matrix<float> RankActivations(const Matrix<float>& b, const Matrix<float>& x,
                              Executor& executor) {
  const size_t rank = b.rows;
  Matrix<float> z(rank, x.rows);
  const size_t parts = (rank + kPanel - 1) / kPanel;
  ParallelFor(executor, parts, [&](size_t part, size_t) {
    const size_t begin = part * kPanel;
    const size_t count = std::min(kPanel, rank - begin);
    Multiply(MatrixView(b).Rows(begin, count), Transposed(x),
             MatrixView(z).Rows(begin, count));
  });
  return z;
}

}  // namespace rankforge
