// The forms that a linear layer can take: what each costs, and what it loses on
// calibration inputs.
#ifndef RANKFORGE_ADAPT_FORMS_LINEAR_FORMS_H_
#define RANKFORGE_ADAPT_FORMS_LINEAR_FORMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapt/forms/ranked_layer.h"
#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/threads/executor.h"

namespace rankforge {

enum class Form : uint8_t {
  kDense,
  kRank,       // a rank adapter, its inner dimension and threshold searched
  kLowRank,    // the same without a mask: activation-aware truncated SVD
  kMagnitude,  // an input mask by |x_j| (TEAL)
  kWeighted,   // an input mask by |x_j| * ||W[:, j]|| (WINA)
  kSloped,     // an input mask by |x_j| * what the loss changes by with x_j
};
const char* Name(Form form);
// Whether the form needs the layer's rank basis.
constexpr bool IsRank(Form form) {
  return form == Form::kRank || form == Form::kLowRank;
}

// A layer y = W x with the inputs x (tokens, cols) of calibration, which must
// outlive this object. Costs are relative to the dense layer, as grid.costs
// counts them.
class LinearForms {
 public:
  // `with_ranks`: forms with IsRank are possible.
  static Result<LinearForms> Create(const std::string& module, Matrix<float> w,
                                    const Matrix<float>& x, bool with_ranks,
                                    const RankGrid& grid, Executor& executor);

  // The same, with ranks in a basis that is already made.
  static LinearForms InBasis(const std::string& module, Matrix<float> w,
                             const Matrix<float>& x, RankBasis basis,
                             const RankGrid& grid, Executor& executor);

  // Makes Form::kSloped possible: masks compare |x_j| * slopes[j]. slopes
  // (cols,), root mean squares of the gradients of the loss at x_j.
  void SetSlopes(std::vector<float> slopes);

  // The squared output error, relative and pooled over the first tokens of
  // calibration (all of them for ranks); none: the form is not possible at this
  // cost. A cost of 1 or more is dense.
  std::optional<double> Error(Form form, double cost) const;

  // Adds the layer in this form, with what calibration says about it. `refit`:
  // RefitRankAdapter for rank adapters with a mask. Error: the form is not
  // possible at this cost.
  Status AddTo(Adapter& adapter, Form form, double cost, bool refit) const;

  // What a mask kSloped at this cost adds to the divergence of the model's
  // predictions, by the gradients alone: half of the mean over tokens of the
  // (slopes[j] x_j)^2 that it drops, the diagonal of the Fisher information.
  // Nats per token; none: the form is not possible at this cost.
  std::optional<double> GradientLoss(double cost) const;

  const std::string& module() const { return module_; }
  double dense_cost() const { return grid_.costs.Dense(w().rows, w().cols); }

 private:
  LinearForms(std::string module, const Matrix<float>& x, const RankGrid& grid,
              Executor& executor)
      : module_(std::move(module)), x_(&x), grid_(grid), executor_(&executor) {}

  const Matrix<float>& w() const { return ranked_ ? ranked_->w : w_; }
  // The share of the inputs that a mask may keep; none: no mask has this cost.
  std::optional<double> KeepFor(double cost) const;
  // What masks of this form multiply |x_j| by.
  std::vector<float> ScalesOf(Form form) const;
  double MaskError(Form form, double keep) const;
  std::optional<RankChoice> Choice(Form form, double cost) const;

  std::string module_;
  Matrix<float> w_;  // unless ranked_ has it
  const Matrix<float>* x_;
  std::vector<float> slopes_;  // empty: not known
  // slopes[j] * x_j of the first tokens, when first asked for.
  mutable std::vector<float> gradient_scores_;
  // For errors of masks, made when they are first asked for.
  struct MaskErrors;
  mutable std::shared_ptr<MaskErrors> mask_errors_;
  RankGrid grid_;
  Executor* executor_;
  std::optional<RankedLayer> ranked_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_LINEAR_FORMS_H_
