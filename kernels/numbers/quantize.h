// From f32 to integer weights and scales.
#ifndef RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_
#define RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "meta/types.h"

namespace rankforge {

// Sums of squares over weights: of the weights and of their rounding errors.
struct QuantizationError {
  double squares = 0;
  double error = 0;

  QuantizationError& operator+=(const QuantizationError& other) {
    squares += other.squares;
    error += other.error;
    return *this;
  }
  // Relative root mean square; 0 for zeros.
  double Relative() const {
    return squares == 0 ? 0 : std::sqrt(error / squares);
  }
};

// Rounds a run of `values`, a multiple of kBlock, to the integers q of a
// quantised type, each stored as f32 in `integers`: values ~ q * scale, or
// q * scale + minimum for types with minimums (`minimums`; else null). The run
// has one scale (f32), or each of its groups has one that an f16 holds, as it
// holds minimums. With 8 bits the scale takes the largest magnitude to 127;
// with 4 bits to -8, 8 or 7, whichever leaves the smallest sum of squared
// errors. A minimum is the least value, and the scale takes the largest to 15.
// A group with a value that is not finite has the scale NaN, and q = 1.
//
// kGiven: `scales` and `minimums` are there already (one per group, each an
// f16). Values that are such a scale times an integer in range, plus the
// minimum, are kept exactly.
enum class Scales : uint8_t { kChosen, kGiven };
QuantizationError QuantizeRun(std::span<const float> values, WeightType type,
                              Scales from, float* integers, float* scales,
                              float* minimums);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_
