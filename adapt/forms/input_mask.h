// Input masks from calibration: of y = W x, the inputs with |x_j| * scale_j >=
// t take part.
#ifndef RANKFORGE_ADAPT_FORMS_INPUT_MASK_H_
#define RANKFORGE_ADAPT_FORMS_INPUT_MASK_H_

#include <cstddef>
#include <string>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "runtime/model/format/adapter.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// ||W[:, j]|| of every column.
std::vector<float> ColumnNorms(const Matrix<float>& w);

// x_j * scales[j] of every token: (tokens, cols). Masks compare its magnitude.
std::vector<float> Importance(const Matrix<float>& x,
                              const std::vector<float>& scales,
                              Executor& executor);

// The threshold that keeps the share `keep` of the values.
float ShareThreshold(const std::vector<float>& values, double keep,
                     Executor& executor);

// The thresholds tau_j for which |x_j| >= tau_j says the same as |x_j| *
// scales[j] >= t: t / scales[j], or infinity where scales[j] is 0.
std::vector<float> FoldScales(float t, const std::vector<float>& scales);

// What decides whether an input takes part.
enum class InputScore {
  kMagnitude,  // |x_j| (TEAL, arXiv 2408.14690)
  kWeighted,   // |x_j| * ||W[:, j]|| (WINA, arXiv 2505.19427; RaNA's down)
};

// What |x_j| is multiplied by: 1 or ||W[:, j]||.
std::vector<float> ScoreScales(InputScore score, const Matrix<float>& w);

// The squared norm of what W makes of the dropped inputs alone, over all
// outputs and the first `tokens` tokens. Input x_j is dropped where
// |decisive_j| < tau_j; without tau all inputs count.
double DroppedEnergy(const Matrix<float>& decisive, const Matrix<float>& x,
                     const Matrix<float>& w, const std::vector<float>* tau,
                     size_t tokens, Executor& executor);

// Sets what the file says of how `mask` keeps the values `decisive` (tokens,
// cols).
void RecordKept(const Matrix<float>& decisive, InputMask& mask,
                Executor& executor);

// The mask over the values `decisive` (tokens, cols) that keeps the share
// `keep` of |decisive_j| * scales[j] over all tokens. Its error is the squared
// error of W's output, relative and pooled, when it drops inputs x (tokens,
// cols) of the first `error_tokens` tokens.
InputMask MaskBy(const Matrix<float>& decisive,
                 const std::vector<float>& scales, const std::string& module,
                 const Matrix<float>& x, const Matrix<float>& w, double keep,
                 size_t error_tokens, Executor& executor);

// The mask of W (rows, cols) that keeps the share `keep` of the scores over all
// tokens of x (tokens, cols). Its error is the squared error of W's output on
// the first `error_tokens` tokens, relative and pooled.
InputMask MakeInputMask(const std::string& module, const Matrix<float>& x,
                        const Matrix<float>& w, InputScore score, double keep,
                        size_t error_tokens, Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_INPUT_MASK_H_
