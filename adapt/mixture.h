// The mixture: every linear layer becomes what loses least for its cost (dense,
// a rank adapter, an input mask), and layers share one budget.
//
// What a form loses is predicted: its squared output error, which calibration
// knows for every cost, times the divergence of the model's predictions per
// error, which is measured with that form in that layer alone. Errors of
// different layers are taken to add up.
#ifndef RANKFORGE_ADAPT_MIXTURE_H_
#define RANKFORGE_ADAPT_MIXTURE_H_

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "adapt/linear_forms.h"
#include "adapt/method.h"

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

double SmallestMixtureKeep(const ModelConfig& config,
                           const AdaptOptions& options);
std::unique_ptr<Planner> MakeMixturePlanner(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MIXTURE_H_
