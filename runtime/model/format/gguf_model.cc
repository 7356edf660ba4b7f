#include "runtime/model/format/gguf_model.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "runtime/model/format/family.h"

namespace rankforge {
namespace {

using nlohmann::json;

// A row of THE list of architectures.
struct Architecture {
  std::string_view name;    // general.architecture
  std::string_view family;  // model_type
  // Rows of q and k alternate between the halves of a head.
  bool interleaves_heads = false;
  // Rows of q, of k and of v together, where the checkpoint has those of each
  // head together.
  bool groups_qkv = false;
  // Weights of norms are stored with what the family adds to them.
  bool adds_norm_offset = false;
};

constexpr Architecture kArchitectures[] = {
    {.name = "llama", .family = "llama", .interleaves_heads = true},
    {.name = "qwen2", .family = "qwen2"},
    {.name = "gemma", .family = "gemma", .adds_norm_offset = true},
    {.name = "gptneox", .family = "gpt_neox", .groups_qkv = true},
};

const Architecture& ArchitectureOf(std::string_view family) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.family == family) return architecture;
  }
  return kArchitectures[0];
}

// Fields below "<architecture>." and what config.json calls them.
struct Field {
  std::string_view key;
  const char* config;  // null: read elsewhere, or for information
  enum class Kind : uint8_t { kCount, kNumber, kFlag } kind = Kind::kCount;
};

constexpr Field kFields[] = {
    {"context_length", "max_position_embeddings"},
    {"embedding_length", "hidden_size"},
    {"block_count", "num_hidden_layers"},
    {"feed_forward_length", "intermediate_size"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"attention.sliding_window", "sliding_window"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", Field::Kind::kNumber},
    {"attention.layer_norm_epsilon", "layer_norm_eps", Field::Kind::kNumber},
    {"rope.freq_base", "rope_theta", Field::Kind::kNumber},
    {"use_parallel_residual", "use_parallel_residual", Field::Kind::kFlag},
    {"attention.value_length", nullptr},
    {"rope.dimension_count", nullptr},
    {"rope.scaling.type", nullptr},
    {"rope.scaling.factor", nullptr},
    {"rope.scaling.original_context_length", nullptr},
    {"rope.scaling.finetuned", nullptr},
    {"rope.scale_linear", nullptr},
    {"expert_count", nullptr},
    {"expert_used_count", nullptr},
    {"vocab_size", nullptr},
    {"tensor_data_layout", nullptr},
};

// Builds the config from one file.
class ConfigReader {
 public:
  ConfigReader(const GgufFile& file, const Architecture& architecture)
      : file_(file), architecture_(architecture) {}

  Result<json> Read() {
    config_["model_type"] = architecture_.family;
    config_["architectures"] = json::array(
        {FindFamily(std::string(architecture_.family))->architecture});
    for (const Field& field : kFields) {
      if (field.config == nullptr) continue;
      RANKFORGE_RETURN_IF_ERROR(Copy(field));
    }
    RANKFORGE_RETURN_IF_ERROR(ReadRope());
    RANKFORGE_RETURN_IF_ERROR(CheckOthers());
    RANKFORGE_RETURN_IF_ERROR(ReadVocabulary());
    return std::move(config_);
  }

  std::string Key(std::string_view field) const {
    return fmt::format("{}.{}", architecture_.name, field);
  }

 private:
  Status Refuse(std::string_view field, const std::string& value,
                std::string_view why) const {
    return Failed(fmt::format("{}: field '{}' is {}; {}", file_.path(),
                              Key(field), value, why));
  }

  template <class T>
  void Set(const char* name, const std::optional<T>& value) {
    if (value) config_[name] = *value;
  }

  Status Copy(const Field& field) {
    const std::string key = Key(field.key);
    switch (field.kind) {
      case Field::Kind::kCount: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Count(key));
        Set(field.config, value);
        break;
      }
      case Field::Kind::kNumber: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Number(key));
        Set(field.config, value);
        break;
      }
      case Field::Kind::kFlag: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Flag(key));
        Set(field.config, value);
        break;
      }
    }
    return {};
  }

  Result<size_t> HeadDim() const {
    if (config_.contains("head_dim")) return config_["head_dim"].get<size_t>();
    const size_t hidden = config_.value("hidden_size", size_t{0});
    const size_t heads = config_.value("num_attention_heads", size_t{0});
    if (heads == 0) return Refuse("attention.head_count", "missing", kComplete);
    return hidden / heads;
  }

  Status ReadRope() {
    RANKFORGE_ASSIGN_OR_RETURN(const size_t head_dim, HeadDim());
    RANKFORGE_ASSIGN_OR_RETURN(const auto rotated,
                               file_.Count(Key("rope.dimension_count")));
    const bool rotates_part =
        FindFamily(std::string(architecture_.family))->rotates_part;
    if (rotates_part && rotated) {
      config_["rotary_pct"] =
          static_cast<double>(*rotated) / static_cast<double>(head_dim);
    } else if (rotated && *rotated != head_dim) {
      return Refuse("rope.dimension_count", fmt::to_string(*rotated),
                    fmt::format("only all {} elements of a head are rotated in "
                                "this architecture, use another file",
                                head_dim));
    }
    RANKFORGE_ASSIGN_OR_RETURN(const auto type,
                               file_.Text(Key("rope.scaling.type")));
    RANKFORGE_ASSIGN_OR_RETURN(const auto factor,
                               file_.Number(Key("rope.scaling.factor")));
    // The oldest spelling, of files without a type.
    RANKFORGE_ASSIGN_OR_RETURN(const auto linear,
                               file_.Number(Key("rope.scale_linear")));
    if (type && *type != "none" && *type != "linear") {
      return Refuse("rope.scaling.type", *type,
                    "none and linear are computed, use another file");
    }
    if (type ? *type == "linear" : linear.has_value()) {
      config_["rope_scaling"] = {
          {"rope_type", "linear"},
          {"factor", factor.value_or(linear.value_or(1))}};
    }
    if (file_.tensors().contains("rope_freqs.weight")) {
      return Failed(fmt::format(
          "{}: tensor 'rope_freqs.weight' scales the rotary angles, which is "
          "not computed yet; use the Hugging Face folder of the model",
          file_.path()));
    }
    return {};
  }

  Status CheckOthers() const {
    RANKFORGE_ASSIGN_OR_RETURN(const auto experts,
                               file_.Count(Key("expert_count")));
    if (experts.value_or(0) != 0) {
      return Refuse("expert_count", fmt::to_string(*experts),
                    "mixtures of experts are not computed, use another file");
    }
    RANKFORGE_ASSIGN_OR_RETURN(const size_t head_dim, HeadDim());
    RANKFORGE_ASSIGN_OR_RETURN(const auto value,
                               file_.Count(Key("attention.value_length")));
    if (value && *value != head_dim) {
      return Refuse("attention.value_length", fmt::to_string(*value),
                    fmt::format("only {}, as keys have, is computed; use "
                                "another file",
                                head_dim));
    }
    return {};
  }

  // What tensors say: the size of the vocabulary, tied embeddings, biases.
  Status ReadVocabulary() {
    const auto embedding = file_.tensors().find("token_embd.weight");
    if (embedding == file_.tensors().end() ||
        embedding->second.shape.size() != 2) {
      return Failed(fmt::format("{}: tensor 'token_embd.weight' is missing; {}",
                                file_.path(), kComplete));
    }
    config_["vocab_size"] = embedding->second.shape[0];
    config_["tie_word_embeddings"] = !file_.tensors().contains("output.weight");
    const bool has_bias = file_.tensors().contains("blk.0.attn_q.bias") ||
                          file_.tensors().contains("blk.0.attn_qkv.bias");
    config_["attention_bias"] = has_bias;
    if (architecture_.family == "llama") {
      config_["mlp_bias"] = file_.tensors().contains("blk.0.ffn_up.bias");
    }
    for (const auto& [key, name] :
         {std::pair("tokenizer.ggml.bos_token_id", "bos_token_id"),
          std::pair("tokenizer.ggml.eos_token_id", "eos_token_id")}) {
      RANKFORGE_ASSIGN_OR_RETURN(const auto id, file_.Count(key));
      Set(name, id);
    }
    return {};
  }

  static constexpr std::string_view kComplete = "use a complete file";

  const GgufFile& file_;
  const Architecture& architecture_;
  json config_;
};

bool IsKnown(std::string_view key) {
  for (const Field& field : kFields) {
    if (field.key == key) return true;
  }
  return false;
}

// "model.layers.3.mlp.up_proj.weight" of a family: layer, what follows it.
struct LayerName {
  std::string layer;
  std::string module;
};
std::optional<LayerName> SplitLayer(const ModelFamily& family,
                                    std::string_view name) {
  const std::string prefix = family.layers + ".";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  return LayerName{std::string(name.substr(0, dot)),
                   std::string(name.substr(dot + 1))};
}

}  // namespace

Result<std::string> GgufConfigJson(const GgufFile& file,
                                   std::vector<std::string>& notes) {
  RANKFORGE_ASSIGN_OR_RETURN(const auto name,
                             file.Text("general.architecture"));
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (name == architecture.name) {
      ConfigReader reader(file, architecture);
      const std::string prefix = reader.Key("");
      for (const auto& [key, value] : file.metadata()) {
        if (!key.starts_with(prefix)) continue;
        if (!IsKnown(std::string_view(key).substr(prefix.size()))) {
          notes.push_back(
              fmt::format("{}: field '{}' is not read", file.path(), key));
        }
      }
      RANKFORGE_ASSIGN_OR_RETURN(const json config, reader.Read());
      return config.dump(2);
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  return Failed(
      fmt::format("{}: field 'general.architecture' is {:.80}; supported: {}",
                  file.path(), name.value_or("missing"), known));
}

GgufNames::GgufNames(const ModelConfig& config) : config_(config) {}

GgufTensorPlace GgufNames::Find(const std::string& name) const {
  const ModelFamily& family = FamilyOf(config_);
  const Architecture& architecture = ArchitectureOf(config_.family);
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string module = name.substr(0, dot);
  const std::string kind = name.substr(dot);  // ".weight" or ".bias"
  const float offset =
      architecture.adds_norm_offset ? -family.defaults.norm_offset : 0;
  if (module == family.embedding) return {"token_embd" + kind, {}};
  if (module == family.lm_head) return {"output" + kind, {}};
  if (module == family.final_norm) return {"output_norm" + kind, {}, offset};
  const std::optional<LayerName> layer = SplitLayer(family, module);
  if (!layer) return {};
  const std::string block = "blk." + layer->layer + ".";
  if (layer->module == family.attention_norm) {
    return {block + "attn_norm" + kind, {}, offset};
  }
  if (layer->module == family.mlp_norm) {
    return {block + "ffn_norm" + kind, {}, offset};
  }
  // As many names as the family stacks.
  const auto place = [&](const ProjectionNames& names,
                         std::initializer_list<const char*> stored) {
    for (size_t i = 0; i < names.tensors.size(); ++i) {
      if (layer->module == names.tensors[i])
        return block + stored.begin()[i] + kind;
    }
    return std::string();
  };
  if (family.qkv.tensors.size() == 1) {
    if (std::string stored = place(family.qkv, {"attn_qkv"}); !stored.empty()) {
      RowSwap swap;
      if (architecture.groups_qkv) {
        swap = {config_.heads, 3, config_.head_dim};
      }
      return {std::move(stored), swap};
    }
  } else if (std::string stored =
                 place(family.qkv, {"attn_q", "attn_k", "attn_v"});
             !stored.empty()) {
    const bool rotated = layer->module != family.qkv.tensors[2];
    RowSwap swap;
    if (architecture.interleaves_heads && rotated) {
      swap = {2, config_.head_dim / 2, 1};
    }
    return {std::move(stored), swap};
  }
  if (std::string stored = place(family.o, {"attn_output"}); !stored.empty()) {
    return {std::move(stored), {}};
  }
  const bool gated = family.gate_up.tensors.size() == 2;
  if (std::string stored = gated ? place(family.gate_up, {"ffn_gate", "ffn_up"})
                                 : place(family.gate_up, {"ffn_up"});
      !stored.empty()) {
    return {std::move(stored), {}};
  }
  return {place(family.down, {"ffn_down"}), {}};
}

}  // namespace rankforge
