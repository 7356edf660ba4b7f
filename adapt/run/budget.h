// One budget for many layers: what A3 and the mixture of forms spend it by.
#ifndef RANKFORGE_ADAPT_RUN_BUDGET_H_
#define RANKFORGE_ADAPT_RUN_BUDGET_H_

#include <span>
#include <vector>

#include "adapt/forms/cost_model.h"
#include "adapt/forms/linear_forms.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// One form of a layer at one cost.
struct FormCandidate {
  Form form = Form::kDense;
  double cost = 1;  // relative to the dense layer
  double loss = 0;  // predicted divergence, nats a token
};

// A linear layer that the budget is spread over; one of the candidates is
// dense.
struct BudgetedLayer {
  double dense_cost = 0;
  std::vector<FormCandidate> candidates;
};

// For each layer the candidate of a selection that spends at most the share
// `keep` of what all cost dense (or the least possible) and, for what it
// spends, loses least: those with the smallest loss + price * cost for one
// price.
std::vector<FormCandidate> Allocate(std::span<const BudgetedLayer> layers,
                                    double keep);

// What the linear layers inside the blocks cost at their recorded densities.
double BlockCost(const ModelSpec& spec, const CostModel& costs);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_BUDGET_H_
