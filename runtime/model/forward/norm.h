// The norms in front of projections.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_

#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

class Norm {
 public:
  static Result<Norm> Load(const NormSpec& spec, const ModelConfig& config,
                           const WeightSource& source);

  // out (hidden,) from x (hidden,); out may be x.
  void Run(const float* x, float* out) const;

  // dx (hidden,), the gradient at x of what has the gradient dy at Run's out.
  void Backward(const float* x, const float* dy, float* dx) const;

 private:
  NormKind kind_ = NormKind::kRms;
  float epsilon_ = 0;
  std::vector<float> weight_;
  std::vector<float> bias_;  // may be empty
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_
