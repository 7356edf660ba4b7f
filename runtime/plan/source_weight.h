// Reading the weights of a checkpoint as they lie in its file.
#ifndef RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_
#define RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_

#include <cstddef>
#include <span>

#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// The bytes of line `line`.
inline const std::byte* SourceLine(const SourceMatrix& source, size_t line) {
  const size_t stride =
      source.line_stride == 0 ? source.line_bytes() : source.line_stride;
  return static_cast<const std::byte*>(source.data) +
         source.order(line) * stride;
}

// All bytes of a matrix in its file, whose lines follow each other.
inline std::span<const std::byte> FileBytes(const SourceMatrix& source) {
  return {static_cast<const std::byte*>(source.data),
          source.lines() * source.line_bytes()};
}

// out (count,) = weights [begin, begin + count) of line `line`, widened.
void WidenLine(const SourceMatrix& source, size_t line, size_t begin,
               size_t count, float* out);

// Weight (row, col), widened.
inline float SourceAt(const SourceMatrix& source, size_t row, size_t col) {
  float weight;
  WidenLine(source, source.transposed ? col : row,
            source.transposed ? row : col, 1, &weight);
  return weight;
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_
