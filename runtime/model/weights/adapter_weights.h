// A checkpoint and an adapter as one source of weights.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_ADAPTER_WEIGHTS_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_ADAPTER_WEIGHTS_H_

#include <span>
#include <string>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/model/weights/weights_over.h"

namespace rankforge {

// Answers for "<module>.rank.A" and "<module>.rank.B" from the adapter and for
// everything else from `base`. If the adapter has no values (a synthetic one),
// `base` answers for these names, too. Both must outlive this object.
class AdapterWeights : public WeightsOver {
 public:
  AdapterWeights(const WeightSource& base, const Adapter* adapter);

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;

 private:
  std::map<std::string, SourceMatrix> matrices_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_ADAPTER_WEIGHTS_H_
