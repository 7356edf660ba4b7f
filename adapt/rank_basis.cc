#include "adapt/rank_basis.h"

#include <algorithm>
#include <cmath>

#include "runtime/model/parallel.h"

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
      Multiply(end, end - begin, count,
               {.data = tile.data(), .stride = n, .transposed = true},
               {.data = tile.data() + begin, .stride = n}, 1.0,
               moments.values.data() + begin, n);
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
    std::vector<double> left, right;
    for (size_t token = 0; token < us.rows; token += kTokens) {
      const size_t count = std::min(kTokens, us.rows - token);
      left.assign(us.row(token), us.row(token) + count * us.cols);
      right.assign(vs.row(token), vs.row(token) + count * vs.cols);
      Multiply(us.cols, width, count,
               {.data = left.data(), .stride = us.cols, .transposed = true},
               {.data = right.data() + begin, .stride = vs.cols}, 1.0,
               moments.values.data() + begin, vs.cols);
    }
  });
  return moments;
}

Result<Matrix<double>> MomentsRoot(Matrix<double> moments) {
  const size_t n = moments.rows;
  RANKFORGE_ASSIGN_OR_RETURN(SymmetricEigen eigen,
                             DecomposeSymmetric(std::move(moments)));
  double mean = 0;
  for (const double value : eigen.values) mean += std::max(value, 0.0) / n;
  if (!(mean > 0)) {
    return Failed(
        "the inputs of a layer are zero or NaN on the whole calibration text: "
        "check the checkpoint");
  }
  Matrix<double> root(n, n);
  for (size_t k = 0; k < n; ++k) {
    const double scale =
        std::sqrt(std::max(eigen.values[k], kSmallestEigenvalue * mean));
    for (size_t i = 0; i < n; ++i) {
      root.row(i)[k] = scale * eigen.vectors.row(k)[i];
    }
  }
  return root;
}

Result<RankBasis> MakeRankBasis(const Matrix<float>& w,
                                const Matrix<double>& moments_root) {
  const size_t rows = w.rows;
  const size_t cols = w.cols;
  const Matrix<double> wide = Widen(w);
  Matrix<double> product(rows, cols);
  Multiply(rows, cols, cols, {.data = wide.values.data(), .stride = cols},
           {.data = moments_root.values.data(), .stride = cols}, 0.0,
           product.values.data(), cols);
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<double> u,
                             LeftSingularVectors(std::move(product)));
  const size_t rank = u.cols;
  Matrix<double> b(rank, cols);
  Multiply(rank, cols, rows,
           {.data = u.values.data(), .stride = rank, .transposed = true},
           {.data = wide.values.data(), .stride = cols}, 0.0, b.values.data(),
           cols);
  RankBasis basis{Matrix<float>(rank, rows), Matrix<float>(rank, cols)};
  for (size_t k = 0; k < rank; ++k) {
    for (size_t i = 0; i < rows; ++i) {
      basis.a.row(k)[i] = static_cast<float>(u.row(i)[k]);
    }
    std::transform(b.row(k), b.row(k) + cols, basis.b.row(k),
                   [](double v) { return static_cast<float>(v); });
  }
  return basis;
}

Matrix<float> RankActivations(const Matrix<float>& b, const Matrix<float>& x,
                              Executor& executor) {
  const size_t rank = b.rows;
  Matrix<float> z(rank, x.rows);
  const size_t parts = (rank + kPanel - 1) / kPanel;
  ParallelFor(executor, parts, [&](size_t part, size_t) {
    const size_t begin = part * kPanel;
    const size_t count = std::min(kPanel, rank - begin);
    Multiply(count, x.rows, b.cols, {.data = b.row(begin), .stride = b.cols},
             {.data = x.values.data(), .stride = x.cols, .transposed = true},
             0.0f, z.row(begin), x.rows);
  });
  return z;
}

}  // namespace rankforge
