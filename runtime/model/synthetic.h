// Random weights of a given shape: good for time, meaningless for quality.
#ifndef RANKFORGE_RUNTIME_MODEL_SYNTHETIC_H_
#define RANKFORGE_RUNTIME_MODEL_SYNTHETIC_H_

#include <cstdint>
#include <string>

#include "runtime/model/adapter.h"
#include "runtime/model/model.h"

namespace rankforge {

// Uniform weights with the variance of a trained initialisation, generated
// straight into the packed layout; the same seed gives the same weights.
class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(const ModelConfig& config, uint64_t seed)
      : config_(config), seed_(seed) {}
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;
  Status Embedding(size_t row, std::span<float> out) const override;

 private:
  ModelConfig config_;
  uint64_t seed_;
};

// What `rankforge synth` does: a Hugging Face checkpoint of that shape (bf16,
// config.json, model.safetensors, a byte-level SentencePiece-free tokenizer is
// not written: such a checkpoint generates token ids).
Status WriteSyntheticCheckpoint(const ModelConfig& config, uint64_t seed,
                                const std::string& directory);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_SYNTHETIC_H_
