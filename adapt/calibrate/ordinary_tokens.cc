#include "adapt/calibrate/ordinary_tokens.h"

#include <algorithm>
#include <numeric>

#include "base/statistics.h"

namespace rankforge {
namespace {

// Unmarks tokens of `x` that are far larger than the median.
void LeaveOutLarge(const Matrix<float>& x, std::vector<bool>& ordinary) {
  std::vector<double> squares(x.rows);
  for (size_t t = 0; t < x.rows; ++t) {
    squares[t] = std::inner_product(x.row(t), x.row(t) + x.cols, x.row(t), 0.0);
  }
  const double most = kSinkMultiple * Median(squares);
  for (size_t t = 0; t < x.rows; ++t) {
    if (squares[t] > most) ordinary[t] = false;
  }
}

}  // namespace

std::vector<size_t> OrdinaryTokens(
    std::initializer_list<const Matrix<float>*> inputs, size_t window,
    bool apart) {
  const size_t tokens = (*inputs.begin())->rows;
  std::vector<bool> ordinary(tokens, true);
  for (size_t t = 0; apart && t < tokens; t += window) ordinary[t] = false;
  for (const Matrix<float>* x : inputs) {
    if (apart && tokens > 0) LeaveOutLarge(*x, ordinary);
  }
  std::vector<size_t> rows;
  for (size_t t = 0; t < tokens; ++t) {
    if (ordinary[t]) rows.push_back(t);
  }
  if (rows.empty()) {
    rows.resize(tokens);
    std::iota(rows.begin(), rows.end(), size_t{0});
  }
  return rows;
}

Matrix<float> RowsOf(const Matrix<float>& matrix,
                     const std::vector<size_t>& rows) {
  const auto end = std::lower_bound(rows.begin(), rows.end(), matrix.rows);
  Matrix<float> some(static_cast<size_t>(end - rows.begin()), matrix.cols);
  for (size_t i = 0; i < some.rows; ++i) {
    std::copy_n(matrix.row(rows[i]), matrix.cols, some.row(i));
  }
  return some;
}

}  // namespace rankforge
