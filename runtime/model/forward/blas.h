// OpenBLAS as prefill and adapt use it.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_BLAS_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_BLAS_H_

namespace rankforge {

// To be called before the first product. OpenBLAS then starts no threads of its
// own beside the executor's, and uses the kernels of this CPU's instructions,
// unless OPENBLAS_CORETYPE names others. Calls after the first do nothing.
void PrepareBlas();

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_BLAS_H_
