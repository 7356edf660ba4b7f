// From f32 to integer weights and scales.
#ifndef RANKFORGE_RUNTIME_QUANTIZE_H_
#define RANKFORGE_RUNTIME_QUANTIZE_H_

#include <cmath>
#include <cstddef>
#include <span>

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

// Symmetric rounding of `values` to `bits` wide integers q, each f32 in
// `integers`, with one scale: values ~ q * scale. The scale is an f32 where
// `half_scale` is false, else one that an f16 holds. NaN (q = 1) where a value
// is not finite.
float Quantize(std::span<const float> values, size_t bits, bool half_scale,
               float* integers);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_QUANTIZE_H_
