// Baselines: every linear layer of every block in one form, with the same share
// of its multiply-adds.
#ifndef RANKFORGE_ADAPT_UNIFORM_H_
#define RANKFORGE_ADAPT_UNIFORM_H_

#include <memory>

#include "adapt/linear_forms.h"
#include "adapt/method.h"

namespace rankforge {

double SmallestUniformKeep(const ModelConfig& config,
                           const AdaptOptions& options);

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, const AdaptRun& run);
template <Form form>
std::unique_ptr<Planner> MakeUniformPlanner(const AdaptRun& run) {
  return MakeUniformPlannerOf(form, run);
}

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_UNIFORM_H_
