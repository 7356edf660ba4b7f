#include "base/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rankforge {

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

Timing Summarise(std::span<const double> ns) {
  Timing timing;
  timing.n = ns.size();
  if (ns.empty()) return timing;
  timing.median = Median({ns.begin(), ns.end()});
  timing.min = *std::min_element(ns.begin(), ns.end());
  std::vector<double> deviations;
  for (const double value : ns) {
    deviations.push_back(std::abs(value - timing.median));
  }
  timing.mad = Median(std::move(deviations));
  return timing;
}

Timing PairedRatio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    ratios.push_back(a[i] / b[i]);
  }
  return Summarise(ratios);
}

Interval MedianInterval(std::vector<double> values) {
  constexpr double kMostWrong = 0.05;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Interval interval{-kInfinity, kInfinity};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  // A value lies below the median as often as a coin shows heads. The value
  // with k others before it is above the median where at most k heads come up.
  // Logarithms, because 0.5^n is nothing from 1,075 on.
  double chance = static_cast<double>(n) * std::log(0.5);  // of k heads
  double wrong = std::exp(chance);                         // of at most k
  for (size_t k = 0; 2 * k < n && wrong <= kMostWrong; ++k) {
    interval = {values[k], values[n - 1 - k]};
    chance += std::log(static_cast<double>(n - k) / static_cast<double>(k + 1));
    wrong += std::exp(chance);
  }
  return interval;
}

Estimate EstimateOf(const Timing& timing) {
  if (timing.n == 0) return {};
  // sigma = 1.4826 MAD, and the median of n values spreads by 1.2533 sigma /
  // sqrt(n).
  const double sigma = 1.4826 * timing.mad;
  return {timing.median,
          1.2533 * sigma / std::sqrt(static_cast<double>(timing.n))};
}

bool Tied(const Estimate& a, const Estimate& b, double margin) {
  const double band =
      std::min(a.error + b.error, margin * std::min(a.ns, b.ns));
  return std::abs(a.ns - b.ns) <= band;
}

}  // namespace rankforge
