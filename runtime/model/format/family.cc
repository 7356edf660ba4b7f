#include "runtime/model/format/family.h"

#include <cassert>

namespace rankforge {

namespace {

// One function per row: g++ 12 warns of uninitialized rows in a single list.

ModelFamily Llama() {
  return {.defaults = {.family = "llama", .max_positions = 2048},
          .architecture = "LlamaForCausalLM",
          .attention_bias = "attention_bias",
          .mlp_bias = "mlp_bias"};
}

ModelFamily Mistral() {
  return {.defaults = {.family = "mistral",
                       .kv_heads = 8,
                       .max_positions = size_t{1} << 17},
          .architecture = "MistralForCausalLM",
          .windows = ModelFamily::Windows::kAll,
          .absent_window = 4096};
}

ModelFamily Qwen2() {
  return {.defaults = {.family = "qwen2",
                       .kv_heads = 32,
                       .max_positions = 32768,
                       .qkv_bias = true},
          .architecture = "Qwen2ForCausalLM",
          .windows = ModelFamily::Windows::kUpper,
          .absent_window = 4096};
}

ModelFamily Gemma() {
  return {.defaults = {.family = "gemma",
                       .kv_heads = 16,
                       .head_dim = 256,
                       .max_positions = 8192,
                       .tied_embeddings = true,
                       .norm_offset = 1,
                       .scaled_embedding = true,
                       .activation = Activation::kGeluTanh},
          .architecture = "GemmaForCausalLM",
          .gelu = Activation::kGeluTanh,
          .attention_bias = "attention_bias",
          .unsupported = {"use_bidirectional_attention"}};
}

ModelFamily Qwen3() {
  return {.defaults = {.family = "qwen3",
                       .kv_heads = 32,
                       .head_dim = 128,
                       .max_positions = 32768,
                       .qk_norm = QkNorm::kHead},
          .architecture = "Qwen3ForCausalLM",
          .attention_bias = "attention_bias",
          .windows = ModelFamily::Windows::kUpper,
          .absent_window = 4096};
}

ModelFamily Phi3() {
  return {.defaults = {.family = "phi3",
                       .max_positions = 4096,
                       .norm_epsilon = 1e-5f},
          .architecture = "Phi3ForCausalLM",
          .rotary_share = "partial_rotary_factor",
          .longrope_names = {"longrope", "su", "yarn"},
          .original_positions = 4096,
          .unsupported = {"attention_bias"},
          .windows = ModelFamily::Windows::kAll,
          .qkv = {"self_attn.qkv_proj", {"self_attn.qkv_proj"}},
          .gate_up = {"mlp.gate_up_proj", {"mlp.gate_up_proj"}}};
}

ModelFamily Olmo2() {
  return {.defaults = {.family = "olmo2",
                       .max_positions = 2048,
                       .norm_epsilon = 1e-5f,
                       .qk_norm = QkNorm::kAll},
          .architecture = "Olmo2ForCausalLM",
          .attention_bias = "attention_bias",
          .attention_norm = "",
          .mlp_norm = "",
          .attention_out_norm = "post_attention_layernorm",
          .mlp_out_norm = "post_feedforward_layernorm"};
}

ModelFamily Gemma2() {
  ModelFamily family = Gemma();
  family.defaults.family = "gemma2";
  family.defaults.kv_heads = 4;
  family.defaults.query_scalar = 256;
  family.defaults.score_cap = 50;
  family.defaults.logit_cap = 30;
  family.architecture = "Gemma2ForCausalLM";
  family.activation = "hidden_activation";
  family.gelu = Activation::kGelu;
  family.query_scalar = "query_pre_attn_scalar";
  family.score_cap = "attn_logit_softcapping";
  family.logit_cap = "final_logit_softcapping";
  family.windows = ModelFamily::Windows::kAlternate;
  family.absent_window = 4096;
  family.window_period = 2;
  family.mlp_norm = "pre_feedforward_layernorm";
  family.attention_out_norm = "post_attention_layernorm";
  family.mlp_out_norm = "post_feedforward_layernorm";
  return family;
}

ModelFamily Gemma3() {
  ModelFamily family = Gemma2();
  family.defaults.family = "gemma3_text";
  family.defaults.max_positions = size_t{1} << 17;
  family.defaults.rope_theta = 1e6;
  family.defaults.window_rope_theta = 1e4;
  family.defaults.qk_norm = QkNorm::kHead;
  family.defaults.score_cap = 0;
  family.defaults.logit_cap = 0;
  family.architecture = "Gemma3ForCausalLM";
  family.window_rope_theta = "rope_local_base_freq";
  // Transformers reads it and does not apply it.
  family.unsupported.push_back(family.score_cap);
  family.score_cap = "";
  family.window_period = 6;
  family.window_period_field = "sliding_window_pattern";
  return family;
}

ModelFamily GptNeoX() {
  return {.defaults = {.family = "gpt_neox",
                       .max_positions = 2048,
                       .norm_epsilon = 1e-5f,
                       .rotary_share = 0.25,
                       .norm = NormKind::kLayer,
                       .parallel_blocks = true,
                       .qkv_by_head = true,
                       .activation = Activation::kGelu,
                       .gated_mlp = false,
                       .qkv_bias = true,
                       .o_bias = true,
                       .mlp_bias = true},
          .architecture = "GPTNeoXForCausalLM",
          .norm_epsilon = "layer_norm_eps",
          .attention_bias = "attention_bias",
          .groups_heads = false,
          .parallel_flag = true,
          .rope_theta = "rotary_emb_base",
          .rotary_share = "rotary_pct",
          .embedding = "gpt_neox.embed_in",
          .layers = "gpt_neox.layers",
          .final_norm = "gpt_neox.final_layer_norm",
          .lm_head = "embed_out",
          .qkv = {"attention.query_key_value", {"attention.query_key_value"}},
          .o = {"attention.dense", {"attention.dense"}},
          .gate_up = {"mlp.dense_h_to_4h", {"mlp.dense_h_to_4h"}},
          .down = {"mlp.dense_4h_to_h", {"mlp.dense_4h_to_h"}}};
}

}  // namespace

const std::vector<ModelFamily>& Families() {
  static const std::vector<ModelFamily> families = [] {
    std::vector<ModelFamily> rows;
    for (ModelFamily (*row)() : {Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2,
                                 Gemma3, Phi3, Olmo2, GptNeoX}) {
      rows.push_back(row());
    }
    return rows;
  }();
  return families;
}

const ModelFamily* FindFamily(const std::string& model_type) {
  for (const ModelFamily& family : Families()) {
    if (family.defaults.family == model_type) return &family;
  }
  return nullptr;
}

const ModelFamily& FamilyOf(const ModelConfig& config) {
  const ModelFamily* family = FindFamily(config.family);
  assert(family != nullptr && "LoadConfig refuses unknown families");
  return *family;
}

}  // namespace rankforge
