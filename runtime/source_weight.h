// Reading single weights of a checkpoint as they lie in its file.
#ifndef RANKFORGE_RUNTIME_SOURCE_WEIGHT_H_
#define RANKFORGE_RUNTIME_SOURCE_WEIGHT_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/bfloat16.h"
#include "runtime/packed_matrix.h"

namespace rankforge {

// The value of an IEEE half, exact in f32.
inline float FromF16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  }
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24.
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (mantissa << 13));
}

// Element i of an array that may be unaligned.
template <class T>
T LoadElement(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + i * sizeof(T),
              sizeof(T));
  return value;
}

// Weight (row, col), widened.
inline float SourceAt(const SourceMatrix& source, size_t row, size_t col) {
  const size_t i =
      source.transposed ? col * source.rows + row : row * source.cols + col;
  switch (source.type) {
    case SourceMatrix::Type::kF32:
      return LoadElement<float>(source.data, i);
    case SourceMatrix::Type::kF16:
      return FromF16(LoadElement<uint16_t>(source.data, i));
    case SourceMatrix::Type::kBf16:
      return FromBf16(LoadElement<uint16_t>(source.data, i));
  }
  return 0;
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_SOURCE_WEIGHT_H_
