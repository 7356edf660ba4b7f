// The mixture: every linear layer becomes what loses least for its cost (dense,
// a rank adapter, an input mask), and layers share one budget.
//
// What a form loses is predicted from its squared output error, which
// calibration knows for every cost. How that error moves the model's
// predictions is measured, as a divergence, with that form in that layer alone.
// Losses of different layers are taken to add up.
#ifndef RANKFORGE_ADAPT_METHODS_RANA_H_
#define RANKFORGE_ADAPT_METHODS_RANA_H_

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "adapt/forms/linear_forms.h"
#include "adapt/run/method.h"

namespace rankforge {

double SmallestRanaKeep(const ModelConfig& config, const AdaptOptions& options);
std::unique_ptr<Planner> MakeRanaPlanner(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_RANA_H_
