// What becomes of the model's predictions when one layer of it takes another
// form: measured, for every form and cost that the mixture chooses from.
#ifndef RANKFORGE_ADAPT_METHODS_SURVEY_H_
#define RANKFORGE_ADAPT_METHODS_SURVEY_H_

#include <cstddef>
#include <vector>

#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// The least that a form of a surveyed layer costs.
double SmallestSurveyedCost();

// The blocks whose effect on the model's predictions is measured, ascending:
// `asked` of them, spread from the first to the last; 0: all of a model of up
// to 12, a few of a deeper one, between which it is interpolated.
std::vector<size_t> ProbedBlocks(size_t layers, size_t asked);

// The places of all blocks, in order, each with its candidates. Reports a step
// a block; the model is dense again afterwards.
Result<std::vector<BudgetedLayer>> Survey(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_SURVEY_H_
