// A transformer's shape, from config.json or from a preset.
#ifndef RANKFORGE_RUNTIME_MODEL_CONFIG_H_
#define RANKFORGE_RUNTIME_MODEL_CONFIG_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace rankforge {

// Of checkpoints: a bound on memory, far above any model's.
inline constexpr size_t kMaxHeadDim = size_t{1} << 12;

struct ModelConfig {
  std::string family;  // "llama"
  size_t hidden = 0;
  size_t layers = 0;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;  // at most kMaxHeadDim
  size_t mlp = 0;       // intermediate size
  size_t vocab = 0;
  size_t max_positions = 0;
  float norm_epsilon = 1e-6f;
  double rope_theta = 10000;
  bool tied_embeddings = false;
  int bos_id = -1;
  int eos_id = -1;

  bool operator==(const ModelConfig&) const = default;

  size_t q_rows() const { return heads * head_dim; }
  size_t kv_rows() const { return kv_heads * head_dim; }
  size_t qkv_rows() const { return q_rows() + 2 * kv_rows(); }
  // Multiply-adds a token of all linear layers inside one block.
  size_t BlockMacs() const {
    return hidden * qkv_rows() + q_rows() * hidden + 3 * hidden * mlp;
  }
};

// Reads `directory`/config.json in old (rope_theta, torch_dtype) or new
// (rope_parameters, dtype) spelling. Unsupported families, activations or rope
// types are errors that name the field and its value.
Result<ModelConfig> LoadConfig(const std::string& directory);
// Writes `directory`/config.json so that LoadConfig, and Hugging Face, read it.
Status SaveConfig(const ModelConfig& config, const std::string& directory);

// Shapes of well-known models: "llama-2-7b", "tinyllama-1.1b", ...
struct Preset {
  std::string name;
  ModelConfig config;
};
const std::vector<Preset>& Presets();
Result<ModelConfig> FindPreset(const std::string& name);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_CONFIG_H_
