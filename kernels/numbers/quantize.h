// From f32 to integer weights and scales.
#ifndef RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_
#define RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "meta/types.h"

namespace rankforge {

// Sums of squares over weights: of themselves, and of what rounding changed.
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

// Symmetric rounding of a run of `values`, a multiple of kBlock of them, to the
// integers q of a quantised type, each f32 in `integers`: values ~ q * scale,
// with one scale for the run (f32), or one for each group that an f16 holds.
// 8 bits: the scale brings the largest magnitude to 127. 4 bits: to -8, 8 or 7,
// whichever has the smaller squares of errors. NaN (and q = 1) for a group with
// a value that is not finite.
//
// kGiven: `scales` holds the scales already (one for each group, each an f16),
// and values that are integers in range times them come out as they were.
enum class Scales : uint8_t { kChosen, kGiven };
QuantizationError QuantizeRun(std::span<const float> values, WeightType type,
                              Scales from, float* integers, float* scales);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_QUANTIZE_H_
