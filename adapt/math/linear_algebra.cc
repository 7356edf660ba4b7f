#include "adapt/math/linear_algebra.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>

#include "runtime/model/forward/blas.h"
#include "runtime/threads/parallel.h"

// OpenBLAS exports LAPACK's own entry points. Declaring the three that are
// needed here saves a dependency on LAPACKE.
extern "C" {
void dsyevd_(const char* job, const char* triangle, const int* n, double* a,
             const int* lda, double* w, double* work, const int* work_size,
             int* iwork, const int* iwork_size, int* info);
void dgesdd_(const char* job, const int* m, const int* n, double* a,
             const int* lda, double* s, double* u, const int* ldu, double* vt,
             const int* ldvt, double* work, const int* work_size, int* iwork,
             int* info);
void dpotrf_(const char* triangle, const int* n, double* a, const int* lda,
             int* info);
}

namespace rankforge {
namespace {

CBLAS_TRANSPOSE Transpose(bool transposed) {
  return transposed ? CblasTrans : CblasNoTrans;
}

int Int(size_t value) { return static_cast<int>(value); }

constexpr size_t kPanel = 256;  // rows or columns of one part

template <class T>
void MultiplyParts(Executor& executor, const Factor<T>& a, const Factor<T>& b,
                   const MatrixView<T>& c) {
  ParallelFor(executor, (c.rows + kPanel - 1) / kPanel,
              [&](size_t part, size_t) {
                const size_t begin = part * kPanel;
                const size_t count = std::min(kPanel, c.rows - begin);
                Multiply(a.Rows(begin, count), b, c.Rows(begin, count));
              });
}

template <class T>
Matrix<T> ProductInParts(Executor& executor, const Factor<T>& a,
                         const Factor<T>& b) {
  Matrix<T> product(a.rows(), b.cols());
  MultiplyParts<T>(executor, a, b, product);
  return product;
}

}  // namespace

double SquaredNorm(const Matrix<float>& matrix) {
  double sum = 0;
  for (const float v : matrix.values) sum += static_cast<double>(v) * v;
  return sum;
}

Matrix<float> OutputOf(const Matrix<float>& w, const Matrix<float>& x) {
  Matrix<float> y(x.rows, w.rows);
  Multiply(x, Transposed(w), y);
  return y;
}

void Multiply(const Factor<float>& a, const Factor<float>& b,
              const MatrixView<float>& c, float beta) {
  PrepareBlas();
  cblas_sgemm(CblasRowMajor, Transpose(a.transposed), Transpose(b.transposed),
              Int(c.rows), Int(c.cols), Int(a.cols()), 1.0f, a.view.data,
              Int(a.view.stride), b.view.data, Int(b.view.stride), beta, c.data,
              Int(c.stride));
}

void Multiply(const Factor<double>& a, const Factor<double>& b,
              const MatrixView<double>& c, double beta) {
  PrepareBlas();
  cblas_dgemm(CblasRowMajor, Transpose(a.transposed), Transpose(b.transposed),
              Int(c.rows), Int(c.cols), Int(a.cols()), 1.0, a.view.data,
              Int(a.view.stride), b.view.data, Int(b.view.stride), beta, c.data,
              Int(c.stride));
}

void Multiply(Executor& executor, const Factor<float>& a,
              const Factor<float>& b, const MatrixView<float>& c) {
  MultiplyParts(executor, a, b, c);
}

void Multiply(Executor& executor, const Factor<double>& a,
              const Factor<double>& b, const MatrixView<double>& c) {
  MultiplyParts(executor, a, b, c);
}

Matrix<double> Product(const Factor<double>& a, const Factor<double>& b) {
  Matrix<double> product(a.rows(), b.cols());
  Multiply(a, b, product);
  return product;
}

Matrix<float> Product(Executor& executor, const Factor<float>& a,
                      const Factor<float>& b) {
  return ProductInParts(executor, a, b);
}

Matrix<double> Product(Executor& executor, const Factor<double>& a,
                       const Factor<double>& b) {
  return ProductInParts(executor, a, b);
}

Result<SymmetricEigen> DecomposeSymmetric(Matrix<double> matrix) {
  PrepareBlas();
  const int n = Int(matrix.rows);
  std::vector<double> values(matrix.rows);
  double work_size = 0;
  int iwork_size = 0;
  int info = 0;
  const int query = -1;
  dsyevd_("V", "U", &n, matrix.values.data(), &n, values.data(), &work_size,
          &query, &iwork_size, &query, &info);
  std::vector<double> work(static_cast<size_t>(work_size));
  std::vector<int> iwork(static_cast<size_t>(iwork_size));
  const int work_count = Int(work.size());
  dsyevd_("V", "U", &n, matrix.values.data(), &n, values.data(), work.data(),
          &work_count, iwork.data(), &iwork_size, &info);
  if (info != 0) {
    return Failed(fmt::format(
        "the eigenvalues of a {0} x {0} second-moment matrix were not found "
        "(dsyevd: {1}): check the checkpoint and the calibration text for NaN",
        n, info));
  }
  // LAPACK's columns are the rows of a row-major matrix.
  return SymmetricEigen{std::move(values), std::move(matrix)};
}

Result<Matrix<double>> CholeskyFactor(Matrix<double> matrix) {
  PrepareBlas();
  const int n = Int(matrix.rows);
  int info = 0;
  // The upper triangle of LAPACK's columns is the lower one of rows.
  dpotrf_("U", &n, matrix.values.data(), &n, &info);
  if (info != 0) {
    return Failed(fmt::format(
        "a {0} x {0} second-moment matrix is not positive definite (dpotrf: "
        "{1}): check the checkpoint and the calibration text for NaN",
        n, info));
  }
  for (size_t i = 0; i < matrix.rows; ++i) {
    std::fill(matrix.row(i) + i + 1, matrix.row(i) + matrix.cols, 0.0);
  }
  return matrix;
}

void SolveLower(const Matrix<double>& lower, bool transposed, Matrix<double>& b,
                Executor& executor) {
  PrepareBlas();
  ParallelFor(executor, (b.cols + kPanel - 1) / kPanel,
              [&](size_t part, size_t) {
                const size_t begin = part * kPanel;
                cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower,
                            Transpose(transposed), CblasNonUnit, Int(b.rows),
                            Int(std::min(kPanel, b.cols - begin)), 1.0,
                            lower.values.data(), Int(lower.cols),
                            b.values.data() + begin, Int(b.cols));
              });
}

Result<Matrix<double>> SolvePositive(Matrix<double> a, Matrix<double> b,
                                     Executor& executor) {
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<double> lower,
                             CholeskyFactor(std::move(a)));
  SolveLower(lower, false, b, executor);
  SolveLower(lower, true, b, executor);
  return b;
}

Result<SingularValues> DecomposeSingular(Matrix<double> matrix) {
  PrepareBlas();
  // LAPACK, which is column-major, reads the transpose M^T (n, m) = V S U^T. So
  // U^T comes out as its right factor, in memory (m, rank).
  const int m = Int(matrix.cols);
  const int n = Int(matrix.rows);
  const int rank = std::min(m, n);
  SingularValues result{
      .left = Matrix<double>(matrix.rows, static_cast<size_t>(rank)),
      .values = std::vector<double>(static_cast<size_t>(rank)),
      .right = Matrix<double>(static_cast<size_t>(rank), matrix.cols)};
  std::vector<int> iwork(8 * static_cast<size_t>(rank));
  double work_size = 0;
  int info = 0;
  const int query = -1;
  dgesdd_("S", &m, &n, matrix.values.data(), &m, result.values.data(),
          result.right.values.data(), &m, result.left.values.data(), &rank,
          &work_size, &query, iwork.data(), &info);
  std::vector<double> work(static_cast<size_t>(work_size));
  const int work_count = Int(work.size());
  dgesdd_("S", &m, &n, matrix.values.data(), &m, result.values.data(),
          result.right.values.data(), &m, result.left.values.data(), &rank,
          work.data(), &work_count, iwork.data(), &info);
  if (info != 0) {
    return Failed(fmt::format(
        "the singular vectors of a {} x {} layer were not found (dgesdd: {}): "
        "check the checkpoint and the calibration text for NaN",
        n, m, info));
  }
  return result;
}

Result<Matrix<double>> LeftSingularVectors(Matrix<double> matrix) {
  RANKFORGE_ASSIGN_OR_RETURN(SingularValues all,
                             DecomposeSingular(std::move(matrix)));
  return std::move(all.left);
}

}  // namespace rankforge
