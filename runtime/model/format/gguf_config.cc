#include "runtime/model/format/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <utility>

#include "runtime/model/format/family.h"

namespace rankforge {
namespace {

using nlohmann::json;

constexpr GgufArchitecture kArchitectures[] = {
    {.name = "llama",
     .family = "llama",
     .windowed_family = "mistral",
     .interleaves_heads = true},
    {.name = "qwen2", .family = "qwen2"},
    {.name = "qwen3", .family = "qwen3"},
    {.name = "phi3", .family = "phi3", .windowed_family = "phi3"},
    {.name = "gemma", .family = "gemma", .adds_norm_offset = true},
    {.name = "gemma2",
     .family = "gemma2",
     .windowed_family = "gemma2",
     .adds_norm_offset = true,
     .largest_model = 46},
    {.name = "gemma3",
     .family = "gemma3_text",
     .windowed_family = "gemma3_text",
     .adds_norm_offset = true,
     .largest_model = 62},
    {.name = "olmo2", .family = "olmo2"},
    {.name = "gptneox", .family = "gpt_neox", .groups_qkv = true},
};

constexpr std::string_view kUseComplete = "use a complete file";

// What is done with a field below "<architecture>.".
enum class Use : uint8_t {
  kCount,     // copied to config.json
  kNumber,    // copied
  kFlag,      // copied
  kRequired,  // a count without which there is no model, copied
  kFixed,     // a number or flag that is refused unless it is `fixed`
  kHeadSize,  // a count that is refused unless it is the size of a head
  kElsewhere  // read elsewhere, or says nothing that is computed
};
struct GgufField {
  std::string_view key;
  Use use;
  const char* config = "";  // its name in config.json
  double fixed = 0;
};

// THE list of fields.
constexpr GgufField kGgufFields[] = {
    {"context_length", Use::kRequired, "max_position_embeddings"},
    {"embedding_length", Use::kRequired, "hidden_size"},
    {"block_count", Use::kRequired, "num_hidden_layers"},
    {"feed_forward_length", Use::kRequired, "intermediate_size"},
    {"attention.head_count", Use::kRequired, "num_attention_heads"},
    {"attention.head_count_kv", Use::kElsewhere},
    {"attention.key_length", Use::kElsewhere},
    {"attention.layer_norm_rms_epsilon", Use::kNumber, "rms_norm_eps"},
    {"attention.layer_norm_epsilon", Use::kNumber, "layer_norm_eps"},
    {"rope.freq_base", Use::kElsewhere},
    {"use_parallel_residual", Use::kFlag, "use_parallel_residual"},
    {"attention.sliding_window", Use::kElsewhere},
    {"attention.sliding_window_pattern", Use::kElsewhere},
    {"attention.value_length", Use::kHeadSize},
    {"attention.key_length_swa", Use::kHeadSize},
    {"attention.value_length_swa", Use::kHeadSize},
    {"attention.scale", Use::kElsewhere},
    {"attn_logit_softcapping", Use::kElsewhere},
    {"final_logit_softcapping", Use::kElsewhere},
    {"rope.dimension_count", Use::kElsewhere},
    {"rope.dimension_count_swa", Use::kHeadSize},
    {"rope.freq_base_swa", Use::kElsewhere},
    {"rope.scaling.type", Use::kElsewhere},
    {"rope.scaling.factor", Use::kElsewhere},
    {"rope.scaling.attn_factor", Use::kFixed, "", 1},
    {"rope.scaling.yarn_attn_factor", Use::kFixed, "", 1},
    {"rope.scaling.yarn_ext_factor", Use::kFixed, "", 1},
    {"rope.scaling.yarn_log_multiplier", Use::kFixed, "", 0},
    {"rope.scaling.alpha", Use::kFixed, "", 1},
    {"rope.scaling.original_context_length", Use::kElsewhere},
    {"rope.scaling.yarn_beta_fast", Use::kElsewhere},
    {"rope.scaling.yarn_beta_slow", Use::kElsewhere},
    {"rope.scaling.finetuned", Use::kElsewhere},
    {"rope.scale_linear", Use::kElsewhere},
    {"expert_count", Use::kElsewhere},
    {"expert_used_count", Use::kElsewhere},
    {"attention.causal", Use::kFixed, "", 1},
    {"attention.clamp_kqv", Use::kFixed, "", 0},
    {"attention.max_alibi_bias", Use::kFixed, "", 0},
    {"attention.output_scale", Use::kFixed, "", 1},
    {"attention.shared_kv_layers", Use::kFixed, "", 0},
    {"attention.temperature_length", Use::kFixed, "", 0},
    {"attention.temperature_scale", Use::kFixed, "", 0},
    {"embedding_scale", Use::kFixed, "", 1},
    {"logit_scale", Use::kFixed, "", 1},
    {"nextn_predict_layers", Use::kFixed, "", 0},
    {"residual_scale", Use::kFixed, "", 1},
    {"vocab_size", Use::kElsewhere},
    {"tensor_data_layout", Use::kElsewhere},
};

// Keys of a scaled rope that are numbers of rope_scaling.
constexpr std::pair<std::string_view, const char*> kScalingNumbers[] = {
    {"rope.scaling.yarn_beta_fast", "beta_fast"},
    {"rope.scaling.yarn_beta_slow", "beta_slow"},
};

// The divisors of rotary frequencies that Llama 3.1's scaling makes. The file
// has them in place of its parameters; all models have these two.
class Llama3Divisors {
 public:
  static constexpr double kLow = 1, kHigh = 4;

  Llama3Divisors(double theta, size_t count) : theta_(theta), count_(count) {}

  // How often frequency `i` turns in `positions`.
  double Turns(size_t i, double positions) const {
    return positions / (2 * std::numbers::pi) *
           std::pow(theta_,
                    -static_cast<double>(i) / static_cast<double>(count_));
  }
  double At(size_t i, double factor, double positions) const {
    const double share =
        std::clamp((Turns(i, positions) - kLow) / (kHigh - kLow), 0.0, 1.0);
    return 1 / ((1 - share) / factor + share);
  }
  // The positions that make divisor `i`, between 1 and `factor`, `divisor`.
  double Positions(size_t i, double factor, double divisor) const {
    const double share = (1 / divisor - 1 / factor) / (1 - 1 / factor);
    return (kLow + share * (kHigh - kLow)) / Turns(i, 1);
  }

 private:
  double theta_;
  size_t count_;
};

// Builds the config from one file.
class ConfigBuilder {
 public:
  ConfigBuilder(const GgufFile& file, const GgufArchitecture& architecture)
      : file_(file), architecture_(architecture) {}

  Result<json> Build() {
    RANKFORGE_RETURN_IF_ERROR(ReadFamily());
    for (const GgufField& field : kGgufFields) {
      RANKFORGE_RETURN_IF_ERROR(Copy(field));
    }
    RANKFORGE_RETURN_IF_ERROR(ReadHeads());
    RANKFORGE_RETURN_IF_ERROR(ReadScores());
    RANKFORGE_RETURN_IF_ERROR(ReadRotated());
    RANKFORGE_RETURN_IF_ERROR(ReadScaling());
    RANKFORGE_RETURN_IF_ERROR(ReadDivisors());
    RANKFORGE_RETURN_IF_ERROR(CheckExperts());
    RANKFORGE_RETURN_IF_ERROR(ReadTensors());
    RANKFORGE_RETURN_IF_ERROR(ReadTokens());
    return std::move(config_);
  }

 private:
  std::string Key(std::string_view field) const {
    return fmt::format("{}.{}", architecture_.name, field);
  }

  Status Refuse(std::string_view field, const std::string& value,
                std::string_view why) const {
    return Failed(fmt::format("{}: field '{}' is {}; {}", file_.path(),
                              Key(field), value, why));
  }

  // The family, which a window of attention decides.
  Status ReadFamily() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto window,
                               file_.Count(Key("attention.sliding_window")));
    std::string_view name = architecture_.family;
    if (window.value_or(0) != 0) {
      name = architecture_.windowed_family;
      if (name.empty()) {
        return Refuse("attention.sliding_window", fmt::to_string(*window),
                      "attention to a window is not computed in this "
                      "architecture, use another file");
      }
      config_["sliding_window"] = *window;
    }
    family_ = FindFamily(std::string(name));
    config_["model_type"] = name;
    config_["architectures"] = json::array({family_->architecture});
    return ReadPattern(window);
  }

  // Which layers have a window. Gemma 3 has none without its size.
  Status ReadPattern(const std::optional<uint64_t>& window) {
    constexpr std::string_view kField = "attention.sliding_window_pattern";
    RANKFORGE_ASSIGN_OR_RETURN(auto pattern, file_.Count(Key(kField)));
    if (!family_->window_period_field.empty()) {
      if (window.value_or(0) == 0) pattern = 1;
      Set(family_->window_period_field.c_str(), pattern);
      return {};
    }
    if (family_->window_period != 0 && window == 0) {
      return Refuse("attention.sliding_window", "0",
                    "every second layer has a window in this architecture, use "
                    "another file");
    }
    if (pattern && window && *pattern != family_->window_period) {
      return Refuse(kField, fmt::to_string(*pattern),
                    fmt::format("only {} is computed, use another file",
                                family_->window_period));
    }
    return {};
  }

  template <class T>
  void Set(const char* name, const std::optional<T>& value) {
    if (value) config_[name] = *value;
  }

  Status Copy(const GgufField& field) {
    const std::string key = Key(field.key);
    switch (field.use) {
      case Use::kCount:
      case Use::kRequired: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Count(key));
        if (field.use == Use::kRequired && value.value_or(0) == 0) {
          return Refuse(field.key, value ? "0" : "missing", kUseComplete);
        }
        Set(field.config, value);
        break;
      }
      case Use::kNumber: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Number(key));
        Set(field.config, value);
        break;
      }
      case Use::kFlag: {
        RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Flag(key));
        Set(field.config, value);
        break;
      }
      case Use::kFixed:
        return CheckFixed(field);
      case Use::kHeadSize:  // which is not known yet
      case Use::kElsewhere:
        break;
    }
    return {};
  }

  Status CheckFixed(const GgufField& field) const {
    RANKFORGE_ASSIGN_OR_RETURN(const auto value,
                               file_.NumberOrFlag(Key(field.key)));
    if (value.value_or(field.fixed) == field.fixed) return {};
    return Refuse(
        field.key, fmt::to_string(*value),
        fmt::format("only {} is computed, use another file", field.fixed));
  }

  // Whatever the family has where config.json lacks a field.
  Status ReadHeads() {
    const auto heads = config_["num_attention_heads"].get<uint64_t>();
    RANKFORGE_ASSIGN_OR_RETURN(const auto kv_heads,
                               file_.Count(Key("attention.head_count_kv")));
    config_["num_key_value_heads"] = kv_heads.value_or(heads);
    RANKFORGE_ASSIGN_OR_RETURN(const auto size,
                               file_.Count(Key("attention.key_length")));
    head_dim_ = size.value_or(config_["hidden_size"].get<uint64_t>() / heads);
    config_["head_dim"] = head_dim_;
    if (head_dim_ == 0 || head_dim_ > kMaxHeadDim) {
      return Refuse("attention.key_length", fmt::to_string(head_dim_),
                    kUseComplete);
    }
    for (const GgufField& field : kGgufFields) {
      if (field.use != Use::kHeadSize) continue;
      RANKFORGE_ASSIGN_OR_RETURN(const auto value, file_.Count(Key(field.key)));
      if (value && *value != head_dim_) {
        return Refuse(field.key, fmt::to_string(*value),
                      fmt::format("only {}, as keys have, is computed; use "
                                  "another file",
                                  head_dim_));
      }
    }
    return {};
  }

  // What becomes of products of queries and keys, and of logits.
  Status ReadScores() {
    RANKFORGE_RETURN_IF_ERROR(
        ReadCap("attn_logit_softcapping", family_->score_cap));
    RANKFORGE_RETURN_IF_ERROR(
        ReadCap("final_logit_softcapping", family_->logit_cap));
    uint64_t scalar = head_dim_;
    if (!family_->query_scalar.empty()) {
      // Files lack it. The largest model of a family differs in it.
      if (config_["num_hidden_layers"] == architecture_.largest_model) {
        scalar = config_["hidden_size"].get<uint64_t>() /
                 config_["num_attention_heads"].get<uint64_t>();
      }
      config_[family_->query_scalar] = scalar;
    }
    RANKFORGE_ASSIGN_OR_RETURN(const auto scale,
                               file_.Number(Key("attention.scale")));
    const double computed = 1 / std::sqrt(static_cast<double>(scalar));
    if (scale.value_or(0) != 0 &&
        !(std::fabs(*scale - computed) <= 1e-4 * computed)) {
      return Refuse("attention.scale", fmt::to_string(*scale),
                    fmt::format("only {:.4g} is computed here, use another "
                                "file",
                                computed));
    }
    return {};
  }

  // 0: no cap. `name` in config.json is empty where the family has none.
  Status ReadCap(std::string_view field, const std::string& name) {
    RANKFORGE_ASSIGN_OR_RETURN(const auto cap, file_.Number(Key(field)));
    if (!cap) return {};
    if (!name.empty()) {
      config_[name] = *cap == 0 ? json() : json(*cap);
    } else if (*cap != 0) {
      return Refuse(field, fmt::to_string(*cap),
                    "this architecture has no cap, use another file");
    }
    return {};
  }

  // The base of the frequencies, and which elements of a head are rotated.
  Status ReadRotated() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto base,
                               file_.Number(Key("rope.freq_base")));
    theta_ = base.value_or(10000);
    config_[family_->rope_theta] = theta_;
    RANKFORGE_RETURN_IF_ERROR(ReadWindowBase());
    RANKFORGE_ASSIGN_OR_RETURN(const auto rotated,
                               file_.Count(Key("rope.dimension_count")));
    if (!family_->rotary_share.empty()) {
      config_[family_->rotary_share] =
          static_cast<double>(rotated.value_or(head_dim_)) /
          static_cast<double>(head_dim_);
    } else if (rotated && *rotated != head_dim_) {
      return Refuse("rope.dimension_count", fmt::to_string(*rotated),
                    fmt::format("only all {} elements of a head are rotated in "
                                "this architecture, use another file",
                                head_dim_));
    }
    return {};
  }

  // The base in layers with a window.
  Status ReadWindowBase() {
    constexpr std::string_view kField = "rope.freq_base_swa";
    RANKFORGE_ASSIGN_OR_RETURN(const auto base, file_.Number(Key(kField)));
    if (!family_->window_rope_theta.empty()) {
      Set(family_->window_rope_theta.c_str(), base);
    } else if (base.value_or(theta_) != theta_) {
      return Refuse(kField, fmt::to_string(*base),
                    fmt::format("only {}, as in all layers, is computed; use "
                                "another file",
                                theta_));
    }
    return {};
  }

  // The reader of config.json refuses types that are not computed.
  Status ReadScaling() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto type,
                               file_.Text(Key("rope.scaling.type")));
    // The oldest spelling, of files without a type. A factor without a type is
    // linear, too.
    RANKFORGE_ASSIGN_OR_RETURN(const auto oldest,
                               file_.Number(Key("rope.scale_linear")));
    RANKFORGE_ASSIGN_OR_RETURN(const auto factor,
                               file_.Number(Key("rope.scaling.factor")));
    const double linear = factor.value_or(oldest.value_or(1));
    if (type == "none" || (!type && (linear == 1 || linear == 0))) return {};
    json scaling = {{"rope_type", type ? Printable(*type) : "linear"}};
    if (factor || oldest) scaling["factor"] = linear;
    for (const auto& [key, name] : kScalingNumbers) {
      RANKFORGE_ASSIGN_OR_RETURN(const auto number, file_.Number(Key(key)));
      if (number) scaling[name] = *number;
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        const auto positions,
        file_.Count(Key("rope.scaling.original_context_length")));
    if (positions) scaling["original_max_position_embeddings"] = *positions;
    config_["rope_scaling"] = std::move(scaling);
    return {};
  }

  // Llama 3.1's scaling is stored as the divisors that it makes.
  Status ReadDivisors() {
    const auto refuse = [&](std::string_view what) {
      return Failed(fmt::format(
          "{}: tensor 'rope_freqs.weight' {}; use the Hugging Face folder of "
          "the model",
          file_.path(), what));
    };
    const auto found = file_.tensors().find("rope_freqs.weight");
    if (found == file_.tensors().end()) return {};
    const GgufTensor& tensor = found->second;
    const size_t count = head_dim_ / 2;
    if (tensor.type != static_cast<uint32_t>(GgmlType::kF32) ||
        tensor.shape != std::vector<size_t>{count} || count == 0) {
      return refuse(fmt::format("is not {} F32 divisors of angles", count));
    }
    std::vector<float> stored(count);
    for (size_t i = 0; i < count; ++i) {
      tensor.format->widen(&tensor.bytes[i * sizeof(float)], &stored[i]);
    }
    const Llama3Divisors divisors(theta_, count);
    const double factor = stored.back();
    double positions = 8192;  // of Llama 3.1, if no divisor tells
    for (size_t i = 0; i < count; ++i) {
      if (stored[i] > 1.001 && stored[i] < 0.999 * factor) {
        positions = std::round(divisors.Positions(i, factor, stored[i]));
      }
    }
    for (size_t i = 0; i < count; ++i) {
      const double expected = divisors.At(i, factor, positions);
      if (!(std::fabs(stored[i] - expected) <= 1e-4 * expected)) {
        return refuse("scales rotary angles in another way than Llama 3.1");
      }
    }
    if (factor == 1) return {};
    if (config_.contains("rope_scaling")) {
      return refuse(
          "stands beside metadata 'rope.scaling', which scales again");
    }
    config_["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", factor},
        {"low_freq_factor", Llama3Divisors::kLow},
        {"high_freq_factor", Llama3Divisors::kHigh},
        {"original_max_position_embeddings",
         static_cast<uint64_t>(std::clamp(positions, 1.0, 1e9))}};
    return {};
  }

  Status CheckExperts() const {
    RANKFORGE_ASSIGN_OR_RETURN(const auto experts,
                               file_.Count(Key("expert_count")));
    if (experts.value_or(0) == 0) return {};
    return Refuse("expert_count", fmt::to_string(*experts),
                  "mixtures of experts are not computed, use another file");
  }

  // Whether a block has a tensor of one of these names.
  bool HasAny(std::initializer_list<std::string_view> endings) const {
    return std::ranges::any_of(file_.tensors(), [&](const auto& tensor) {
      return std::ranges::any_of(endings, [&](std::string_view ending) {
        return tensor.first.ends_with(ending);
      });
    });
  }

  // What tensors say: the size of the vocabulary, tied embeddings, biases.
  Status ReadTensors() {
    const auto embedding = file_.tensors().find("token_embd.weight");
    if (embedding == file_.tensors().end() ||
        embedding->second.shape.size() != 2) {
      return Failed(
          fmt::format("{}: tensor 'token_embd.weight' is missing or "
                      "no matrix; {}",
                      file_.path(), kUseComplete));
    }
    config_["vocab_size"] = embedding->second.shape[0];
    config_["tie_word_embeddings"] = !file_.tensors().contains("output.weight");
    if (!family_->attention_bias.empty()) {
      config_[family_->attention_bias] =
          HasAny({".attn_q.bias", ".attn_k.bias", ".attn_v.bias",
                  ".attn_qkv.bias", ".attn_output.bias"});
    }
    if (!family_->mlp_bias.empty()) {
      config_[family_->mlp_bias] =
          HasAny({".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"});
    }
    return {};
  }

  // Ids that begin and end a text. The end of a turn ends one, too.
  Status ReadTokens() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto bos,
                               file_.Count("tokenizer.ggml.bos_token_id"));
    Set("bos_token_id", bos);
    json ends = json::array();
    for (const char* key :
         {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
          "tokenizer.ggml.eom_token_id"}) {
      RANKFORGE_ASSIGN_OR_RETURN(const auto id, file_.Count(key));
      if (id && std::ranges::count(ends, json(*id)) == 0) ends.push_back(*id);
    }
    if (ends.size() == 1) ends = json(ends.front());
    if (!ends.empty()) config_["eos_token_id"] = std::move(ends);
    return {};
  }

  const GgufFile& file_;
  const GgufArchitecture& architecture_;
  const ModelFamily* family_ = nullptr;
  uint64_t head_dim_ = 0;
  double theta_ = 0;  // base of the rotary frequencies
  json config_;
};

}  // namespace

Result<const GgufArchitecture*> ArchitectureOf(const GgufFile& file) {
  RANKFORGE_ASSIGN_OR_RETURN(const auto name,
                             file.Text("general.architecture"));
  std::string known;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (name == architecture.name) return &architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  return Failed(fmt::format(
      "{}: field 'general.architecture' is {}; supported: {}", file.path(),
      name ? fmt::format("'{}'", Printable(*name)) : "missing", known));
}

Result<std::string> GgufConfigJson(const GgufFile& file,
                                   const GgufArchitecture& architecture,
                                   std::vector<std::string>& notes) {
  const std::string prefix = fmt::format("{}.", architecture.name);
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view field = std::string_view(key).substr(prefix.size());
    if (std::ranges::find(kGgufFields, field, &GgufField::key) ==
        std::end(kGgufFields)) {
      notes.push_back(fmt::format("{}: field '{}' is not read", file.path(),
                                  Printable(key)));
    }
  }
  RANKFORGE_ASSIGN_OR_RETURN(const json config,
                             ConfigBuilder(file, architecture).Build());
  return config.dump(2);
}

}  // namespace rankforge
