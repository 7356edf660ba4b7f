// One budget for many layers, which methods rana and a3 spend by Allocate.
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
  double loss = 0;  // predicted divergence, nats per token
  // The same by gradients alone (LinearForms::GradientLoss); negative: unknown.
  double gradient_loss = -1;
};

// A linear layer that the budget is spread over. One candidate is dense.
struct BudgetedLayer {
  double dense_cost = 0;
  std::vector<FormCandidate> candidates;
};

// One candidate per layer. Together they spend at most the share `keep` of what
// all layers cost dense, or the least possible. Each has the smallest loss +
// price * cost for one price. So no choice that spends as much loses less.
std::vector<FormCandidate> Allocate(std::span<const BudgetedLayer> layers,
                                    double keep);

// What the linear layers inside the blocks cost at their recorded densities.
double BlockCost(const ModelSpec& spec, const CostModel& costs);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_BUDGET_H_
