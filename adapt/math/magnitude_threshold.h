// Exact selection of the k largest magnitudes of millions of values, and the
// order-preserving histogram bins it rests on.
#ifndef RANKFORGE_ADAPT_MATH_MAGNITUDE_THRESHOLD_H_
#define RANKFORGE_ADAPT_MATH_MAGNITUDE_THRESHOLD_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/threads/executor.h"

namespace rankforge {

// The bits of |v|: for floats that are not NaN, larger magnitudes have larger
// bits, and the upper bits are the logarithm of |v|, linear within an octave.
inline uint32_t MagnitudeBits(float v) {
  return std::bit_cast<uint32_t>(v) & 0x7fffffffu;
}

// The `count`-th largest |v|: exactly `count` values (and ties) reach it. +inf
// for count 0, 0 when count is all of them. The same for any executor.
float MagnitudeThreshold(std::span<const float> values, size_t count,
                         Executor& executor);

// How a mask |v_i| >= tau_i keeps calibration values.
struct KeepStatistics {
  std::vector<float> frequency;  // by channel, share of tokens
  double density = 0;            // mean over tokens and channels
  // Quantiles of the tokens' densities: "0.05", "0.25", "0.5", "0.75", "0.95".
  std::map<std::string, double> density_quantiles;
};

// From how many tokens keep each channel and how many channels each token
// keeps.
KeepStatistics SummarizeKept(const std::vector<uint32_t>& by_channel,
                             std::vector<uint32_t> by_token);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MATH_MAGNITUDE_THRESHOLD_H_
