// The mixture: every linear layer becomes what loses least for its cost (dense,
// a rank adapter, an input mask), and layers share one budget.
//
// What a form loses is predicted: its squared output error, which calibration
// knows for every cost, times the divergence of the model's predictions per
// error, which is measured with that form in that layer alone. Errors of
// different layers are taken to add up.
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
