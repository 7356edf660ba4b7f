#include "adapt/forms/linear_forms.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adapt/forms/input_mask.h"

namespace rankforge {
namespace {

// Tokens on which the error of a finished mask is measured, to about 2 %.
constexpr size_t kErrorTokens = 512;
// Tokens for Error, which is asked for many masks, to about 3 %.
constexpr size_t kCurveTokens = 256;

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
  }
  return "";
}

// What the errors of all masks have in common, on the first tokens.
struct LinearForms::MaskErrors {
  Matrix<float> x;
  std::vector<float> norms;     // of the columns
  std::vector<float> weighted;  // |x_j| * norms_j of every token
  double total = 0;             // squared norm of the outputs
};

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
    made->x = Matrix<float>(std::min(x_->rows, kCurveTokens), x_->cols);
    std::copy_n(x_->values.begin(), made->x.values.size(),
                made->x.values.begin());
    made->norms = ColumnNorms(w());
    made->weighted = Importance(made->x, made->norms, *executor_);
    made->total =
        DroppedEnergy(made->x, made->x, w(), nullptr, kCurveTokens, *executor_);
    mask_errors_ = std::move(made);
  }
  const MaskErrors& all = *mask_errors_;
  const bool weighted = form == Form::kWeighted;
  const float t =
      ShareThreshold(weighted ? all.weighted : all.x.values, keep, *executor_);
  const std::vector<float> tau =
      weighted ? FoldScales(t, all.norms) : std::vector<float>(w().cols, t);
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
  if (!IsRank(form)) {
    const std::optional<double> keep = KeepFor(cost);
    if (!keep) return std::nullopt;
    return MaskError(form, *keep);
  }
  const std::optional<RankChoice> choice = Choice(form, cost);
  if (!choice) return std::nullopt;
  return 1 - choice->coverage;
}

Status LinearForms::AddTo(Adapter& adapter, Form form, double cost,
                          bool refit) const {
  if (form == Form::kDense || cost >= 1) {
    adapter.left_dense[module_] = "nothing else is worth its cost";
    return {};
  }
  if (!IsRank(form)) {
    const std::optional<double> keep = KeepFor(cost);
    if (!keep) {
      return UsageError(fmt::format(
          "{}: no mask costs {:.4f} of the dense layer: ask for a larger keep",
          module_, cost));
    }
    adapter.masks[module_] =
        MakeInputMask(module_, *x_, w(),
                      form == Form::kWeighted ? InputScore::kWeighted
                                              : InputScore::kMagnitude,
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
