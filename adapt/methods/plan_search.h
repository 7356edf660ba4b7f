// Which plan of a whole model loses least: several ways to choose forms for all
// layers are measured, and the best is refined.
#ifndef RANKFORGE_ADAPT_METHODS_PLAN_SEARCH_H_
#define RANKFORGE_ADAPT_METHODS_PLAN_SEARCH_H_

#include <memory>
#include <string>
#include <vector>

#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// What starts choose from.
struct StartContext {
  const AdaptRun& run;
  // The projections of all blocks, by block and Site (Survey).
  const std::vector<BudgetedLayer>& layers;
  // Where starts in other bases find these, and leave them. It outlives their
  // planners. Null: there are no such starts.
  Rotation* bases = nullptr;
};

// A way to choose the forms of all layers at some cost.
struct Start {
  const char* name;
  // Null: what the run leaves out leaves nothing of it.
  std::unique_ptr<Planner> (*make)(const StartContext& context);
  // Whether its planner has a rotation().
  bool rotates = false;
};
// THE list of starts. The first is the allocation of a survey's predictions.
const std::vector<Start>& Starts();

// The start of that name; null: there is none.
const Start* StartNamed(const std::string& name);

// The best plan found.
struct FoundPlan {
  std::string start;
  double start_divergence = 0;  // of the start alone, nats per token
  double divergence = 0;        // with what was refined
  // By block; empty: the start's planner makes something else of the blocks.
  std::vector<BlockChoices> choices;
  // The bases that the blocks are adapted in; empty: none.
  Rotation rotation;

  // Null: none.
  Rotation* bases() { return rotation.empty() ? nullptr : &rotation; }
};

// Judges all starts at the cost `keep`, and refines the best as long as that
// pays (options.effort). Goes on from the state, and adds its steps to the
// meter. Errors: the state is of another model, stopped as asked.
Result<FoundPlan> FindPlan(const StartContext& context, double keep);

// The choices with costs moved by the same amount, so that all layers together
// cost `keep` of `layers` dense.
std::vector<BlockChoices> Rescaled(std::vector<BlockChoices> choices,
                                   const std::vector<BudgetedLayer>& layers,
                                   double keep);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_PLAN_SEARCH_H_
