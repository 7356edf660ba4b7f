// Reading single weights of a checkpoint as they lie in its file.
#ifndef RANKFORGE_RUNTIME_SOURCE_WEIGHT_H_
#define RANKFORGE_RUNTIME_SOURCE_WEIGHT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/bfloat16.h"
#include "kernels/float16.h"
#include "runtime/packed_matrix.h"

namespace rankforge {

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
