// The vector operations between the weight products of a transformer block.
// Same results on every FMA target: sums follow the fixed shape of row dots
// (kBlock partial sums by position, one reduction tree).
#ifndef RANKFORGE_KERNELS_LAYER_ELEMENTWISE_H_
#define RANKFORGE_KERNELS_LAYER_ELEMENTWISE_H_

#include <cstddef>

namespace rankforge {

// out (n,) = x / sqrt(mean(x^2) + epsilon) * weight; out may be x.
void RmsNorm(const float* x, const float* weight, size_t n, float epsilon,
             float* out);

// y (n,) += x.
void AddInPlace(const float* x, size_t n, float* y);

// x (n,) = softmax(x).
void Softmax(float* x, size_t n);

// x_i = cap * tanh(x_i / cap), i < n.
void CapScores(float cap, float* x, size_t n);

// Rotates the pairs (x_i, x_{i + n/2}), i < n/2, by the angles whose cosines
// and sines are given: rotary embedding in the half-split convention.
void RotateHalf(float* x, const float* cosines, const float* sines, size_t n);

// a (n,) . b (n,) in kBlock partial sums.
float Dot(const float* a, const float* b, size_t n);

// Whether none of x (n,) is NaN or infinite.
bool AllFinite(const float* x, size_t n);

// Index of the largest value, the first one of equals; n >= 1. NaN never wins.
size_t ArgMax(const float* x, size_t n);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_LAYER_ELEMENTWISE_H_
