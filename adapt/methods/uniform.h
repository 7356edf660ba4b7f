// Baselines: linear layers of every block in one form, with the same share of
// what they cost dense.
#ifndef RANKFORGE_ADAPT_METHODS_UNIFORM_H_
#define RANKFORGE_ADAPT_METHODS_UNIFORM_H_

#include <memory>

#include "adapt/forms/linear_forms.h"
#include "adapt/run/method.h"

namespace rankforge {

// Which layers; the others stay dense.
enum class Where : uint8_t { kBlocks, kMlps };

double SmallestUniformKeepOf(Form form, Where where, const ModelConfig& config,
                             const AdaptOptions& options);
template <Form form, Where where = Where::kBlocks>
double SmallestUniformKeep(const ModelConfig& config,
                           const AdaptOptions& options) {
  return SmallestUniformKeepOf(form, where, config, options);
}

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, Where where,
                                              const AdaptRun& run);
template <Form form, Where where = Where::kBlocks>
std::unique_ptr<Planner> MakeUniformPlanner(const AdaptRun& run) {
  return MakeUniformPlannerOf(form, where, run);
}

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_UNIFORM_H_
