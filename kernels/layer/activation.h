// The activations of MLPs.
#ifndef RANKFORGE_KERNELS_LAYER_ACTIVATION_H_
#define RANKFORGE_KERNELS_LAYER_ACTIVATION_H_

#include <cstddef>
#include <cstdint>

namespace rankforge {

enum class Activation : uint8_t {
  kSilu,      // x / (1 + exp(-x))
  kGelu,      // x Phi(x), within 2e-7 max(1, |x|)
  kGeluTanh,  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
};

// out (n,) = act(gate) * up, or act(gate) where `up` is null; out may be gate
// or up. Same results on every FMA target. NaN stays NaN.
void Activate(Activation activation, const float* gate, const float* up,
              size_t n, float* out);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_LAYER_ACTIVATION_H_
