#include "tuner/masks.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rankforge {
namespace {

double Logit(double p) { return std::log(p / (1 - p)); }

// Mean frequency of the channels of a group, away from 0 and 1: what was never
// (or always) kept in calibration may still be dropped or kept.
double GroupFrequency(std::span<const float> frequency, size_t group,
                      size_t granularity) {
  const size_t begin = group * granularity;
  const size_t end = std::min(begin + granularity, frequency.size());
  if (begin >= end) return 0.5;
  double sum = 0;
  for (size_t j = begin; j < end; ++j) sum += frequency[j];
  return std::clamp(sum / static_cast<double>(end - begin), 1e-3, 1 - 1e-3);
}

}  // namespace

std::vector<uint32_t> DrawMask(std::span<const float> frequency, size_t groups,
                               size_t granularity, size_t kept,
                               std::mt19937_64& random) {
  kept = std::min(kept, groups);
  std::uniform_real_distribution<double> uniform(1e-12, 1 - 1e-12);
  std::vector<double> score(groups);
  for (size_t group = 0; group < groups; ++group) {
    score[group] = Logit(GroupFrequency(frequency, group, granularity)) +
                   Logit(uniform(random));
  }
  std::vector<uint32_t> mask(groups);
  std::iota(mask.begin(), mask.end(), 0);
  const auto end = mask.begin() + static_cast<long>(kept);
  std::nth_element(mask.begin(), end, mask.end(),
                   [&](uint32_t a, uint32_t b) { return score[a] > score[b]; });
  mask.resize(kept);
  std::sort(mask.begin(), mask.end());
  return mask;
}

}  // namespace rankforge
