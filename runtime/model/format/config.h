// A transformer's shape, from config.json or from a preset.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/layer/activation.h"

namespace rankforge {

// The largest head_dim that a checkpoint may have. It bounds memory, and is far
// above any model's.
inline constexpr size_t kMaxHeadDim = size_t{1} << 12;

enum class NormKind : uint8_t {
  kRms,    // x / rms(x) * weight
  kLayer,  // (x - mean(x)) / deviation(x) * weight + bias
};

// Which values of a token's queries and keys a norm of their own covers.
enum class QkNorm : uint8_t {
  kNone,
  kHead,  // each head by itself
  kAll,   // all heads of the queries, and all heads of the keys
};

// How the frequencies of rotary angles differ from theta^(-2i/n).
struct RopeScaling {
  enum class Type : uint8_t {
    kNone,
    kLinear,  // all of them are divided by `factor`
    // Frequencies with fewer than `low` turns in `positions` are divided by
    // `factor`. Those with more than `high` turns stay. Between the two, a
    // mixture of both.
    kLlama3,
    // As kLlama3, but the mixture is linear in the index of the frequency. The
    // indices that have `low` and `high` turns are rounded outwards if
    // `truncate`.
    kYarn,
    // theta grows with the sequence beyond max_positions. Up to there, which is
    // the longest sequence that a cache holds, it is kNone.
    kDynamic,
    // Frequency i is divided by short_factors[i] in sequences of at most
    // `positions` tokens, and by long_factors[i] in longer ones.
    kLong,
  };
  Type type = Type::kNone;
  double factor = 1;
  double low = 1;
  double high = 4;
  size_t positions = 0;
  bool truncate = true;
  double attention_factor = 1;  // of all cosines and sines
  std::vector<double> short_factors = {};
  std::vector<double> long_factors = {};

  bool operator==(const RopeScaling&) const = default;
};

// The inner sizes of one layer, where they are not the model's (docs/a3.md).
struct LayerDims {
  size_t qk = 0;   // elements of a head's query and key
  size_t vo = 0;   // elements of its value, and of its output, which o reads
  size_t mlp = 0;  // intermediate size
  // By KV head: the indices of the model's rotary frequencies that its rotated
  // elements have, ascending. Every head has equally many. Empty: all of them.
  std::vector<std::vector<uint16_t>> rotary_pairs = {};

  bool operator==(const LayerDims&) const = default;
};

struct ModelConfig {
  std::string family;  // model_type of a row in runtime/model/format/family.cc
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
  RopeScaling rope_scaling = {};
  // The share of a head's dimensions that is rotated: its first ones.
  double rotary_share = 1;
  // A position attends to the last `window` positions, itself included; 0: to
  // all.
  size_t window = 0;
  // By layer: whether it has the window. Empty: all layers have it.
  std::vector<bool> windowed = {};
  // Layers with a window rotate by unscaled frequencies of this theta, if any.
  std::optional<double> window_rope_theta = {};
  bool tied_embeddings = false;
  // Rows and columns of weights as 8-bit floats that share a factor.
  std::array<size_t, 2> float8_block = {128, 128};
  int bos_id = -1;
  std::vector<int> eos_ids = {};  // generation stops at any of them

  // What the forward pass computes; the defaults are Llama's.
  NormKind norm = NormKind::kRms;
  float norm_offset = 0;          // added to the weights of norms
  bool scaled_embedding = false;  // by sqrt(hidden)
  QkNorm qk_norm = QkNorm::kNone;
  // Scores are divided by its square root; 0: by that of head_dim.
  double query_scalar = 0;
  // Scores and logits x become cap * tanh(x / cap); 0: they stay.
  double score_cap = 0;
  double logit_cap = 0;
  bool parallel_blocks = false;  // x + attention(x) + mlp(x)
  bool qkv_by_head = false;      // rows are q, k, v of head 0, of head 1, ...
  Activation activation = Activation::kSilu;
  bool gated_mlp = true;  // down(act(gate) * up), else down(act(up))
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;

  // By layer; empty: all layers have `head_dim` and `mlp`. The scale of
  // attention and the rotary frequencies follow from `head_dim` either way.
  std::vector<LayerDims> layer_dims = {};

  bool operator==(const ModelConfig&) const = default;

  size_t window_of(size_t layer) const {
    return windowed.empty() || windowed[layer] ? window : 0;
  }
  size_t qk_dim(size_t layer) const {
    return layer_dims.empty() ? head_dim : layer_dims[layer].qk;
  }
  size_t vo_dim(size_t layer) const {
    return layer_dims.empty() ? head_dim : layer_dims[layer].vo;
  }
  size_t mlp_width(size_t layer) const {
    return layer_dims.empty() ? mlp : layer_dims[layer].mlp;
  }
  size_t q_rows(size_t layer) const { return heads * qk_dim(layer); }
  size_t k_rows(size_t layer) const { return kv_heads * qk_dim(layer); }
  size_t v_rows(size_t layer) const { return kv_heads * vo_dim(layer); }
  size_t qkv_rows(size_t layer) const {
    return q_rows(layer) + k_rows(layer) + v_rows(layer);
  }
  size_t o_cols(size_t layer) const { return heads * vo_dim(layer); }
  // Rows of gate and up, or of up alone.
  size_t mlp_in_rows(size_t layer) const {
    return (gated_mlp ? 2 : 1) * mlp_width(layer);
  }
  // Elements of a head that the model has frequencies for: its first ones.
  size_t rotary_dim() const {
    return static_cast<size_t>(static_cast<double>(head_dim) * rotary_share);
  }
  // Elements that are rotated in this layer, two for each frequency.
  size_t rotated(size_t layer) const {
    const bool all =
        layer_dims.empty() || layer_dims[layer].rotary_pairs.empty();
    return all ? rotary_dim()
               : 2 * layer_dims[layer].rotary_pairs.front().size();
  }
  // Multiply-adds per token of all linear layers inside one block.
  size_t BlockMacs(size_t layer) const {
    return hidden * (qkv_rows(layer) + o_cols(layer) + mlp_in_rows(layer) +
                     mlp_width(layer));
  }
  // Of all blocks.
  size_t LinearMacs() const {
    size_t macs = 0;
    for (size_t layer = 0; layer < layers; ++layer) macs += BlockMacs(layer);
    return macs;
  }
};

// Reads `directory`/config.json in its old spelling (rope_theta, rope_scaling,
// rotary_pct) or its new one (rope_parameters), and the eos_token_id of
// `directory`/generation_config.json, which wins. What the forward pass would
// not compute as Transformers does is an error that names the field and its
// value.
Result<ModelConfig> LoadConfig(const std::string& directory);
// The same of the text of a config.json; `name` is what messages call it.
Result<ModelConfig> ParseConfig(const std::string& text,
                                const std::string& name);
// Writes `directory`/config.json so that LoadConfig, and Hugging Face, read it.
Status SaveConfig(const ModelConfig& config, const std::string& directory);
// Writes `directory`/config.json: that of the checkpoint `source`, with the
// inner sizes of `config` in place of its own. If layers differ, it tells
// Transformers to load `modeling_class` ("file.Class" in `directory`).
Status SaveShrunkConfig(const ModelConfig& config, const std::string& source,
                        const std::string& modeling_class,
                        const std::string& directory);

// Shapes of well-known models: "llama-2-7b", "tinyllama-1.1b", ...
struct Preset {
  std::string name;
  ModelConfig config;
};
const std::vector<Preset>& Presets();
Result<ModelConfig> FindPreset(const std::string& name);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_H_
