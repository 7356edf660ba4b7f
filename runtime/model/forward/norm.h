// The norms of a model.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_

#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

class Norm {
 public:
  static Result<Norm> Load(const NormSpec& spec, const ModelConfig& config,
                           const WeightSource& source);

  // Whether there is a norm. Without one, Run copies.
  bool exists() const { return !weight_.empty(); }
  // How many values it is of.
  size_t size() const { return size_; }
  // What is left of it to run: an RMSNorm where weights have the rest.
  NormKind kind() const { return kind_; }

  // out (size,) from x (size,); out may be x.
  void Run(const float* x, float* out) const;

  // (size,), the factors of normalised values.
  const std::vector<float>& weight() const { return weight_; }

 private:
  NormKind kind_ = NormKind::kRms;
  float epsilon_ = 0;
  size_t size_ = 0;
  std::vector<float> weight_;
  std::vector<float> bias_;  // may be empty
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_NORM_H_
