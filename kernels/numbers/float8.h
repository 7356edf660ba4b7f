// The two kinds of 8-bit floats that checkpoints have, widened to f32.
#ifndef RANKFORGE_KERNELS_NUMBERS_FLOAT8_H_
#define RANKFORGE_KERNELS_NUMBERS_FLOAT8_H_

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/numbers/float16.h"

namespace rankforge {

// 4 bits of exponent with bias 7, 3 of mantissa. There is no infinity: all ones
// are NaN, and the largest value is 448. Exact.
constexpr float FromE4m3(uint8_t bits) {
  const uint32_t exponent = bits >> 3 & 15;
  const uint32_t mantissa = bits & 7;
  float magnitude = 0;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>((exponent + 120) << 23 | mantissa << 20);
  }
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// The upper half of an f16: 5 bits of exponent, 2 of mantissa, with infinities
// and NaN. Exact.
constexpr float FromE5m2(uint8_t bits) {
  return FromF16(static_cast<uint16_t>(bits << 8));
}

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_FLOAT8_H_
