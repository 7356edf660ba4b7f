#include "adapt/forms/linear_forms.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "adapt/forms/input_mask.h"
#include "kernels/mask/mask.h"

namespace rankforge {
namespace {

// Tokens on which the error of a finished mask is measured, to about 2 %.
constexpr size_t kErrorTokens = 512;
// Tokens for Error, which is asked for many masks, to about 3 %.
constexpr size_t kCurveTokens = 256;

// Tokens for GradientLoss, which multiplies nothing by W.
constexpr size_t kGradientTokens = 2048;

// The largest rank of a truncated SVD, with all ranks kept, that `cost`
// affords.
size_t AffordedRank(size_t rows, size_t cols, double cost,
                    const RankGrid& grid) {
  const auto costs = [&](size_t d) {
    return RankCost(rows, cols, d, static_cast<double>(d), grid.costs);
  };
  size_t rank = std::min(rows, cols);
  while (rank > 0 && costs(rank) > cost) --rank;
  return grid.round ? rank - rank % InnerMultiple(rank) : rank;
}

}  // namespace

const char* Name(Form form) {
  switch (form) {
    case Form::kDense:
      return "dense";
    case Form::kRank:
      return "rank";
    case Form::kLowRank:
      return "low_rank";
    case Form::kMagnitude:
      return "magnitude";
    case Form::kWeighted:
      return "weighted";
    case Form::kSloped:
      return "sloped";
  }
  return "";
}

// What the errors of all masks have in common, on the first tokens.
struct LinearForms::MaskErrors {
  Matrix<float> x;
  std::map<Form, std::vector<float>> scales;
  std::map<Form, std::vector<float>> scores;  // |x_j| * scales_j of every token
  double total = 0;                           // squared norm of the outputs
};

void LinearForms::SetSlopes(std::vector<float> slopes) {
  slopes_ = std::move(slopes);
}

std::vector<float> LinearForms::ScalesOf(Form form) const {
  if (form == Form::kSloped) return slopes_;
  return ScoreScales(
      form == Form::kWeighted ? InputScore::kWeighted : InputScore::kMagnitude,
      w());
}

Result<LinearForms> LinearForms::Create(const std::string& module,
                                        Matrix<float> w, const Matrix<float>& x,
                                        bool with_ranks, const RankGrid& grid,
                                        Executor& executor) {
  LinearForms forms(module, x, grid, executor);
  if (!with_ranks) {
    forms.w_ = std::move(w);
    return forms;
  }
  std::vector<Matrix<float>> weights;
  weights.push_back(std::move(w));
  RANKFORGE_ASSIGN_OR_RETURN(
      std::vector<RankedLayer> ranked,
      RankLayers({module}, std::move(weights), x, grid, executor));
  forms.ranked_ = std::move(ranked.front());
  return forms;
}

std::optional<double> LinearForms::KeepFor(double cost) const {
  const double kept = grid_.costs.KeptFor(w().rows, cost * dense_cost()) /
                      static_cast<double>(w().cols);
  if (kept <= 0 || kept >= 1) return std::nullopt;
  return kept;
}

LinearForms LinearForms::InBasis(const std::string& module, Matrix<float> w,
                                 const Matrix<float>& x, RankBasis basis,
                                 const RankGrid& grid, Executor& executor) {
  LinearForms forms(module, x, grid, executor);
  forms.ranked_ =
      RankLayer(module, std::move(w), x, std::move(basis), grid, executor);
  return forms;
}

double LinearForms::MaskError(Form form, double keep) const {
  if (!mask_errors_) {
    auto made = std::make_shared<MaskErrors>();
    made->x = Rows(*x_, 0, std::min(x_->rows, kCurveTokens));
    made->total =
        DroppedEnergy(made->x, made->x, w(), nullptr, kCurveTokens, *executor_);
    mask_errors_ = std::move(made);
  }
  MaskErrors& all = *mask_errors_;
  if (!all.scales.contains(form)) {
    all.scales[form] = ScalesOf(form);
    all.scores[form] = Importance(all.x, all.scales[form], *executor_);
  }
  const std::vector<float> tau = FoldScales(
      ShareThreshold(all.scores[form], keep, *executor_), all.scales[form]);
  const double dropped =
      DroppedEnergy(all.x, all.x, w(), &tau, kCurveTokens, *executor_);
  return all.total > 0 ? dropped / all.total : dropped;
}

std::optional<RankChoice> LinearForms::Choice(Form form, double cost) const {
  if (!ranked_) return std::nullopt;
  if (form == Form::kRank) return ranked_->search.Best(cost);
  const size_t d =
      std::min(AffordedRank(w().rows, w().cols, cost, grid_), ranked_->z.rows);
  if (d == 0) return std::nullopt;
  RankChoice choice{.d = d, .kept = static_cast<double>(d), .searched_d = d};
  double all = 0;
  for (size_t k = 0; k < ranked_->z.rows; ++k) {
    double energy = 0;
    for (const float* v = ranked_->z.row(k); v != ranked_->z.row(k + 1); ++v) {
      energy += static_cast<double>(*v) * *v;
    }
    all += energy;
    if (k < d) choice.coverage += energy;
  }
  choice.coverage /= all;
  return choice;
}

std::optional<double> LinearForms::Error(Form form, double cost) const {
  if (form == Form::kDense || cost >= 1) return 0;
  if (form == Form::kSloped && slopes_.empty()) return std::nullopt;
  if (!IsRank(form)) {
    const std::optional<double> keep = KeepFor(cost);
    if (!keep) return std::nullopt;
    return MaskError(form, *keep);
  }
  const std::optional<RankChoice> choice = Choice(form, cost);
  if (!choice) return std::nullopt;
  return 1 - choice->coverage;
}

std::optional<double> LinearForms::GradientLoss(double cost) const {
  if (slopes_.empty()) return std::nullopt;
  if (cost >= 1) return 0;
  const std::optional<double> keep = KeepFor(cost);
  if (!keep) return std::nullopt;
  if (gradient_scores_.empty()) {
    gradient_scores_ = Importance(
        Rows(*x_, 0, std::min(x_->rows, kGradientTokens)), slopes_, *executor_);
  }
  const float t = ShareThreshold(gradient_scores_, *keep, *executor_);
  double dropped = 0;
  for (const float score : gradient_scores_) {
    if (!Keeps(score, t)) dropped += static_cast<double>(score) * score;
  }
  const double tokens =
      static_cast<double>(gradient_scores_.size() / slopes_.size());
  return dropped / tokens / 2;
}

Status LinearForms::AddTo(Adapter& adapter, Form form, double cost,
                          bool refit) const {
  if (form == Form::kDense || cost >= 1) {
    adapter.left_dense[module_] = "nothing else is worth its cost";
    return {};
  }
  if (form == Form::kSloped && slopes_.empty()) {
    return Failed(module_ + ": gradients at its inputs are not known");
  }
  if (!IsRank(form)) {
    const std::optional<double> keep = KeepFor(cost);
    if (!keep) {
      return UsageError(fmt::format(
          "{}: no mask costs {:.4f} of the dense layer: ask for a larger keep",
          module_, cost));
    }
    adapter.masks[module_] = MaskBy(*x_, ScalesOf(form), module_, *x_, w(),
                                    *keep, kErrorTokens, *executor_);
    return {};
  }
  const std::optional<RankChoice> choice = Choice(form, cost);
  if (!choice) {
    return UsageError(
        fmt::format("{}: no rank adapter costs {:.4f} of the dense layer: ask "
                    "for a larger keep",
                    module_, cost));
  }
  const LayerForm exact = ExactForm(*ranked_, choice, *executor_);
  RankAdapter rank = MakeRankAdapter(exact, *executor_);
  if (refit && form == Form::kRank) {
    RANKFORGE_RETURN_IF_ERROR(RefitRankAdapter(exact, *executor_, rank));
  }
  adapter.ranks[module_] = std::move(rank);
  adapter.parameters[module_ + ".searched_d"] =
      std::to_string(choice->searched_d);
  adapter.parameters[module_ + ".rounding_loss"] =
      fmt::format("{:.6f}", choice->rounding_loss);
  return {};
}

}  // namespace rankforge
