#include "tuner/measure/masks.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rankforge {
namespace {

double Logit(double p) { return std::log(p / (1 - p)); }

// Mean frequency of the channels of a group, clamped away from 0 and 1: another
// text may keep what calibration never kept, and drop what it always kept.
double GroupFrequency(std::span<const float> frequency, size_t group,
                      size_t granularity) {
  const size_t begin = group * granularity;
  const size_t end = std::min(begin + granularity, frequency.size());
  if (begin >= end) return 0.5;
  double sum = 0;
  for (size_t j = begin; j < end; ++j) sum += frequency[j];
  return std::clamp(sum / static_cast<double>(end - begin), 1e-3, 1 - 1e-3);
}

// Noise by group with the spread of a logistic variable (1.81).
std::vector<double> DrawNoise(MaskStructure structure, size_t groups,
                              std::mt19937_64& random) {
  std::vector<double> noise(groups);
  if (structure == MaskStructure::kBernoulli) {
    std::uniform_real_distribution<double> uniform(1e-12, 1 - 1e-12);
    for (double& value : noise) value = Logit(uniform(random));
    return noise;
  }
  // A chain of normal values that correlate by 0.97 from one to the next stays
  // on one side of its mean for pi / acos(0.97) = 13 steps.
  constexpr double kCorrelation = 0.97;
  constexpr double kFresh = 0.24310;  // sqrt(1 - 0.97^2)
  std::normal_distribution<double> normal(0, 1.81);
  double state = normal(random);
  for (double& value : noise) {
    value = state;
    state = kCorrelation * state + kFresh * normal(random);
  }
  return noise;
}

bool IsKept(const std::vector<uint64_t>& bits, size_t channel) {
  const size_t word = channel / 64;
  return word < bits.size() && (bits[word] >> (channel % 64) & 1) != 0;
}

bool AnyKept(const std::vector<uint64_t>& bits, size_t group,
             size_t granularity) {
  for (size_t i = 0; i < granularity; ++i) {
    if (IsKept(bits, group * granularity + i)) return true;
  }
  return false;
}

}  // namespace

std::vector<uint32_t> DrawMask(const MaskModel& model, size_t groups,
                               size_t granularity, size_t kept,
                               std::mt19937_64& random) {
  kept = std::min(kept, groups);
  std::vector<double> score = DrawNoise(model.structure, groups, random);
  for (size_t group = 0; group < groups; ++group) {
    score[group] += Logit(GroupFrequency(model.frequency, group, granularity));
  }
  if (!model.trace.empty()) {
    constexpr double kBeforeAllOthers = 1e6;
    const auto& bits = model.trace[random() % model.trace.size()];
    for (size_t group = 0; group < groups; ++group) {
      if (AnyKept(bits, group, granularity)) score[group] += kBeforeAllOthers;
    }
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
