// THE list of model families: what their tensors are called, and what their
// forward pass computes unless config.json says otherwise.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_FAMILY_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_FAMILY_H_

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
  // What a block computes where config.json does not say. `family` is the
  // model_type; the sizes are unset.
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
  bool rotates_part = false;   // rotary_pct, partial_rotary_factor
  bool parallel_flag = false;  // use_parallel_residual
  bool has_window = false;     // sliding_window
  // A flag that must be absent or false; empty: none.
  std::string unsupported_flag = "";

  // Names of tensors, without ".weight"; layers lie under "<layers>.<index>.".
  std::string embedding = "model.embed_tokens";
  std::string layers = "model.layers";
  std::string final_norm = "model.norm";
  std::string lm_head = "lm_head";
  std::string attention_norm = "input_layernorm";
  std::string mlp_norm = "post_attention_layernorm";
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
