#include "adapt/methods/block_survey.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <optional>

namespace rankforge {
namespace {

// Costs at which forms are compared.
constexpr double kCosts[] = {0.15, 0.2,  0.25, 0.3, 0.35, 0.4, 0.45,
                             0.5,  0.55, 0.6,  0.7, 0.8,  0.9};

}  // namespace

double InterpolatedLoss(double below, double above, double share) {
  if (below > 0 && above > 0) {
    return std::exp((1 - share) * std::log(below) + share * std::log(above));
  }
  return (1 - share) * below + share * above;
}

double SmallestSurveyedCost() { return kCosts[0]; }

std::vector<Form> FormsFor(Site site, const std::set<Refinement>& without) {
  std::vector<Form> forms;
  // A rank adapter multiplies all of B: it pays only where there are more
  // outputs than inputs.
  const bool expands = site == Site::kAttentionInput || site == Site::kMlpInput;
  if (expands && !without.contains(Refinement::kRankAdapters)) {
    forms.push_back(Form::kRank);
  }
  if (!without.contains(Refinement::kInputMasks)) {
    forms.push_back(Form::kMagnitude);
    forms.push_back(Form::kWeighted);
    if (!without.contains(Refinement::kFisher)) forms.push_back(Form::kSloped);
  } else if (site == Site::kMlpHidden) {
    forms.push_back(Form::kWeighted);  // as in the paper
  }
  return forms;
}

// The error of a mask takes a product with W and is smooth in the cost, so
// every second value is interpolated.
std::vector<double> ErrorsOf(const LinearForms& linear, Form form) {
  constexpr size_t kCount = std::size(kCosts);
  const size_t step = IsRank(form) ? 1 : 2;
  static_assert(kCount % 2 == 1);
  std::vector<double> errors(kCount);
  for (size_t i = 0; i < kCount; i += step) {
    errors[i] = linear.Error(form, kCosts[i]).value_or(-1);
  }
  for (size_t i = 1; i < kCount && step == 2; i += 2) {
    if (errors[i - 1] < 0 || errors[i + 1] < 0) {
      errors[i] = linear.Error(form, kCosts[i]).value_or(-1);
      continue;
    }
    errors[i] = InterpolatedLoss(
        errors[i - 1], errors[i + 1],
        (kCosts[i] - kCosts[i - 1]) / (kCosts[i + 1] - kCosts[i - 1]));
  }
  return errors;
}

std::vector<double> GradientLosses(const LinearForms& linear) {
  std::vector<double> losses;
  for (const double cost : kCosts) {
    losses.push_back(linear.GradientLoss(cost).value_or(-1));
  }
  return losses;
}

std::vector<float> SlopesOf(const std::vector<double>& squares) {
  constexpr double kLeastSquare = 0.01;
  const double added = kLeastSquare *
                       std::accumulate(squares.begin(), squares.end(), 0.0) /
                       static_cast<double>(squares.size());
  std::vector<float> slopes;
  for (const double square : squares) {
    // Rounding may leave a sum of squares just below 0.
    slopes.push_back(
        static_cast<float>(std::sqrt(std::max(square, 0.0) + added)));
  }
  return slopes;
}

std::vector<FormCandidate> SlopedCandidates(const LinearForms& linear) {
  std::vector<FormCandidate> candidates = {{}};
  for (const double cost : kCosts) {
    if (const std::optional<double> loss = linear.GradientLoss(cost)) {
      candidates.push_back({Form::kSloped, cost, *loss, *loss});
    }
  }
  return candidates;
}

bool Fits(const std::vector<BlockSurvey>& blocks, const AdaptRun& run) {
  if (blocks.size() > run.spec.blocks.size()) return false;
  for (const BlockSurvey& block : blocks) {
    if (block.size() != kSites.size()) return false;
    for (size_t p = 0; p < block.size(); ++p) {
      const std::vector<Form> forms = FormsFor(kSites[p], run.options.without);
      const auto fits = [](const FormSurvey& survey, Form form) {
        const size_t losses = form == Form::kSloped ? std::size(kCosts) : 0;
        return survey.form == form &&
               survey.errors.size() == std::size(kCosts) &&
               survey.gradient_losses.size() == losses;
      };
      if (!std::equal(block[p].forms.begin(), block[p].forms.end(),
                      forms.begin(), forms.end(), fits)) {
        return false;
      }
    }
  }
  return true;
}

namespace {

// The candidates of all projections, from a survey of all blocks.
class CandidateFinder {
 public:
  CandidateFinder(const std::vector<BlockSurvey>& blocks, const ProbePlan& plan)
      : blocks_(blocks), plan_(plan) {}

  std::vector<BudgetedLayer> Candidates() const {
    std::vector<BudgetedLayer> layers;
    for (size_t layer = 0; layer < blocks_.size(); ++layer) {
      const Between around = BlocksAround(layer);
      for (size_t p = 0; p < blocks_[layer].size(); ++p) {
        const SiteSurvey& site = blocks_[layer][p];
        BudgetedLayer& entry = layers.emplace_back();
        entry.dense_cost = site.dense_cost;
        entry.candidates.push_back({});
        for (size_t f = 0; f < site.forms.size(); ++f) {
          const FormSurvey& form = site.forms[f];
          const Sensitivity* below = SensitivityAt(around.below, p, f);
          const Sensitivity* above = SensitivityAt(around.above, p, f);
          if (below == nullptr || above == nullptr) continue;
          for (size_t c = 0; c < form.errors.size(); ++c) {
            if (form.errors[c] < 0) continue;
            entry.candidates.push_back(
                {form.form, kCosts[c],
                 InterpolatedLoss(below->At(form.errors[c]),
                                  above->At(form.errors[c]), around.share),
                 form.gradient_losses.empty() ? -1 : form.gradient_losses[c]});
          }
        }
      }
    }
    return layers;
  }

 private:
  // The probed blocks around `layer`, and the share of the way from the first
  // of them to the second at which it lies.
  struct Between {
    size_t below, above;
    double share;
  };
  Between BlocksAround(size_t layer) const {
    const auto above =
        std::lower_bound(plan_.blocks.begin(), plan_.blocks.end(), layer);
    if (above == plan_.blocks.end()) {
      return {plan_.blocks.back(), plan_.blocks.back(), 0};
    }
    if (*above == layer || above == plan_.blocks.begin()) {
      return {*above, *above, 0};
    }
    const size_t below = *(above - 1);
    return {below, *above,
            static_cast<double>(layer - below) /
                static_cast<double>(*above - below)};
  }

  // Null: the form was not possible there.
  const Sensitivity* SensitivityAt(size_t layer, size_t site,
                                   size_t form) const {
    const std::vector<FormSurvey>& forms = blocks_[layer][site].forms;
    const FormSurvey* measured = &forms[form];
    if (!plan_.Probes(measured->form)) {
      measured = &*std::find_if(
          forms.begin(), forms.end(),
          [](const FormSurvey& f) { return f.form == Form::kWeighted; });
    }
    return measured->sensitivity.known() ? &measured->sensitivity : nullptr;
  }

  const std::vector<BlockSurvey>& blocks_;
  const ProbePlan& plan_;
};

}  // namespace

std::vector<BudgetedLayer> CandidatesOf(const std::vector<BlockSurvey>& blocks,
                                        const ProbePlan& plan) {
  return CandidateFinder(blocks, plan).Candidates();
}

}  // namespace rankforge
