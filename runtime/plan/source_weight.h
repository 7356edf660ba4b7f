// Reading single weights of a checkpoint as they lie in its file.
#ifndef RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_
#define RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// Element i of an array that may be unaligned.
template <class T>
T LoadElement(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + i * sizeof(T),
              sizeof(T));
  return value;
}

// A block of ggml's Q8_0 or Q4_0 (SourceMatrix).
inline constexpr size_t kGgmlBlock = 32;
constexpr bool IsGgml(SourceMatrix::Type type) {
  return type == SourceMatrix::Type::kGgmlQ8_0 ||
         type == SourceMatrix::Type::kGgmlQ4_0;
}
constexpr size_t GgmlBlockBytes(SourceMatrix::Type type) {
  return 2 +
         (type == SourceMatrix::Type::kGgmlQ8_0 ? kGgmlBlock : kGgmlBlock / 2);
}

inline const std::byte* GgmlBlock(const SourceMatrix& source, size_t block) {
  return static_cast<const std::byte*>(source.data) +
         block * GgmlBlockBytes(source.type);
}
inline float GgmlScale(const std::byte* block) {
  return FromF16(LoadElement<uint16_t>(block, 0));
}
// Integer i of the block.
inline int GgmlInteger(SourceMatrix::Type type, const std::byte* block,
                       size_t i) {
  const std::byte* integers = block + 2;
  if (type == SourceMatrix::Type::kGgmlQ8_0) {
    return LoadElement<int8_t>(integers, i);
  }
  const int pair = std::to_integer<int>(integers[i % (kGgmlBlock / 2)]);
  return (i < kGgmlBlock / 2 ? pair & 15 : pair >> 4) - 8;
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
    case SourceMatrix::Type::kGgmlQ8_0:
    case SourceMatrix::Type::kGgmlQ4_0: {
      const std::byte* block = GgmlBlock(source, i / kGgmlBlock);
      return GgmlScale(block) * static_cast<float>(GgmlInteger(
                                    source.type, block, i % kGgmlBlock));
    }
  }
  return 0;
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_
