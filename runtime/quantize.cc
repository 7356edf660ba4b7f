#include "runtime/quantize.h"

#include <algorithm>
#include <limits>

#include "kernels/float16.h"

namespace rankforge {
namespace {

// q = values / scale, rounded to nearest and kept in [low, high].
void Round(std::span<const float> values, float scale, float low, float high,
           float* integers) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  for (size_t i = 0; i < values.size(); ++i) {
    const float q = std::clamp(values[i] * inverse, low, high);
    // Without SSE4.1 there is no rounding instruction; conversion truncates.
    integers[i] =
        static_cast<float>(static_cast<int>(q < 0 ? q - 0.5f : q + 0.5f));
  }
}

double SquaredError(std::span<const float> values, float scale,
                    const float* integers) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = double{values[i]} - double{integers[i]} * scale;
    sum += error * error;
  }
  return sum;
}

}  // namespace

float Quantize(std::span<const float> values, size_t bits, bool half_scale,
               float* integers) {
  float largest = 0;  // in magnitude
  float not_finite = 0;
  for (const float value : values) {
    if (std::abs(value) > std::abs(largest)) largest = value;
    not_finite += value * 0;
  }
  if (not_finite != 0 || std::isnan(not_finite)) {
    std::fill_n(integers, values.size(), 1.0f);
    return std::numeric_limits<float>::quiet_NaN();
  }
  const auto stored = [&](float scale) {
    return half_scale ? FromF16(ToF16(scale)) : scale;
  };
  const auto high = static_cast<float>((1 << (bits - 1)) - 1);
  if (bits == 8) {
    const float scale = stored(std::abs(largest) / high);
    Round(values, scale, -high, high, integers);
    return scale;
  }
  // The largest magnitude at -8 (the scale may be negative) uses all sixteen
  // values; at -7 or 7 it does not, and suits groups whose largest values have
  // both signs.
  float best_scale = 0;
  double best_error = std::numeric_limits<double>::infinity();
  for (const float steps : {-high - 1, high}) {
    const float scale = stored(largest / steps);
    Round(values, scale, -high - 1, high, integers);
    const double error = SquaredError(values, scale, integers);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
  }
  Round(values, best_scale, -high - 1, high, integers);
  return best_scale;
}

}  // namespace rankforge
