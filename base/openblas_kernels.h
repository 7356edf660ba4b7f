// Which of OpenBLAS's kernels suit this CPU.
#ifndef RANKFORGE_BASE_OPENBLAS_KERNELS_H_
#define RANKFORGE_BASE_OPENBLAS_KERNELS_H_

namespace rankforge {

// By the CPU's instructions, a value of OPENBLAS_CORETYPE. Null where
// OpenBLAS's own choice is right: on other architectures, and below AVX2.
//
// OpenBLAS itself goes by the CPU's model, and takes SSE3 kernels for models
// that are younger than itself: 0.3.21 does so on Emerald Rapids, where adapt
// then takes 3.6 times as long.
const char* OpenBlasKernels();

}  // namespace rankforge

#endif  // RANKFORGE_BASE_OPENBLAS_KERNELS_H_
