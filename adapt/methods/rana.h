// Method rana: the plan of a whole model that is measured to lose least
// (plan_search.h), from a survey of what each form of each layer loses.
#ifndef RANKFORGE_ADAPT_METHODS_RANA_H_
#define RANKFORGE_ADAPT_METHODS_RANA_H_

#include <memory>

#include "adapt/run/method.h"

namespace rankforge {

double SmallestRanaKeep(const ModelConfig& config, const AdaptOptions& options);
std::unique_ptr<Planner> MakeRanaPlanner(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_RANA_H_
