#include "runtime/model/format/config.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <string_view>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/json_fields.h"
#include "runtime/model/format/family.h"

namespace rankforge {

namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
// Bounds far above any model, so that no product of sizes can overflow.
constexpr size_t kMaxWidth = size_t{1} << 20;
constexpr size_t kMaxLayers = size_t{1} << 12;
constexpr size_t kMaxVocab = size_t{1} << 24;
constexpr size_t kMaxPositions = size_t{1} << 30;

// Activations as config.json calls them.
struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr ActivationName kActivations[] = {
    {"silu", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
};

std::string FamilyNames() {
  std::string names;
  for (const ModelFamily& family : Families()) {
    if (!names.empty()) names += ", ";
    names += family.defaults.family;
  }
  return names;
}

Status StatusOf(const std::string& path, const FieldError& error) {
  if (error.empty()) return {};
  return Failed(fmt::format(
      "{}: {}'{}' is {}; {}", path,
      error.where.empty() ? "" : fmt::format("in {}: ", error.where),
      error.field, error.value,
      error.missing() ? "use the model's complete config.json" : error.reason));
}

// A whole number in [1, most]. Without `absent` the field must be there.
size_t Size(JsonFields& fields, const std::string& name, size_t most,
            std::optional<size_t> absent = std::nullopt) {
  if (absent && !fields.Has(name)) return *absent;
  return fields.Count(name, 1, most);
}

// A finite number above zero.
double Positive(JsonFields& fields, const std::string& name,
                std::optional<double> absent = std::nullopt) {
  if (absent && !fields.Has(name)) return *absent;
  const json* value =
      fields.Get(name, "a finite number above 0", [](const json& v) {
        return v.is_number() && v.get<double>() > 0 &&
               std::isfinite(v.get<double>());
      });
  return value == nullptr ? absent.value_or(1) : value->get<double>();
}

bool Flag(JsonFields& fields, const std::string& name, bool absent) {
  return fields.Has(name) ? fields.Flag(name) : absent;
}

// A token id, or the first of a list of them; -1 if there is none.
int TokenId(JsonFields& fields, const std::string& name) {
  const json* value = fields.Find(name);
  if (value != nullptr && value->is_array() && !value->empty()) {
    value = &value->front();
  }
  if (value == nullptr) return -1;
  if (value->is_number_integer()) {
    const auto id = value->get<int64_t>();
    if (id >= -1 && id <= std::numeric_limits<int>::max()) {
      return static_cast<int>(id);
    }
  }
  fields.Fail(name, Shown(*value), "it must be a token id or a list of them");
  return -1;
}

// Fails unless the field is absent or `wanted`. With another value the runtime
// would compute something other than the model.
void Require(JsonFields& fields, const std::string& name, const json& wanted) {
  const json* value = fields.Find(name);
  if (value != nullptr && *value != wanted) {
    fields.Fail(name, Shown(*value),
                fmt::format("only {} is supported, use another checkpoint",
                            Shown(wanted)));
  }
}

// Reads an object `rope_scaling` or `rope_parameters` into `config`.
void ReadRopeObject(const ModelFamily& family, JsonFields rope,
                    ModelConfig& config) {
  config.rope_theta = Positive(rope, "rope_theta", config.rope_theta);
  if (family.rotates_part) {
    config.rotary_share =
        Positive(rope, "partial_rotary_factor", config.rotary_share);
  } else {
    Require(rope, "partial_rotary_factor", 1.0);
  }
  // "type" is the oldest spelling.
  const char* const field =
      rope.Find("rope_type") != nullptr ? "rope_type" : "type";
  const json* const type = rope.Find(field);
  RopeScaling& scaling = config.rope_scaling;
  if (type == nullptr || *type == "default") {
    scaling = {};
  } else if (*type == "linear") {
    scaling = {.type = RopeScaling::Type::kLinear,
               .factor = Positive(rope, "factor")};
  } else if (*type == "llama3") {
    scaling = {.type = RopeScaling::Type::kLlama3,
               .factor = Positive(rope, "factor"),
               .low = Positive(rope, "low_freq_factor"),
               .high = Positive(rope, "high_freq_factor"),
               .positions = Size(rope, "original_max_position_embeddings",
                                 kMaxPositions)};
    if (!(scaling.low < scaling.high)) {
      rope.Fail("low_freq_factor", fmt::to_string(scaling.low),
                "it must be below 'high_freq_factor'");
    }
  } else {
    rope.Fail(field, Shown(*type),
              "only default, linear and llama3 are supported, use another "
              "checkpoint");
  }
}

// Reads the rotary embedding in either spelling: `rope_theta` beside
// `rope_scaling`, or all of it inside `rope_parameters` (Transformers 5).
void ReadRope(const ModelFamily& family, JsonFields& fields,
              ModelConfig& config) {
  for (const char* name : {"rope_theta", "rotary_emb_base"}) {
    config.rope_theta = Positive(fields, name, config.rope_theta);
  }
  if (family.rotates_part) {
    for (const char* name : {"partial_rotary_factor", "rotary_pct"}) {
      config.rotary_share = Positive(fields, name, config.rotary_share);
    }
  }
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* object = fields.Find(name);
    if (object == nullptr) continue;
    if (!object->is_object()) {
      fields.Fail(name, Shown(*object), "it must be an object or null");
      return;
    }
    ReadRopeObject(family, fields.Inner(*object, fmt::format("'{}'", name)),
                   config);
  }
}

Activation ReadActivation(const ModelFamily& family, JsonFields& fields) {
  // A family with a field of its own has older configs with hidden_act.
  const std::string field = fields.Find(family.activation) != nullptr
                                ? family.activation
                                : "hidden_act";
  const json* const value = fields.Find(field);
  if (value == nullptr) return family.defaults.activation;
  for (const ActivationName& known : kActivations) {
    if (*value != known.name) continue;
    return known.activation == Activation::kGelu ? family.gelu
                                                 : known.activation;
  }
  std::string names;
  for (const ActivationName& known : kActivations) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  fields.Fail(field, Shown(*value),
              fmt::format("supported: {}; use another checkpoint", names));
  return family.defaults.activation;
}

// Reads what a block computes, where config.json may say it.
void ReadBlock(const ModelFamily& family, JsonFields& fields,
               ModelConfig& config) {
  config.activation = ReadActivation(family, fields);
  config.norm_epsilon = static_cast<float>(
      Positive(fields, family.norm_epsilon, config.norm_epsilon));
  if (!family.attention_bias.empty()) {
    config.qkv_bias = config.o_bias =
        Flag(fields, family.attention_bias, config.qkv_bias);
  }
  if (!family.mlp_bias.empty()) {
    config.mlp_bias = Flag(fields, family.mlp_bias, config.mlp_bias);
  }
  if (family.parallel_flag) {
    config.parallel_blocks =
        Flag(fields, "use_parallel_residual", config.parallel_blocks);
  }
  if (family.has_window && fields.Find("sliding_window") != nullptr) {
    config.window = Size(fields, "sliding_window", kMaxPositions);
  }
  if (!family.unsupported_flag.empty()) {
    Require(fields, family.unsupported_flag, false);
  }
}

// Checks the sizes that have to fit each other.
void CheckSizes(JsonFields& fields, const ModelConfig& config) {
  if (fields.Find("head_dim") == nullptr &&
      (config.hidden % config.heads != 0 || config.head_dim > kMaxHeadDim)) {
    fields.Fail("num_attention_heads", fmt::to_string(config.heads),
                fmt::format("it must divide 'hidden_size' {} where 'head_dim' "
                            "is absent, correct one of them",
                            config.hidden));
  }
  if (config.heads % config.kv_heads != 0) {
    fields.Fail("num_key_value_heads", fmt::to_string(config.kv_heads),
                fmt::format("it must divide 'num_attention_heads' {}, correct "
                            "one of them",
                            config.heads));
  }
  if (config.rotary_share > 1 || config.rotary_dim() == 0 ||
      config.rotary_dim() % 2 != 0) {
    fields.Fail("head_dim", fmt::to_string(config.head_dim),
                fmt::format("rotary embeddings need an even number of them, "
                            "and rotate the share {}",
                            config.rotary_share));
  }
  if (config.heads * config.head_dim > kMaxWidth) {
    fields.Fail(
        "num_attention_heads", fmt::to_string(config.heads),
        fmt::format("times 'head_dim' it must be at most {}", kMaxWidth));
  }
}

// One head's entry of a layer's 'rotary_pairs', or nothing if it is wrong.
std::optional<std::vector<uint16_t>> ReadPairs(const json& entry,
                                               size_t frequencies) {
  if (!entry.is_array() || entry.size() > frequencies) return std::nullopt;
  std::vector<uint16_t> pairs;
  for (const json& value : entry) {
    if (!value.is_number_unsigned() || value.get<size_t>() >= frequencies ||
        (!pairs.empty() && value.get<size_t>() <= pairs.back())) {
      return std::nullopt;
    }
    pairs.push_back(value.get<uint16_t>());
  }
  return pairs;
}

// Reads the rotary pairs of one layer into `dims`.
void ReadRotaryPairs(JsonFields& layer, const ModelConfig& config,
                     LayerDims& dims) {
  const json* const value = layer.Find("rotary_pairs");
  if (value == nullptr) return;
  const size_t frequencies = config.rotary_dim() / 2;
  if (!value->is_array() || value->size() != config.kv_heads) {
    layer.Fail("rotary_pairs", Shown(*value),
               fmt::format("it must be a list for each of the {} key heads",
                           config.kv_heads));
    return;
  }
  for (const json& entry : *value) {
    std::optional<std::vector<uint16_t>> pairs = ReadPairs(entry, frequencies);
    if (!pairs || (!dims.rotary_pairs.empty() &&
                   pairs->size() != dims.rotary_pairs.front().size())) {
      layer.Fail("rotary_pairs", Shown(entry),
                 fmt::format("each list must have as many ascending whole "
                             "numbers below {}, the frequencies of the model",
                             frequencies));
      return;
    }
    dims.rotary_pairs.push_back(*std::move(pairs));
  }
}

// Reads 'layer_dims', a list with the inner sizes of each layer.
void ReadLayerDims(JsonFields& fields, ModelConfig& config) {
  const json* const value = fields.Find("layer_dims");
  if (value == nullptr) return;
  if (!value->is_array() || value->size() != config.layers) {
    fields.Fail("layer_dims", Shown(*value),
                fmt::format("it must be a list with an object for each of the "
                            "{} layers",
                            config.layers));
    return;
  }
  for (size_t index = 0; index < value->size(); ++index) {
    const json& object = (*value)[index];
    if (!object.is_object()) {
      fields.Fail("layer_dims", Shown(object), "each entry must be an object");
      return;
    }
    JsonFields layer =
        fields.Inner(object, fmt::format("'layer_dims' of layer {}", index));
    LayerDims dims = {
        .qk = Size(layer, "qk_head_dim", config.head_dim, config.head_dim),
        .vo = Size(layer, "v_head_dim", config.head_dim, config.head_dim),
        .mlp = Size(layer, "intermediate_size", config.mlp, config.mlp)};
    ReadRotaryPairs(layer, config, dims);
    config.layer_dims.push_back(std::move(dims));
    const LayerDims& read = config.layer_dims.back();
    // A head may lack elements that are not rotated, but has no more of them
    // than the model's heads.
    const size_t rotated = config.rotated(index);
    const size_t unrotated = config.head_dim - config.rotary_dim();
    if (read.qk < rotated || read.qk - rotated > unrotated) {
      layer.Fail("qk_head_dim", fmt::to_string(read.qk),
                 fmt::format("with {} rotated elements it must be from {} to "
                             "{}, correct it or 'rotary_pairs'",
                             rotated, std::max<size_t>(rotated, 1),
                             rotated + unrotated));
    }
    if (!layer.ok()) return;
  }
}

Result<ModelConfig> ParseConfig(const json& object, const std::string& path) {
  FieldError error;
  JsonFields fields(object, "", &error);
  const json* type = fields.Find("model_type");
  const ModelFamily* const family = type != nullptr && type->is_string()
                                        ? FindFamily(type->get<std::string>())
                                        : nullptr;
  if (family == nullptr) {
    fields.Fail("model_type", type == nullptr ? "absent" : Shown(*type),
                fmt::format("supported families: {}; use a checkpoint of one "
                            "of them",
                            FamilyNames()));
    return StatusOf(path, error);
  }
  if (fields.Find("quantization_config") != nullptr) {
    fields.Fail("quantization_config", "set",
                "quantised weights are not supported, use the F32, F16 or BF16 "
                "checkpoint");
  }

  ModelConfig config = family->defaults;
  config.hidden = Size(fields, "hidden_size", kMaxWidth);
  config.layers = Size(fields, "num_hidden_layers", kMaxLayers);
  config.heads = Size(fields, "num_attention_heads", kMaxWidth);
  config.kv_heads = family->groups_heads ? Size(fields, "num_key_value_heads",
                                                kMaxWidth, config.heads)
                                         : config.heads;
  config.mlp = Size(fields, "intermediate_size", kMaxWidth);
  config.vocab = Size(fields, "vocab_size", kMaxVocab);
  config.max_positions =
      Size(fields, "max_position_embeddings", kMaxPositions, 2048);
  config.tied_embeddings =
      Flag(fields, "tie_word_embeddings", config.tied_embeddings);
  config.bos_id = TokenId(fields, "bos_token_id");
  config.eos_id = TokenId(fields, "eos_token_id");
  config.head_dim =
      Size(fields, "head_dim", kMaxHeadDim, config.hidden / config.heads);
  ReadBlock(*family, fields, config);
  ReadRope(*family, fields, config);
  if (error.empty()) CheckSizes(fields, config);
  if (error.empty()) ReadLayerDims(fields, config);
  RANKFORGE_RETURN_IF_ERROR(StatusOf(path, error));
  return config;
}

json LayerDimsToJson(const std::vector<LayerDims>& layers) {
  json list = json::array();
  for (const LayerDims& dims : layers) {
    json layer = {{"qk_head_dim", dims.qk},
                  {"v_head_dim", dims.vo},
                  {"intermediate_size", dims.mlp}};
    if (!dims.rotary_pairs.empty()) layer["rotary_pairs"] = dims.rotary_pairs;
    list.push_back(std::move(layer));
  }
  return list;
}

json RopeToJson(const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScaling::Type::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low},
              {"high_freq_factor", scaling.high},
              {"original_max_position_embeddings", scaling.positions}};
  }
  return nullptr;
}

std::string_view NameOf(Activation activation) {
  for (const ActivationName& known : kActivations) {
    if (known.activation == activation) return known.name;
  }
  return "";
}

}  // namespace

namespace {

Result<json> ParseObject(const std::string& text, const std::string& path) {
  json object;
  try {
    object = json::parse(text);
  } catch (const json::exception& error) {
    return Failed(fmt::format("{}: not JSON ({:.160}); download it again", path,
                              std::string_view(error.what())));
  }
  if (!object.is_object()) {
    return Failed(
        fmt::format("{}: not a JSON object; download it again", path));
  }
  return object;
}

Result<json> ReadConfig(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxConfigBytes));
  return ParseObject(text, path);
}

Status WriteConfig(const json& object, const std::string& directory) {
  return WriteFileAtomically(directory + "/config.json", object.dump(2) + "\n");
}

}  // namespace

Result<ModelConfig> LoadConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  RANKFORGE_ASSIGN_OR_RETURN(const json object, ReadConfig(path));
  return ParseConfig(object, path);
}

Result<ModelConfig> ParseConfig(const std::string& text,
                                const std::string& name) {
  RANKFORGE_ASSIGN_OR_RETURN(const json object, ParseObject(text, name));
  return ParseConfig(object, name);
}

Status SaveShrunkConfig(const ModelConfig& config, const std::string& source,
                        const std::string& modeling_class,
                        const std::string& directory) {
  RANKFORGE_ASSIGN_OR_RETURN(json object, ReadConfig(source + "/config.json"));
  object["intermediate_size"] = config.mlp;
  object.erase("layer_dims");
  object.erase("auto_map");
  if (!config.layer_dims.empty()) {
    object["layer_dims"] = LayerDimsToJson(config.layer_dims);
    object["auto_map"] = {{"AutoModelForCausalLM", modeling_class}};
  }
  return WriteConfig(object, directory);
}

Status SaveConfig(const ModelConfig& config, const std::string& directory) {
  const auto token = [](int id) { return id < 0 ? json() : json(id); };
  const ModelFamily& family = FamilyOf(config);
  json object = {{"architectures", {family.architecture}},
                 {"model_type", config.family},
                 {"hidden_act", NameOf(config.activation)},
                 {family.activation, NameOf(config.activation)},
                 {"hidden_size", config.hidden},
                 {"intermediate_size", config.mlp},
                 {"num_hidden_layers", config.layers},
                 {"num_attention_heads", config.heads},
                 {"head_dim", config.head_dim},
                 {"vocab_size", config.vocab},
                 {"max_position_embeddings", config.max_positions},
                 {family.norm_epsilon, config.norm_epsilon},
                 {"rope_theta", config.rope_theta},
                 {"rope_scaling", RopeToJson(config.rope_scaling)},
                 {"tie_word_embeddings", config.tied_embeddings},
                 {"bos_token_id", token(config.bos_id)},
                 {"eos_token_id", token(config.eos_id)},
                 {"torch_dtype", "bfloat16"}};
  if (family.groups_heads) object["num_key_value_heads"] = config.kv_heads;
  if (family.rotates_part) object["rotary_pct"] = config.rotary_share;
  if (!family.attention_bias.empty()) {
    object[family.attention_bias] = config.qkv_bias;
  }
  if (!family.mlp_bias.empty()) object[family.mlp_bias] = config.mlp_bias;
  if (family.parallel_flag) {
    object["use_parallel_residual"] = config.parallel_blocks;
  }
  if (family.has_window) {
    object["sliding_window"] = config.window > 0 ? json(config.window) : json();
  }
  if (!config.layer_dims.empty()) {
    object["layer_dims"] = LayerDimsToJson(config.layer_dims);
  }
  return WriteConfig(object, directory);
}

// Llama 3.1 and later are not here: they scale their rotary angles, and a line
// has no fields for rope_scaling. A preset must compute what the model does.
const std::vector<Preset>& Presets() {
  static const std::vector<Preset> presets = [] {
    struct Line {
      const char* name;
      size_t hidden, layers, heads, kv_heads, head_dim, mlp, vocab, positions;
      double rope_theta;
      int bos_id, eos_id;
    };
    // clang-format off
    constexpr Line kLines[] = {
        // name            hidden layers heads kv head_dim mlp    vocab   positions theta  bos     eos
        {"llama-2-7b",     4096,  32,    32,   32, 128,    11008, 32000,  4096,   10000,  1,      2},
        {"llama-2-13b",    5120,  40,    40,   40, 128,    13824, 32000,  4096,   10000,  1,      2},
        {"llama-3-8b",     4096,  32,    32,   8,  128,    14336, 128256, 8192,   500000, 128000, 128001},
        {"tinyllama-1.1b", 2048,  22,    32,   4,  64,     5632,  32000,  2048,   10000,  1,      2},
    };
    // clang-format on
    std::vector<Preset> result;
    for (const Line& line : kLines) {
      result.push_back({line.name,
                        {.family = "llama",
                         .hidden = line.hidden,
                         .layers = line.layers,
                         .heads = line.heads,
                         .kv_heads = line.kv_heads,
                         .head_dim = line.head_dim,
                         .mlp = line.mlp,
                         .vocab = line.vocab,
                         .max_positions = line.positions,
                         .norm_epsilon = 1e-5f,
                         .rope_theta = line.rope_theta,
                         .tied_embeddings = false,
                         .bos_id = line.bos_id,
                         .eos_id = line.eos_id}});
    }
    return result;
  }();
  return presets;
}

Result<ModelConfig> FindPreset(const std::string& name) {
  std::string names;
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return preset.config;
    if (!names.empty()) names += ", ";
    names += preset.name;
  }
  return UsageError(
      fmt::format("--preset: no preset '{}'; choose one of: {}", name, names));
}

}  // namespace rankforge
