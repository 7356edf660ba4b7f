// What a survey finds out about the blocks of a model, and the candidates of an
// allocation that follow from it.
#ifndef RANKFORGE_ADAPT_METHODS_BLOCK_SURVEY_H_
#define RANKFORGE_ADAPT_METHODS_BLOCK_SURVEY_H_

#include <set>
#include <vector>

#include "adapt/calibrate/sensitivity.h"
#include "adapt/forms/linear_forms.h"
#include "adapt/methods/probe_plan.h"
#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "adapt/run/options.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// The smallest cost of a form, relative to the dense layer.
double SmallestSurveyedCost();

// The forms that the projection at `site` may take.
std::vector<Form> FormsFor(Site site, const std::set<Refinement>& without);

// Errors of a form at all costs that forms are compared at, ascending;
// negative: not possible.
std::vector<double> ErrorsOf(const LinearForms& linear, Form form);

// LinearForms::GradientLoss at the same costs; negative: not possible.
std::vector<double> GradientLosses(const LinearForms& linear);

// Slopes of inputs (LinearForms::SetSlopes) of these mean squares of gradients.
// None is taken to be below 0.01 of their mean: thousands of tokens do not tell
// that predictions ignore an input.
std::vector<float> SlopesOf(const std::vector<double>& squares);

// Input masks by gradients at these costs, with what gradients alone say of
// them, and dense.
std::vector<FormCandidate> SlopedCandidates(const LinearForms& linear);

// Interpolates losses on a logarithmic scale, or linearly where one is 0.
double InterpolatedLoss(double below, double above, double share);

// What is known of a form of one layer.
struct FormSurvey {
  Form form = Form::kDense;
  std::vector<double> errors;  // by ErrorsOf
  // By GradientLosses; of kSloped alone.
  std::vector<double> gradient_losses;
  Sensitivity sensitivity;  // where the block was probed
};
struct SiteSurvey {
  double dense_cost = 0;
  std::vector<FormSurvey> forms;
};
using BlockSurvey = std::vector<SiteSurvey>;  // by Site

// Whether the numbers are those of this model and of these forms.
bool Fits(const std::vector<BlockSurvey>& blocks, const AdaptRun& run);

// The candidates of all projections, by block and Site. `blocks` are all blocks
// of the model, of which those of `plan` were probed. Divergences of the others
// are interpolated.
std::vector<BudgetedLayer> CandidatesOf(const std::vector<BlockSurvey>& blocks,
                                        const ProbePlan& plan);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_BLOCK_SURVEY_H_
