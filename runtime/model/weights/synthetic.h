// Random weights of a given shape: good for timing, meaningless for quality.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_SYNTHETIC_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_SYNTHETIC_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/weight_source.h"

namespace rankforge {

// Uniform weights with variance 1 / cols, generated straight into the packed
// layout. A weight depends only on the seed and on its tensor's name, row and
// column, not on layout or type. All weights are bf16 values.
class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(const ModelConfig& config, uint64_t seed);
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;
  Status Embedding(size_t row, std::span<float> out) const override;

 private:
  ModelConfig config_;
  uint64_t seed_;
  std::string embedding_;  // the tensor's name
};

// What `rankforge synth` does: writes config.json and a bf16 model.safetensors
// with the weights of SyntheticWeights(config, seed), without holding them in
// memory. There is no tokenizer, so the model reads and writes token ids.
Status WriteSyntheticCheckpoint(const ModelConfig& config, uint64_t seed,
                                const std::string& directory);

// A RaNA adapter of this shape whose block-linear multiply-adds are `keep`
// times the dense model's. Up and gate have rank adapters, and so has the
// stacked QKV where its rows are at least twice its columns. Down has an input
// mask, o is dense. The adapter has shapes and mean densities only:
// SyntheticWeights makes random A and B, and Model::FitThresholds finds the
// thresholds.
Result<Adapter> SyntheticAdapter(const ModelConfig& config, double keep);

// `count` pseudo-random token ids.
std::vector<int> SyntheticIds(const ModelConfig& config, size_t count,
                              uint64_t seed);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_SYNTHETIC_H_
