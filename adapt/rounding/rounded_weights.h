// The weights of a model, some of them rounded already.
#ifndef RANKFORGE_ADAPT_ROUNDING_ROUNDED_WEIGHTS_H_
#define RANKFORGE_ADAPT_ROUNDING_ROUNDED_WEIGHTS_H_

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/format/pack_file.h"
#include "runtime/model/weights/weights_over.h"

namespace rankforge {

// Answers for the matrices that Add was given, and for everything else from
// `base`, which has what a model packs (FoldedWeights) and must outlive this
// object. Add must not run beside anything else.
class RoundedWeights : public WeightsOver {
 public:
  using WeightsOver::WeightsOver;

  void Add(const TensorNames& names, PackedMatrix matrix);

  // A rounded matrix in its own type and layout, without a copy, or its values
  // in another one.
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  bool HasPacked() const override { return true; }

 private:
  std::map<TensorNames, std::shared_ptr<const PackedMatrix>> rounded_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_ROUNDING_ROUNDED_WEIGHTS_H_
