#include "runtime/model/format/family.h"

#include <cassert>

namespace rankforge {

namespace {

// One function per row: g++ 12 warns of uninitialized rows in a single list.

ModelFamily Llama() {
  return {.defaults = {.family = "llama"},
          .architecture = "LlamaForCausalLM",
          .attention_bias = "attention_bias",
          .mlp_bias = "mlp_bias"};
}

ModelFamily Mistral() {
  return {.defaults = {.family = "mistral"},
          .architecture = "MistralForCausalLM",
          .has_window = true};
}

ModelFamily Qwen2() {
  return {.defaults = {.family = "qwen2", .qkv_bias = true},
          .architecture = "Qwen2ForCausalLM",
          .unsupported_flag = "use_sliding_window"};
}

ModelFamily Gemma() {
  return {.defaults = {.family = "gemma",
                       .tied_embeddings = true,
                       .norm_offset = 1,
                       .scaled_embedding = true,
                       .activation = Activation::kGeluTanh},
          .architecture = "GemmaForCausalLM",
          .activation = "hidden_activation",
          .gelu = Activation::kGeluTanh,
          .attention_bias = "attention_bias",
          .unsupported_flag = "use_bidirectional_attention"};
}

ModelFamily GptNeoX() {
  return {.defaults = {.family = "gpt_neox",
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
          .rotates_part = true,
          .parallel_flag = true,
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
    for (ModelFamily (*row)() : {Llama, Mistral, Qwen2, Gemma, GptNeoX}) {
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
