// What masks lose in rotated bases of the residual stream, by the gradients of
// the loss that the survey of the dense model has found.
#ifndef RANKFORGE_ADAPT_METHODS_ROTATED_SURVEY_H_
#define RANKFORGE_ADAPT_METHODS_ROTATED_SURVEY_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "adapt/methods/plan_search.h"
#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// Whether `run` plans in rotated bases at all. A large model does not: each
// plan would turn all of its weights, for minutes.
bool PlansRotated(const AdaptRun& run);

// How many blocks share a basis there. Fewer have better bases and more
// products that turn the stream: docs/rana.md has what groups of 2 to 10 lose.
size_t PlannedGroupBlocks(size_t layers);
// FindRotation with such groups.
Result<Rotation> FindPlannedRotation(const AdaptRun& run);

// Keeps the Fisher information of what block `layer` reads at `site` for
// SurveyRotated: the second moments of `gradients` (tokens, hidden) there.
// Nothing, where no plan needs it.
Status KeepFisher(const AdaptRun& run, size_t layer, Site site,
                  const Matrix<float>& gradients);

// By block and Site: of layers that read the stream, input masks by gradients
// in the bases of `rotation`; of the others, what `layers` has. Saves the
// slopes that BuildBlock needs for the former. Runs the dense model once.
// Errors: nothing was kept for it.
Result<std::vector<BudgetedLayer>> SurveyRotated(
    const AdaptRun& run, Rotation& rotation,
    const std::vector<BudgetedLayer>& layers);

// The start of masks by gradients in rotated bases. Null: it is not possible.
std::unique_ptr<Planner> MakeRotatedFisherPlanner(const StartContext& context);

// The run without its UnseenTokens; a sample of a single window stays.
AdaptRun ForBases(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_ROTATED_SURVEY_H_
