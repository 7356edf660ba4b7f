// THE list of model families: what their tensors are called, and what their
// forward pass computes unless config.json says otherwise.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_FAMILY_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_FAMILY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"

namespace rankforge {

// The names of a projection of stacked tensors, within a layer and without
// ".weight" or ".bias": the name that adapters use for the stack, and the names
// of its tensors.
struct ProjectionNames {
  std::string stack;
  std::vector<std::string> tensors;
};

struct ModelFamily {
  // What a block computes where config.json does not say, as Transformers has
  // it. `family` is the model_type. Of the sizes, those that are 0 have no
  // default; kv_heads and head_dim then follow from the others.
  ModelConfig defaults;
  std::string architecture;  // of Hugging Face: "LlamaForCausalLM"

  // Fields of config.json, besides those that every family has.
  std::string norm_epsilon = "rms_norm_eps";
  std::string activation = "hidden_act";
  // What "gelu" means: Gemma's first configs say it for the tanh form.
  Activation gelu = Activation::kGelu;
  // Flags: the first sets qkv_bias and o_bias, the second mlp_bias. Empty:
  // always as in `defaults`.
  std::string attention_bias = "";
  std::string mlp_bias = "";
  bool groups_heads = true;    // num_key_value_heads
  bool parallel_flag = false;  // use_parallel_residual
  std::string rope_theta = "rope_theta";
  std::string rotary_share = "";       // empty: all of a head is rotated
  std::string window_rope_theta = "";  // empty: as of other layers
  // Names of the rope type longrope.
  std::vector<std::string> longrope_names = {"longrope"};
  // original_max_position_embeddings where it is absent; none: that of the
  // object with the rope type.
  std::optional<size_t> original_positions = {};
  std::string query_scalar = "";
  std::string score_cap = "";
  std::string logit_cap = "";
  // Fields that must be absent, null or false.
  std::vector<std::string> unsupported = {};

  // Which layers have a window, whose size is sliding_window.
  enum class Windows : uint8_t {
    kNone,
    kAll,
    // With use_sliding_window: those from max_window_layers on, or as
    // layer_types says.
    kUpper,
    // All but every window_period-th, or as layer_types says.
    kAlternate,
  };
  Windows windows = Windows::kNone;
  size_t absent_window = 0;  // sliding_window where it is absent
  size_t window_period = 0;
  std::string window_period_field = "";

  // Names of tensors, without ".weight"; layers lie under "<layers>.<index>.".
  // An empty norm: there is none.
  std::string embedding = "model.embed_tokens";
  std::string layers = "model.layers";
  std::string final_norm = "model.norm";
  std::string lm_head = "lm_head";
  std::string attention_norm = "input_layernorm";
  std::string mlp_norm = "post_attention_layernorm";
  // Of what attention and the MLP add to the hidden values.
  std::string attention_out_norm = "";
  std::string mlp_out_norm = "";
  std::string q_norm = "self_attn.q_norm";  // where `defaults` has a qk_norm
  std::string k_norm = "self_attn.k_norm";
  ProjectionNames qkv = {
      "self_attn.qkv",
      {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}};
  ProjectionNames o = {"self_attn.o_proj", {"self_attn.o_proj"}};
  ProjectionNames gate_up = {"mlp.gate_up", {"mlp.gate_proj", "mlp.up_proj"}};
  ProjectionNames down = {"mlp.down_proj", {"mlp.down_proj"}};
};

const std::vector<ModelFamily>& Families();
// Null if there is none of this model_type.
const ModelFamily* FindFamily(const std::string& model_type);
// The family of a config that LoadConfig or a preset made.
const ModelFamily& FamilyOf(const ModelConfig& config);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_FAMILY_H_
