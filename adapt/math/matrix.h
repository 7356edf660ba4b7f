// Row-major matrices, and views of parts of them.
#ifndef RANKFORGE_ADAPT_MATH_MATRIX_H_
#define RANKFORGE_ADAPT_MATH_MATRIX_H_

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace rankforge {

// Owns its values.
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

// Values that others own: row i at data + i * stride. T may be const.
template <class T>
struct MatrixView {
  using Value = std::remove_const_t<T>;
  using Owner =
      std::conditional_t<std::is_const_v<T>, const Matrix<Value>, Matrix<T>>;

  T* data;
  size_t rows;
  size_t cols;
  size_t stride;

  MatrixView(T* data, size_t rows, size_t cols, size_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  MatrixView(T* data, size_t rows, size_t cols)
      : MatrixView(data, rows, cols, cols) {}
  // A matrix is a view of itself.
  MatrixView(Owner& matrix)  // NOLINT(google-explicit-constructor)
      : MatrixView(matrix.values.data(), matrix.rows, matrix.cols) {}

  T* row(size_t i) const { return data + i * stride; }
  // [begin, begin + count).
  MatrixView Rows(size_t begin, size_t count) const {
    return {row(begin), count, cols, stride};
  }
  MatrixView Columns(size_t begin, size_t count) const {
    return {data + begin, rows, count, stride};
  }
};
template <class T>
MatrixView(Matrix<T>&) -> MatrixView<T>;
template <class T>
MatrixView(const Matrix<T>&) -> MatrixView<const T>;

// Copies values between views of one shape, rounded to the type of `to`.
template <class From, class To>
void Copy(const MatrixView<From>& from, const MatrixView<To>& to) {
  for (size_t i = 0; i < from.rows; ++i) {
    std::transform(from.row(i), from.row(i) + from.cols, to.row(i),
                   [](From value) { return static_cast<To>(value); });
  }
}

// The values of a view as a matrix of another type.
template <class To, class From>
Matrix<To> MatrixOf(const MatrixView<From>& view) {
  Matrix<To> matrix(view.rows, view.cols);
  Copy(view, MatrixView(matrix));
  return matrix;
}

inline Matrix<double> Widen(const Matrix<float>& matrix) {
  return MatrixOf<double>(MatrixView(matrix));
}
inline Matrix<float> Narrow(const Matrix<double>& matrix) {
  return MatrixOf<float>(MatrixView(matrix));
}

// `count` rows from `begin` on.
inline Matrix<float> Rows(const Matrix<float>& matrix, size_t begin,
                          size_t count) {
  return MatrixOf<float>(MatrixView(matrix).Rows(begin, count));
}

// A factor of a product: a view, or its transpose.
template <class T>
struct Factor {
  MatrixView<const T> view;
  bool transposed = false;

  // NOLINTBEGIN(google-explicit-constructor): whatever is a matrix is a factor.
  Factor(const MatrixView<const T>& view, bool transposed = false)
      : view(view), transposed(transposed) {}
  Factor(const MatrixView<T>& view)
      : view(view.data, view.rows, view.cols, view.stride) {}
  Factor(const Matrix<T>& matrix) : view(matrix) {}
  // NOLINTEND(google-explicit-constructor)

  size_t rows() const { return transposed ? view.cols : view.rows; }
  size_t cols() const { return transposed ? view.rows : view.cols; }
  // Rows [begin, begin + count) of the factor.
  Factor Rows(size_t begin, size_t count) const {
    return {transposed ? view.Columns(begin, count) : view.Rows(begin, count),
            transposed};
  }
};

template <class T>
Factor<T> Transposed(const MatrixView<const T>& view) {
  return {view, true};
}
template <class T>
Factor<T> Transposed(const Matrix<T>& matrix) {
  return {MatrixView<const T>(matrix), true};
}

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MATH_MATRIX_H_
