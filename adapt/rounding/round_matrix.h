// Rounds a weight matrix to integers so that its products lose little on the
// inputs that it reads: GPTQ (arXiv 2210.17323), in the groups of our layouts.
#ifndef RANKFORGE_ADAPT_ROUNDING_ROUND_MATRIX_H_
#define RANKFORGE_ADAPT_ROUNDING_ROUND_MATRIX_H_

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "meta/types.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Whether RoundMatrix makes matrices of this type: integers with a scale per
// group.
constexpr bool IsRoundable(WeightType type) {
  return FormatOf(type).scaling == Scaling::kGroup;
}

// What is known of the inputs of a product.
struct InputMoments {
  // H (cols, cols): their second moments, relative to the mean of the diagonal,
  // which is then made larger by a hundredth. That lets few tokens, and inputs
  // that were always zero, be no obstacle.
  Matrix<float> moments;
  // U (cols, cols), upper triangular, with U^T U = H^-1.
  Matrix<float> inverse_factor;
  double unit = 1;  // the mean

  // Of second moments (cols, cols); zeros: nothing is known. Error: they are
  // not finite.
  static Result<InputMoments> Of(Matrix<double> moments, Executor& executor);
};

// W + D H^-1: the weights that make up for what other errors take from the
// outputs of W (rows, cols). D (rows, cols), `wanted`, has the moments of what
// is missing there with the inputs, summed over tokens as those of `inputs`
// are. Where inputs x have become x', that is W (x - x') x'^T (GPTAQ, arXiv
// 2504.02692).
Matrix<float> Corrected(const Matrix<float>& w, const Matrix<float>& wanted,
                        const InputMoments& inputs, Executor& executor);

// W (rows, cols) in `type`, which IsRoundable, packed in `layout`: the integers
// and scales of Q, which make tr((T - Q) H (T - Q)^T) small for the `target` T,
// W itself or W Corrected.
//
// Columns of T are rounded in turn, and what a column loses is made up for by
// the columns that follow (GPTQ). Where groups lie along the inputs (runs are
// rows), the scale of a group is chosen when its first column is next; each
// candidate is tried by rounding the whole group with it. Where they lie along
// the outputs, the scale of a group is that which rounds its outputs of the
// current column best. Types with minimums choose both. Then integers change
// one by one while that helps. All weights must be finite.
//
// quantization_error() of the result is that of the weights alone, which is
// larger than that of rounding to nearest. Error: the result is not finite.
Result<PackedMatrix> RoundMatrix(const Matrix<float>& w,
                                 const Matrix<float>& target,
                                 const InputMoments& inputs, WeightType type,
                                 Layout layout, Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_ROUNDING_ROUND_MATRIX_H_
