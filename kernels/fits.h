// What a call demands of a kernel, and which entries meet it.
#ifndef RANKFORGE_KERNELS_FITS_H_
#define RANKFORGE_KERNELS_FITS_H_

#include <cstddef>

#include "kernels/registry.h"
#include "meta/types.h"

namespace rankforge {

struct Demand {
  Operation operation = Operation::kDense;
  WeightType type = WeightType::kF32;
  Layout layout = Layout::kOutIn;
  size_t granularity = 1;
  size_t batch = 1;  // tokens
  // 0 rows, 0 cols: of any shape, which entries compiled for one do not serve.
  size_t rows = 0;
  size_t cols = 0;
  Activations activations = Activations::kF32;
};

// Whether `entry` can run such a call. The scalar references take masks of
// every granularity and any number of tokens.
bool Fits(const KernelEntry& entry, const Demand& demand);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_FITS_H_
