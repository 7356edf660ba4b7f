// How far the model's predictions move when one of its layers takes another
// form, for every form and cost that method rana chooses from. It is measured
// for some of them and interpolated for the others.
#ifndef RANKFORGE_ADAPT_METHODS_SURVEY_H_
#define RANKFORGE_ADAPT_METHODS_SURVEY_H_

#include <vector>

#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// The projections of all blocks, by block and Site, each with its candidates.
// Adds two steps per block to the meter, and goes on from the state. No block
// is packed afterwards. Errors: the state is of another model, stopped as
// asked.
Result<std::vector<BudgetedLayer>> Survey(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_SURVEY_H_
