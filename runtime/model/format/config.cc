#include "runtime/model/format/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/json_fields.h"
#include "runtime/model/format/config_fields.h"
#include "runtime/model/format/family.h"

namespace rankforge {

namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
// Bounds far above any model, so that no product of sizes can overflow.
constexpr size_t kMaxWidth = size_t{1} << 20;
constexpr size_t kMaxLayers = size_t{1} << 12;
constexpr size_t kMaxVocab = size_t{1} << 24;

// Activations as config.json calls them.
struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr ActivationName kActivationFunctions[] = {
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_python", Activation::kGelu},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_accurate", Activation::kGeluTanh},
    {"gelu_python_tanh", Activation::kGeluTanh},
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

// The activation that field `name` calls; `gelu` is what "gelu" means.
Activation ActivationIn(JsonFields& fields, const std::string& name,
                        Activation gelu) {
  const json& value = *fields.Find(name);
  std::string names;
  for (const ActivationName& known : kActivationFunctions) {
    if (value == known.name) {
      return known.name == "gelu" ? gelu : known.activation;
    }
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  fields.Fail(name, Shown(value),
              fmt::format("supported: {}; use another checkpoint", names));
  return gelu;
}

Activation ReadActivation(const ModelFamily& family, JsonFields& fields) {
  const Activation activation =
      fields.Has(family.activation)
          ? ActivationIn(fields, family.activation, family.gelu)
          : family.defaults.activation;
  // The other field says nothing in this family, and must not say otherwise.
  // Both forms of GELU pass, because old configs of Gemma mix their names.
  const auto kind = [](Activation function) {
    return function == Activation::kGelu ? Activation::kGeluTanh : function;
  };
  for (const char* other : {"hidden_act", "hidden_activation"}) {
    if (other == family.activation || !fields.Has(other)) continue;
    if (kind(ActivationIn(fields, other, family.gelu)) != kind(activation)) {
      fields.Fail(other, Shown(*fields.Find(other)),
                  fmt::format("this family follows '{}', which says something "
                              "else; make them agree",
                              family.activation));
    }
  }
  return activation;
}

// A cap: null says that there is none.
double ReadCap(JsonFields& fields, const std::string& name, double absent) {
  if (name.empty() || !fields.json().contains(name)) return absent;
  return fields.Has(name) ? ReadPositive(fields, name) : 0;
}

// Reads what a block computes, where config.json may say it.
void ReadBlock(const ModelFamily& family, JsonFields& fields,
               ModelConfig& config) {
  config.activation = ReadActivation(family, fields);
  config.norm_epsilon = static_cast<float>(
      ReadPositive(fields, family.norm_epsilon, config.norm_epsilon));
  if (!family.attention_bias.empty()) {
    config.qkv_bias = config.o_bias =
        ReadFlag(fields, family.attention_bias, config.qkv_bias);
  }
  if (!family.mlp_bias.empty()) {
    config.mlp_bias = ReadFlag(fields, family.mlp_bias, config.mlp_bias);
  }
  if (family.parallel_flag) {
    config.parallel_blocks =
        ReadFlag(fields, "use_parallel_residual", config.parallel_blocks);
  }
  if (!family.query_scalar.empty()) {
    config.query_scalar =
        ReadPositive(fields, family.query_scalar, config.query_scalar);
  }
  config.score_cap = ReadCap(fields, family.score_cap, config.score_cap);
  config.logit_cap = ReadCap(fields, family.logit_cap, config.logit_cap);
  RequireFlag(fields, "is_causal", true);
  for (const std::string& name : family.unsupported) {
    RequireFlag(fields, name, false);
  }
}

constexpr std::string_view kWindowed = "sliding_attention";
constexpr std::string_view kUnwindowed = "full_attention";

// Reads 'layer_types' into `windowed`, by layer. A family whose layers do not
// choose must not be told otherwise.
void ReadLayerTypes(JsonFields& fields, bool choose,
                    std::vector<bool>& windowed) {
  const json* const types = fields.Find("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || types->size() != windowed.size()) {
    fields.Fail("layer_types", Shown(*types),
                fmt::format("it must be a list with a name for each of the {} "
                            "layers",
                            windowed.size()));
    return;
  }
  for (size_t layer = 0; layer < windowed.size(); ++layer) {
    const json& type = (*types)[layer];
    if (type != kWindowed && type != kUnwindowed) {
      fields.Fail("layer_types", Shown(type),
                  fmt::format("supported: {}, {}; use another checkpoint",
                              kUnwindowed, kWindowed));
      return;
    }
    const bool window = type == kWindowed;
    if (!choose && window != windowed[layer]) {
      fields.Fail("layer_types", Shown(type),
                  fmt::format("layer {} of this family is {}, correct it",
                              layer, window ? kUnwindowed : kWindowed));
      return;
    }
    windowed[layer] = window;
  }
}

// Reads which layers have a window, and its size.
void ReadWindows(const ModelFamily& family, JsonFields& fields,
                 ModelConfig& config) {
  using Windows = ModelFamily::Windows;
  size_t window = 0;
  if (family.windows != Windows::kNone) {
    window =
        fields.json().contains("sliding_window") ? 0 : family.absent_window;
    if (fields.Has("sliding_window")) {
      window = ReadSize(fields, "sliding_window", kMaxPositions);
    }
  }
  size_t first = 0;  // layer that has a window
  if (family.windows == Windows::kUpper) {
    if (!ReadFlag(fields, "use_sliding_window", false)) window = 0;
    constexpr size_t kUsualFirst = 28;
    first = fields.Has("max_window_layers")
                ? fields.Count("max_window_layers", 0, kMaxLayers)
                : kUsualFirst;
  }
  size_t period = family.window_period;
  if (!family.window_period_field.empty()) {
    period = ReadSize(fields, family.window_period_field, kMaxLayers, period);
  }
  std::vector<bool> windowed(config.layers);
  for (size_t layer = 0; layer < config.layers; ++layer) {
    windowed[layer] = family.windows == Windows::kAlternate
                          ? (layer + 1) % period != 0
                          : window > 0 && layer >= first;
  }
  const bool choose = family.windows == Windows::kUpper ||
                      family.windows == Windows::kAlternate;
  ReadLayerTypes(fields, choose, windowed);
  const auto count = std::ranges::count(windowed, true);
  if (count > 0 && window == 0) {
    fields.Fail("sliding_window", "null or not used",
                fmt::format("{} layers are {}, give the size of their window",
                            count, kWindowed));
  }
  config.window = count > 0 ? window : 0;
  if (count > 0 && count < std::ssize(windowed)) config.windowed = windowed;
}

// Of quantized weights, 8-bit floats are read: the file has their scales. The
// activations, which other programs round as well, stay as they are.
void ReadQuantization(JsonFields& fields, ModelConfig& config) {
  const json* const object = fields.Find("quantization_config");
  if (object == nullptr) return;
  const auto says = [&](const char* name, const char* value) {
    return object->is_object() && object->contains(name) &&
           (*object)[name] == value;
  };
  const bool compressed = says("quant_method", "compressed-tensors") &&
                          says("format", "float-quantized");
  if (!says("quant_method", "fp8") && !compressed) {
    fields.Fail("quantization_config", Shown(*object),
                "of quantised weights, only 8-bit floats are supported "
                "('quant_method' fp8, or compressed-tensors with 'format' "
                "float-quantized), use the F32, F16 or BF16 checkpoint");
    return;
  }
  JsonFields settings = fields.Inner(*object, "'quantization_config'");
  if (settings.Has("kv_cache_scheme")) {
    settings.Fail("kv_cache_scheme", Shown(*settings.Find("kv_cache_scheme")),
                  "only null is supported, use another checkpoint");
  }
  if (!settings.Has("weight_block_size")) return;
  const json* const block = settings.Get(
      "weight_block_size", "a list of two sizes", [](const json& v) {
        return v.is_array() && v.size() == 2 &&
               std::ranges::all_of(v, [](const json& size) {
                 return size.is_number_unsigned() && size.get<size_t>() > 0 &&
                        size.get<size_t>() <= kMaxWidth;
               });
      });
  if (block != nullptr)
    config.float8_block = block->get<std::array<size_t, 2>>();
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
  if (config.qk_norm != QkNorm::kNone) {
    fields.Fail("layer_dims", "set",
                "this family normalises queries and keys, whose size stays");
    return;
  }
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
        .qk = ReadSize(layer, "qk_head_dim", config.head_dim, config.head_dim),
        .vo = ReadSize(layer, "v_head_dim", config.head_dim, config.head_dim),
        .mlp = ReadSize(layer, "intermediate_size", config.mlp, config.mlp)};
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

// Reads the sizes. Of what is absent, some is as in the family's defaults.
void ReadSizes(const ModelFamily& family, JsonFields& fields,
               ModelConfig& config) {
  config.hidden = ReadSize(fields, "hidden_size", kMaxWidth);
  config.layers = ReadSize(fields, "num_hidden_layers", kMaxLayers);
  config.heads = ReadSize(fields, "num_attention_heads", kMaxWidth);
  const auto absent = [&](const char* name, size_t by_default,
                          size_t otherwise) {
    // Null asks for what follows from the other sizes.
    return by_default > 0 && !fields.json().contains(name) ? by_default
                                                           : otherwise;
  };
  const char* const kv_heads = "num_key_value_heads";
  config.kv_heads =
      family.groups_heads
          ? ReadSize(fields, kv_heads, kMaxWidth,
                     absent(kv_heads, config.kv_heads, config.heads))
          : config.heads;
  config.mlp = ReadSize(fields, "intermediate_size", kMaxWidth);
  config.vocab = ReadSize(fields, "vocab_size", kMaxVocab);
  config.max_positions = ReadSize(fields, "max_position_embeddings",
                                  kMaxPositions, config.max_positions);
  config.head_dim = ReadSize(
      fields, "head_dim", kMaxHeadDim,
      absent("head_dim", config.head_dim, config.hidden / config.heads));
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
  ModelConfig config = family->defaults;
  ReadQuantization(fields, config);
  ReadSizes(*family, fields, config);
  config.tied_embeddings =
      ReadFlag(fields, "tie_word_embeddings", config.tied_embeddings);
  const std::vector<int> bos = ReadTokenIds(fields, "bos_token_id");
  config.bos_id = bos.empty() ? -1 : bos.front();
  config.eos_ids = ReadTokenIds(fields, "eos_token_id");
  ReadBlock(*family, fields, config);
  ReadRope(*family, fields, config);
  if (error.empty()) ReadWindows(*family, fields, config);
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
    case RopeScaling::Type::kDynamic:
      return {{"rope_type", "dynamic"}, {"factor", scaling.factor}};
    case RopeScaling::Type::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low},
              {"high_freq_factor", scaling.high},
              {"original_max_position_embeddings", scaling.positions}};
    case RopeScaling::Type::kYarn:
      return {{"rope_type", "yarn"},
              {"factor", scaling.factor},
              {"beta_slow", scaling.low},
              {"beta_fast", scaling.high},
              {"truncate", scaling.truncate},
              {"attention_factor", scaling.attention_factor},
              {"original_max_position_embeddings", scaling.positions}};
    case RopeScaling::Type::kLong:
      return {{"rope_type", "longrope"},
              {"factor", scaling.factor},
              {"short_factor", scaling.short_factors},
              {"long_factor", scaling.long_factors},
              {"attention_factor", scaling.attention_factor},
              {"original_max_position_embeddings", scaling.positions}};
  }
  return nullptr;
}

void WriteWindows(const ModelFamily& family, const ModelConfig& config,
                  json& object) {
  using Windows = ModelFamily::Windows;
  if (family.windows == Windows::kNone) return;
  object["sliding_window"] = config.window > 0 ? json(config.window) : json();
  if (family.windows == Windows::kAll) return;
  if (family.windows == Windows::kUpper) {
    object["use_sliding_window"] = config.window > 0;
  }
  json types = json::array();
  for (size_t layer = 0; layer < config.layers; ++layer) {
    types.push_back(config.window_of(layer) > 0 ? kWindowed : kUnwindowed);
  }
  object["layer_types"] = std::move(types);
  if (config.window_rope_theta) {
    object[family.window_rope_theta] = *config.window_rope_theta;
  }
}

std::string_view NameOf(Activation activation) {
  for (const ActivationName& known : kActivationFunctions) {
    if (known.activation == activation) return known.name;
  }
  return "";
}

}  // namespace

namespace {

Result<json> ParseObject(const std::string& text, const std::string& path) {
  Result<json> object = ParseJson(text, {.unique_keys = false});
  if (!object.ok()) {
    return Failed(fmt::format("{}: {}; download it again", path,
                              object.status().message()));
  }
  if (!object->is_object()) {
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
  RANKFORGE_ASSIGN_OR_RETURN(ModelConfig config, ParseConfig(object, path));
  const std::string generation = directory + "/generation_config.json";
  if (!FileExists(generation)) return config;
  RANKFORGE_ASSIGN_OR_RETURN(const json settings, ReadConfig(generation));
  FieldError error;
  JsonFields fields(settings, "", &error);
  if (fields.Has("eos_token_id")) {
    config.eos_ids = ReadTokenIds(fields, "eos_token_id");
  }
  RANKFORGE_RETURN_IF_ERROR(StatusOf(generation, error));
  return config;
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
  json object = {
      {"architectures", {family.architecture}},
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
      {family.rope_theta, config.rope_theta},
      {"rope_scaling", RopeToJson(config.rope_scaling)},
      {"tie_word_embeddings", config.tied_embeddings},
      {"bos_token_id", token(config.bos_id)},
      {"eos_token_id", config.eos_ids.size() == 1 ? json(config.eos_ids.front())
                                                  : json(config.eos_ids)},
      {"torch_dtype", "bfloat16"}};
  if (family.groups_heads) object["num_key_value_heads"] = config.kv_heads;
  if (!family.rotary_share.empty()) {
    object[family.rotary_share] = config.rotary_share;
  }
  if (!family.attention_bias.empty()) {
    object[family.attention_bias] = config.qkv_bias;
  }
  if (!family.mlp_bias.empty()) object[family.mlp_bias] = config.mlp_bias;
  if (family.parallel_flag) {
    object["use_parallel_residual"] = config.parallel_blocks;
  }
  if (family.original_positions && config.rope_scaling.positions > 0) {
    object["original_max_position_embeddings"] = config.rope_scaling.positions;
  }
  WriteWindows(family, config, object);
  if (!family.query_scalar.empty()) {
    object[family.query_scalar] = config.query_scalar;
  }
  const auto write_cap = [&](const std::string& name, double cap) {
    if (!name.empty()) object[name] = cap > 0 ? json(cap) : json();
  };
  write_cap(family.score_cap, config.score_cap);
  write_cap(family.logit_cap, config.logit_cap);
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
                         .eos_ids = {line.eos_id}}});
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
