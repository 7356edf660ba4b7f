// A source of weights on top of another one.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_WEIGHTS_OVER_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_WEIGHTS_OVER_H_

#include <span>
#include <string>
#include <vector>

#include "runtime/model/format/weight_source.h"

namespace rankforge {

// A base class: derived classes say how to pack. Vectors and embeddings come
// from `base`, which must outlive this object.
class WeightsOver : public WeightSource {
 public:
  explicit WeightsOver(const WeightSource& base) : base_(base) {}

  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override {
    return base_.Vector(name, n);
  }
  Status Embedding(size_t row, std::span<float> out) const override {
    return base_.Embedding(row, out);
  }
  bool HasPacked() const override { return base_.HasPacked(); }

 protected:
  const WeightSource& base() const { return base_; }

 private:
  const WeightSource& base_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_WEIGHTS_OVER_H_
