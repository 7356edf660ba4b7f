#include "runtime/model/forward/rope.h"

#include <algorithm>
#include <cmath>

namespace rankforge {
namespace {

double Scaled(const RopeScaling& scaling, double frequency) {
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      return frequency / scaling.factor;
    case RopeScaling::Type::kLlama3: {
      constexpr double kTurn = 2 * 3.14159265358979323846;
      const double turns =
          static_cast<double>(scaling.positions) * frequency / kTurn;
      const double kept = std::clamp(
          (turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0);
      return kept * frequency + (1 - kept) * frequency / scaling.factor;
    }
  }
  return frequency;
}

}  // namespace

std::vector<float> RotaryFrequencies(const ModelConfig& config) {
  const size_t dim = config.rotary_dim();
  std::vector<float> frequencies(dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent =
        -2.0 * static_cast<double>(i) / static_cast<double>(dim);
    frequencies[i] = static_cast<float>(
        Scaled(config.rope_scaling, std::pow(config.rope_theta, exponent)));
  }
  return frequencies;
}

}  // namespace rankforge
