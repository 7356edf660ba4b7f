#include "runtime/table/product_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "meta/variants.h"

namespace rankforge {
namespace {

// What a product read, and its time. Amounts are in the order of the
// coefficients of ProductTime: 1, runs, bytes.
constexpr size_t kTerms = 3;
struct Sample {
  std::array<double, kTerms> amounts;
  double ns;
};

std::vector<Sample> SamplesOf(const DispatchTable& table, Operation operation,
                              WeightType type, Activations activations,
                              size_t threads) {
  std::vector<Sample> samples;
  for (const TableEntry& entry : table.entries) {
    const Problem& problem = entry.problem;
    if (problem.operation != operation || problem.type != type ||
        problem.activations != ActivationsFor(operation, type, activations) ||
        problem.threads != threads || problem.batch != 1) {
      continue;
    }
    const size_t length =
        operation == Operation::kColumnMask ? problem.rows : problem.cols;
    for (const Bucket& bucket : entry.decision.by_density) {
      // n = 0: taken over from a neighbouring density.
      if (bucket.ns.n == 0 || !(bucket.ns.median > 0)) continue;
      // GB/s times nanoseconds are bytes.
      const double bytes = bucket.useful_gbps * bucket.ns.median;
      if (!(bytes > 0)) continue;
      const double runs =
          bytes / WeightBytes(type, static_cast<double>(length));
      samples.push_back({{1, runs, bytes}, bucket.ns.median});
    }
  }
  return samples;
}

using Coefficients = std::array<double, kTerms>;

// Sum over samples of (predicted / measured - 1)^2.
double ErrorOf(const Coefficients& terms, const std::vector<Sample>& samples) {
  double error = 0;
  for (const Sample& sample : samples) {
    double ns = 0;
    for (size_t i = 0; i < kTerms; ++i) ns += terms[i] * sample.amounts[i];
    error += (ns / sample.ns - 1) * (ns / sample.ns - 1);
  }
  return error;
}

// The least squares fit with only the terms whose bits are set in `chosen`; the
// others are zero. None if the samples do not tell these terms apart.
std::optional<Coefficients> FitTerms(const std::vector<Sample>& samples,
                                     size_t chosen) {
  // Solves the normal equations of amounts / ns by elimination. They are scaled
  // so that the diagonal is one.
  double m[kTerms][kTerms + 1] = {};
  for (size_t i = 0; i < kTerms; ++i) {
    for (const Sample& sample : samples) {
      const double x = sample.amounts[i] / sample.ns;
      for (size_t j = 0; j < kTerms; ++j) {
        m[i][j] += x * sample.amounts[j] / sample.ns;
      }
      m[i][kTerms] += x;
    }
  }
  Coefficients scale{};
  for (size_t i = 0; i < kTerms; ++i) scale[i] = 1 / std::sqrt(m[i][i]);
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) m[i][j] *= scale[i] * scale[j];
    m[i][kTerms] *= scale[i];
  }
  Coefficients terms{};
  for (size_t i = 0; i < kTerms; ++i) {
    if ((chosen >> i & 1) == 0) continue;
    if (m[i][i] < 1e-9) return std::nullopt;
    for (size_t row = 0; row < kTerms; ++row) {
      if (row == i || (chosen >> row & 1) == 0) continue;
      const double factor = m[row][i] / m[i][i];
      for (size_t j = 0; j <= kTerms; ++j) m[row][j] -= factor * m[i][j];
    }
  }
  for (size_t i = 0; i < kTerms; ++i) {
    if ((chosen >> i & 1) != 0) terms[i] = m[i][kTerms] / m[i][i] * scale[i];
  }
  return terms;
}

// Least squares without negative coefficients. With three terms, that is the
// best of the fits with some of the terms that have no negative coefficient.
// Bytes are always among the terms.
ProductTime Fit(const std::vector<Sample>& samples) {
  constexpr size_t kBytes = 4;
  Coefficients best = *FitTerms(samples, kBytes);
  for (size_t others = 1; others < kBytes; ++others) {
    const std::optional<Coefficients> terms =
        FitTerms(samples, kBytes | others);
    if (!terms || *std::min_element(terms->begin(), terms->end()) < 0 ||
        (*terms)[2] <= 0) {
      continue;
    }
    if (ErrorOf(*terms, samples) < ErrorOf(best, samples)) best = *terms;
  }
  return {best[0], best[1], best[2]};
}

}  // namespace

Result<ProductTimes> FitProductTimes(const std::string& name,
                                     const DispatchTable& table,
                                     WeightType type, Activations activations,
                                     size_t threads) {
  ProductTimes times;
  for (const auto& [operation, time] :
       {std::pair{Operation::kDense, &times.dense},
        std::pair{Operation::kColumnMask, &times.column_mask}}) {
    const std::vector<Sample> samples =
        SamplesOf(table, operation, type, activations, threads);
    if (samples.empty()) {
      return UsageError(fmt::format(
          "{}: entries: no measured {} product in {} with {} activations on {} "
          "threads: tune the model with an adapter of it, for this type, these "
          "activations and as many threads",
          name, Name(operation), Name(type),
          Name(ActivationsFor(operation, type, activations)), threads));
    }
    *time = Fit(samples);
  }
  return times;
}

}  // namespace rankforge
