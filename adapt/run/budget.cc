#include "adapt/run/budget.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace rankforge {

std::vector<FormCandidate> Allocate(std::span<const BudgetedLayer> layers,
                                    double keep) {
  double total = 0;
  for (const BudgetedLayer& layer : layers) total += layer.dense_cost;
  // Of equal values the cheapest, so that the price alone decides.
  const auto at = [&](double price) {
    std::vector<FormCandidate> chosen;
    for (const BudgetedLayer& layer : layers) {
      const auto value = [&](const FormCandidate& c) {
        return c.loss + price * c.cost * layer.dense_cost / total;
      };
      chosen.push_back(*std::min_element(
          layer.candidates.begin(), layer.candidates.end(),
          [&](const FormCandidate& a, const FormCandidate& b) {
            return std::pair(value(a), a.cost) < std::pair(value(b), b.cost);
          }));
    }
    return chosen;
  };
  const auto spent = [&](const std::vector<FormCandidate>& chosen) {
    double cost = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      cost += chosen[i].cost * layers[i].dense_cost;
    }
    return cost / total;
  };
  // Prices from one that buys everything to one that buys nothing.
  double low = 1e-9, high = 1e9;
  while (high > low * (1 + 1e-9)) {
    const double price = std::sqrt(low * high);
    (spent(at(price)) > keep ? low : high) = price;
  }
  return at(high);
}

double BlockCost(const ModelSpec& spec, const CostModel& costs) {
  double cost = 0;
  for (const BlockSpec& block : spec.blocks) {
    ForEachProduct(block, [&](const ProductSpec& product) {
      const auto rows = static_cast<double>(product.rows());
      const auto cols = static_cast<double>(product.cols());
      switch (product.operation) {
        case Operation::kDense:
          cost += costs.Dense(product.rows(), product.cols());
          break;
        case Operation::kRowMask:  // as a dense product of fewer rows
          cost += costs.dense.Of(product.density * rows, product.cols());
          break;
        case Operation::kColumnMask:
          cost += costs.Masked(product.rows(), product.density * cols);
          break;
      }
    });
  }
  return cost;
}

}  // namespace rankforge
