// The shape a kernel is compiled for: any, or one (rows, cols) known at compile
// time, so that trip counts, strides and tails become constants.
#ifndef RANKFORGE_META_SHAPE_H_
#define RANKFORGE_META_SHAPE_H_

#include <cstddef>

namespace rankforge {

// Rows and columns are read from the arguments of each call.
struct DynamicShape {
  static constexpr size_t kRows = 0;
  static constexpr size_t kCols = 0;
};

// Rows and columns are constants; a plan uses such an entry only for exactly
// this shape.
template <size_t rows, size_t cols>
struct StaticShape {
  static_assert(rows > 0 && cols > 0);
  static constexpr size_t kRows = rows;
  static constexpr size_t kCols = cols;
};

}  // namespace rankforge

#endif  // RANKFORGE_META_SHAPE_H_
