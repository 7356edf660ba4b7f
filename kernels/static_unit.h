// Writes the source of a shape-specialised unit: entries whose trip counts,
// strides and tails are constants. `rankforge variants --static-unit` prints
// it; the results stand in generated/.
#ifndef RANKFORGE_KERNELS_STATIC_UNIT_H_
#define RANKFORGE_KERNELS_STATIC_UNIT_H_

#include <cstddef>
#include <string>

#include "meta/types.h"

namespace rankforge {

// The unit for column masks of `type` on a (rows, cols) matrix.
std::string StaticUnitSource(size_t rows, size_t cols, WeightType type);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_STATIC_UNIT_H_
