// Where the rest of the runtime gets weights from.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_WEIGHT_SOURCE_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_WEIGHT_SOURCE_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// A source of weights: a checkpoint (runtime/model/format/checkpoint.h), a pack
// file (runtime/model/use/packed_weights.h) or random numbers
// (runtime/model/weights/synthetic.h). Several threads may ask at the same
// time.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // The matrices `names`, stacked. Fails unless matrix i has the shape
  // (rows[i], cols). Names are those of the checkpoint
  // ("model.layers.3.mlp.up_proj.weight") or of an adapter
  // ("model.layers.3.mlp.up_proj.rank.A", logical shape (rows, d)).
  virtual Result<PackedMatrix> Pack(std::span<const std::string> names,
                                    std::span<const size_t> rows, size_t cols,
                                    WeightType type, Layout layout) const = 0;
  // A vector (norm weight, bias) of n values, widened.
  virtual Result<std::vector<float>> Vector(const std::string& name,
                                            size_t n) const = 0;
  // Row `row` of the (vocab, hidden) embedding, widened.
  virtual Status Embedding(size_t row, std::span<float> out) const = 0;
  // Whether its matrices are those that a model packs: rotated where the
  // adapter says so, with the biases that follow from that as matrices (1, n).
  virtual bool HasPacked() const { return false; }
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_WEIGHT_SOURCE_H_
