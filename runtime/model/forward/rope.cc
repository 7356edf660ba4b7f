#include "runtime/model/forward/rope.h"

#include <algorithm>
#include <cmath>

namespace rankforge {
namespace {

constexpr double kTurn = 2 * 3.14159265358979323846;

// How much of a frequency stays, between the index that has `high` turns in
// `positions` and the index that has `low`.
double YarnKept(const ModelConfig& config, size_t i) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto dim = static_cast<double>(config.rotary_dim());
  // The index, as a real number, of the frequency with this many turns.
  const auto index = [&](double turns) {
    return dim *
           std::log(static_cast<double>(scaling.positions) / (turns * kTurn)) /
           (2 * std::log(config.rope_theta));
  };
  double first = index(scaling.high);
  double last = index(scaling.low);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, dim - 1);
  if (first == last) last += 0.001;  // a step, and no division by zero
  return 1 - std::clamp((static_cast<double>(i) - first) / (last - first), 0.0,
                        1.0);
}

double Llama3Kept(const RopeScaling& scaling, double frequency) {
  const double turns =
      static_cast<double>(scaling.positions) * frequency / kTurn;
  return std::clamp((turns - scaling.low) / (scaling.high - scaling.low), 0.0,
                    1.0);
}

// `frequency`, which is number i of the model, as its scaling has it.
double Scaled(const ModelConfig& config, RopeSet set, size_t i,
              double frequency) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto mixed = [&](double kept) {
    return kept * frequency + (1 - kept) * frequency / scaling.factor;
  };
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
    case RopeScaling::Type::kDynamic:
      break;
    case RopeScaling::Type::kLinear:
      return frequency / scaling.factor;
    case RopeScaling::Type::kLlama3:
      return mixed(Llama3Kept(scaling, frequency));
    case RopeScaling::Type::kYarn:
      return mixed(YarnKept(config, i));
    case RopeScaling::Type::kLong:
      return frequency / (set == RopeSet::kLong ? scaling.long_factors
                                                : scaling.short_factors)[i];
  }
  return frequency;
}

}  // namespace

std::vector<float> RotaryFrequencies(const ModelConfig& config, RopeSet set) {
  const size_t dim = config.rotary_dim();
  const bool window = set == RopeSet::kWindow;
  const double theta = window ? *config.window_rope_theta : config.rope_theta;
  std::vector<float> frequencies(dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent =
        -2.0 * static_cast<double>(i) / static_cast<double>(dim);
    const double frequency = std::pow(theta, exponent);
    frequencies[i] = static_cast<float>(
        window ? frequency : Scaled(config, set, i, frequency));
  }
  return frequencies;
}

}  // namespace rankforge
