// Conversion between f32 and bf16, the upper half of an f32.
#ifndef RANKFORGE_KERNELS_NUMBERS_BFLOAT16_H_
#define RANKFORGE_KERNELS_NUMBERS_BFLOAT16_H_

#include <bit>
#include <cstdint>

namespace rankforge {

constexpr float FromBf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// Rounds to nearest even; a NaN stays one (made quiet).
constexpr uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_BFLOAT16_H_
