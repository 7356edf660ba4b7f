// Conversion between f32 and IEEE half precision.
#ifndef RANKFORGE_KERNELS_NUMBERS_FLOAT16_H_
#define RANKFORGE_KERNELS_NUMBERS_FLOAT16_H_

#include <bit>
#include <cstdint>

namespace rankforge {

// Exact.
constexpr float FromF16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  }
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (mantissa << 13));
}

// Rounds to nearest even, beyond 65504 to infinity; a NaN stays one.
constexpr uint16_t ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520, half way between the largest half and 2^16.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14, steps are 2^-24: so are those of f32 at 0.5.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(
        sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded =
      magnitude + 0xfff + (magnitude >> 13 & 1) - (uint32_t{112} << 23);
  return static_cast<uint16_t>(sign | rounded >> 13);
}

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_FLOAT16_H_
