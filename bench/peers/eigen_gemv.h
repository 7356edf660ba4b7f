// The only code compiled with Eigen, in a file of its own because it is also
// the only one compiled for AVX2 and FMA: nothing here may be inline.
#ifndef RANKFORGE_BENCH_PEERS_EIGEN_GEMV_H_
#define RANKFORGE_BENCH_PEERS_EIGEN_GEMV_H_

#include <cstddef>

namespace rankforge {

// y (rows,) = w (rows, cols), row-major, @ x (cols,), on the calling thread.
void EigenGemv(const float* w, size_t rows, size_t cols, const float* x,
               float* y);

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_EIGEN_GEMV_H_
