// The arguments of kernels on packed weights, for tests that call one directly.
#ifndef RANKFORGE_TESTS_KERNELS_PACKED_ARGS_H_
#define RANKFORGE_TESTS_KERNELS_PACKED_ARGS_H_

#include "kernels/kernel_args.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// For all outputs. The caller sets inputs, mask and y.
inline KernelArgs ArgsOn(const PackedMatrix& weights) {
  KernelArgs args;
  args.w = weights.data();
  args.rows = weights.rows();
  args.cols = weights.cols();
  args.stride = weights.stride();
  args.run_scales = weights.run_scales();
  args.row_end = weights.rows();
  return args;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_KERNELS_PACKED_ARGS_H_
