// Sees what linear layers read and write while a model runs.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_ACTIVATION_OBSERVER_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_ACTIVATION_OBSERVER_H_

#include <cstddef>

#include "runtime/model/weights/site.h"

namespace rankforge {

// Sees the values at a Site as the forward pass computes them.
class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  virtual void Observe(size_t layer, Site site, const float* x, size_t tokens,
                       size_t width) = 0;
  // Sees the outputs of the layers that read at `site`, biases included:
  // (tokens, width). q and k are not rotated yet. Where a gate decides, the
  // outputs of gate and up are not seen.
  virtual void ObserveOutput(size_t layer, Site site, const float* y,
                             size_t tokens, size_t width);
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_ACTIVATION_OBSERVER_H_
