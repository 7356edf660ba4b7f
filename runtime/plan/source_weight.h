// Reading the weights of a checkpoint as they lie in its file.
#ifndef RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_
#define RANKFORGE_RUNTIME_PLAN_SOURCE_WEIGHT_H_

#include <cstddef>
#include <span>

#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// The bytes of line `line`.
inline const std::byte* SourceLine(const SourceMatrix& source, size_t line) {
  const GgmlFormat& format = FormatOf(source.type);
  return static_cast<const std::byte*>(source.data) +
         source.order(line) * (source.line_length() / format.weights) *
             format.bytes;
}

// All bytes of the matrix in its file.
inline std::span<const std::byte> FileBytes(const SourceMatrix& source) {
  const GgmlFormat& format = FormatOf(source.type);
  return {
      static_cast<const std::byte*>(source.data),
      source.lines() * (source.line_length() / format.weights) * format.bytes};
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
