// config.json in both spellings, and what is wrong with the others.
#include "runtime/model/format/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/numbers/float8.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/safetensors.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

using nlohmann::json;

json Complete() {
  return {{"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", 64},
          {"intermediate_size", 160},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"vocab_size", 100},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 20000.0},
          {"rope_scaling", nullptr},
          {"bos_token_id", 1},
          {"eos_token_id", {2, 3}},
          {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"}};
}

class ConfigTest : public testing::Test {
 protected:
  Result<ModelConfig> Load(const json& config) {
    WriteAll(folder_.File("config.json"), config.dump());
    return LoadConfig(folder_.path());
  }
  // Loading must fail with a line that names the file, the field and, where it
  // is short, the value.
  void ExpectError(const std::string& field, const json& value) {
    json config = Complete();
    config[field] = value;
    const auto loaded = Load(config);
    ASSERT_FALSE(loaded.ok()) << field << " = " << value;
    const std::string& message = loaded.status().message();
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    EXPECT_NE(message.find("'" + field + "'"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    if (value.is_string() && value.get<std::string>().size() < 50) {
      EXPECT_NE(message.find(value.get<std::string>()), std::string::npos)
          << message;
    }
  }

  void ExpectRopeError(const json& rope, const std::string& field) {
    json config = Complete();
    config["rope_scaling"] = rope;
    const auto loaded = Load(config);
    ASSERT_FALSE(loaded.ok()) << rope;
    const std::string& message = loaded.status().message();
    EXPECT_NE(message.find("rope_scaling"), std::string::npos) << message;
    EXPECT_NE(message.find("'" + field + "'"), std::string::npos) << message;
  }

  TemporaryFolder folder_;
};

TEST_F(ConfigTest, OldSpelling) {
  const auto config = Load(Complete());
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->family, "llama");
  EXPECT_EQ(config->hidden, 64);
  EXPECT_EQ(config->mlp, 160);
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->heads, 8);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->vocab, 100);
  EXPECT_EQ(config->max_positions, 128);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->rope_theta, 20000);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_EQ(config->eos_ids, (std::vector<int>{2, 3}));
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->BlockMacs(0), 64 * 96 + 64 * 64 + 3 * 64 * 160);
}

TEST_F(ConfigTest, NewSpelling) {
  json config = Complete();
  config.erase("rope_theta");
  config.erase("rope_scaling");
  config.erase("torch_dtype");
  config["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
  config["dtype"] = "float16";
  config["head_dim"] = 16;
  const auto loaded = Load(config);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->rope_theta, 5e5);
  EXPECT_EQ(loaded->head_dim, 16);
  EXPECT_EQ(loaded->q_rows(0), 128);
}

TEST_F(ConfigTest, AbsentFieldsHaveTheirDefaults) {
  json config = Complete();
  for (const char* field :
       {"num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
        "bos_token_id", "eos_token_id", "tie_word_embeddings", "hidden_act"}) {
    config.erase(field);
  }
  const auto loaded = Load(config);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->kv_heads, 8);
  EXPECT_EQ(loaded->norm_epsilon, 1e-6f);
  EXPECT_EQ(loaded->rope_theta, 10000);
  EXPECT_TRUE(loaded->eos_ids.empty());
  EXPECT_FALSE(loaded->tied_embeddings);
}

TEST_F(ConfigTest, UnsupportedModels) {
  ExpectError("model_type", "mixtral");
  ExpectError("model_type", nullptr);
  ExpectError("model_type", 7);
  ExpectError("hidden_act", "relu");
  ExpectError("attention_bias", 1);
  ExpectError("mlp_bias", "no");
  ExpectError("quantization_config", {{"bits", 4}});
  ExpectError("quantization_config", {{"quant_method", "awq"}});
  ExpectError("quantization_config", {{"quant_method", "compressed-tensors"},
                                      {"format", "pack-quantized"}});
  ExpectError("quantization_config", 8);
  for (const json& rope :
       {json{{"rope_type", "mrope"}}, json{{"type", "su"}},
        json{{"rope_type", 3}}, json{{"partial_rotary_factor", 0.25}},
        json{{"full_attention", {{"rope_theta", 7}}}}}) {
    ExpectRopeError(rope, rope.begin().key());
  }
}

TEST_F(ConfigTest, ScaledRotaryAngles) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  json config = Complete();
  config["rope_scaling"] = llama3;
  const auto loaded = Load(config);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->rope_scaling,
            (RopeScaling{.type = RopeScaling::Type::kLlama3,
                         .factor = 8,
                         .low = 1,
                         .high = 4,
                         .positions = 8192}));
  EXPECT_EQ(loaded->rope_theta, 20000);
  for (const auto& [field, value] : llama3.items()) {
    if (field == "rope_type") continue;
    json changed = llama3;
    changed.erase(field);
    // Lengths have others to follow from.
    if (field != "original_max_position_embeddings") {
      ExpectRopeError(changed, field);
    }
    for (const json& wrong : {json(0), json(-1), json("x"), json(true)}) {
      changed[field] = wrong;
      ExpectRopeError(changed, field);
    }
  }
  json crossed = llama3;
  crossed["low_freq_factor"] = 4.0;
  ExpectRopeError(crossed, "low_freq_factor");
  ExpectRopeError({{"type", "linear"}}, "factor");
  ExpectRopeError({{"type", "dynamic"}}, "factor");
}

// What Transformers 5.24 makes of rope settings in several places.
TEST_F(ConfigTest, WhereRotarySettingsStand) {
  json config = Complete();
  const auto load = [&] {
    const auto loaded = Load(config);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    return *loaded;
  };
  // rope_scaling takes the place of rope_parameters, with its theta.
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 77}};
  EXPECT_EQ(load().rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(load().rope_theta, 20000);
  config["rope_scaling"] = json::object();
  EXPECT_EQ(load().rope_scaling, RopeScaling());
  EXPECT_EQ(load().rope_theta, 77);
  // A length beside the object wins, and max_position_embeddings is the last.
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}};
  EXPECT_EQ(load().rope_scaling.positions, 128);
  config["rope_scaling"]["original_max_position_embeddings"] = 32;
  EXPECT_EQ(load().rope_scaling.positions, 32);
  config["original_max_position_embeddings"] = 64;
  EXPECT_EQ(load().rope_scaling.positions, 64);
  // Fields of another family must agree.
  config["rotary_emb_base"] = 20000;
  EXPECT_EQ(load().rope_theta, 20000);
  ExpectError("rotary_emb_base", 10000);
  ExpectError("rotary_pct", 0.25);
}

TEST_F(ConfigTest, YarnAndLongrope) {
  json config = Complete();
  const auto scaling = [&](const json& rope) {
    config["rope_scaling"] = rope;
    const auto loaded = Load(config);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    return loaded->rope_scaling;
  };
  json yarn = {{"rope_type", "yarn"},
               {"factor", 4},
               {"original_max_position_embeddings", 32}};
  EXPECT_EQ(scaling(yarn).low, 1);
  EXPECT_EQ(scaling(yarn).high, 32);
  EXPECT_TRUE(scaling(yarn).truncate);
  EXPECT_NEAR(scaling(yarn).attention_factor, 1.1386294361119891, 1e-12);
  yarn["mscale"] = 0.707;
  EXPECT_NEAR(scaling(yarn).attention_factor, 1.1386294361119891, 1e-12);
  yarn["mscale_all_dim"] = 1.0;
  EXPECT_NEAR(scaling(yarn).attention_factor, 0.964326914892074, 1e-12);
  yarn["attention_factor"] = 1.5;
  EXPECT_EQ(scaling(yarn).attention_factor, 1.5);
  yarn["factor"] = nullptr;  // then the ratio of the lengths
  EXPECT_EQ(scaling(yarn).factor, 4);
  yarn["beta_slow"] = 33;
  ExpectRopeError(yarn, "beta_slow");

  json longrope = {{"rope_type", "longrope"},
                   {"original_max_position_embeddings", 32},
                   {"short_factor", {1, 1, 1.5, 2}},
                   {"long_factor", {1, 2, 4, 8}}};
  EXPECT_EQ(scaling(longrope).long_factors, (std::vector<double>{1, 2, 4, 8}));
  EXPECT_NEAR(scaling(longrope).attention_factor, 1.1832159566199232, 1e-12);
  for (const json& wrong : {json(nullptr), json{1, 2, 3}, json{1, 2, 3, 0},
                            json{1, 2, 3, "4"}, json(4)}) {
    json changed = longrope;
    changed["long_factor"] = wrong;
    ExpectRopeError(changed, "long_factor");
  }
  longrope["original_max_position_embeddings"] = 1;
  ExpectRopeError(longrope, "original_max_position_embeddings");
}

// generation_config.json wins where it has ids, as for Transformers' generate.
TEST_F(ConfigTest, TokensThatEndGeneration) {
  const auto ids = [&](const std::string& generation) {
    WriteAll(folder_.File("generation_config.json"), generation);
    const auto loaded = Load(Complete());
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    return loaded->eos_ids;
  };
  EXPECT_EQ(ids("{}"), (std::vector<int>{2, 3}));
  EXPECT_EQ(ids(R"({"eos_token_id": null})"), (std::vector<int>{2, 3}));
  EXPECT_EQ(ids(R"({"eos_token_id": 7})"), (std::vector<int>{7}));
  EXPECT_EQ(ids(R"({"eos_token_id": [7, 9]})"), (std::vector<int>{7, 9}));
  for (const char* wrong :
       {"[]", "{", R"({"eos_token_id": "7"})", R"({"eos_token_id": [1.5]})"}) {
    WriteAll(folder_.File("generation_config.json"), wrong);
    const auto loaded = Load(Complete());
    ASSERT_FALSE(loaded.ok()) << wrong;
    EXPECT_NE(loaded.status().message().find("generation_config.json"),
              std::string::npos);
  }
}

TEST_F(ConfigTest, Windows) {
  const auto windows = [&](const char* family, const json& fields) {
    json config = Complete();
    config["model_type"] = family;
    config["num_hidden_layers"] = 6;
    config.erase("hidden_act");
    config.update(fields);
    const auto loaded = Load(config);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    std::vector<size_t> result;
    for (size_t i = 0; i < 6; ++i) result.push_back(loaded->window_of(i));
    return result;
  };
  using List = std::vector<size_t>;
  const json none = json::object();
  EXPECT_EQ(windows("llama", none), List(6, 0));
  EXPECT_EQ(windows("mistral", none), List(6, 4096));
  EXPECT_EQ(windows("mistral", {{"sliding_window", nullptr}}), List(6, 0));
  EXPECT_EQ(windows("phi3", none), List(6, 0));
  EXPECT_EQ(windows("phi3", {{"sliding_window", 9}}), List(6, 9));
  const json upper = {{"use_sliding_window", true},
                      {"sliding_window", 9},
                      {"max_window_layers", 4}};
  EXPECT_EQ(windows("qwen2", upper), (List{0, 0, 0, 0, 9, 9}));
  EXPECT_EQ(windows("qwen2", {{"use_sliding_window", true}}), List(6, 0));
  EXPECT_EQ(windows("gemma2", {{"sliding_window", 9}}),
            (List{9, 0, 9, 0, 9, 0}));
  EXPECT_EQ(windows("gemma3_text", {{"sliding_window", 9}}),
            (List{9, 9, 9, 9, 9, 0}));
  EXPECT_EQ(windows("gemma3_text",
                    {{"sliding_window", 9}, {"sliding_window_pattern", 3}}),
            (List{9, 9, 0, 9, 9, 0}));
  json types(6, "full_attention");
  EXPECT_EQ(windows("llama", {{"layer_types", types}}), List(6, 0));
  types[1] = "sliding_attention";
  EXPECT_EQ(windows("gemma2", {{"layer_types", types}}),
            (List{0, 4096, 0, 0, 0, 0}));
  EXPECT_EQ(windows("qwen3", {{"layer_types", types},
                              {"use_sliding_window", true},
                              {"sliding_window", 9}}),
            (List{0, 9, 0, 0, 0, 0}));
}

// Fields of one family, and what another makes of them.
TEST_F(ConfigTest, Families) {
  const auto load = [&](const char* family, const json& fields) {
    json config = Complete();
    config["model_type"] = family;
    config.erase("hidden_act");
    config.update(fields);
    const auto loaded = Load(config);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    return *loaded;
  };
  EXPECT_TRUE(load("llama", {{"attention_bias", true}}).o_bias);
  EXPECT_FALSE(load("llama", {{"attention_bias", true}}).mlp_bias);
  EXPECT_TRUE(load("llama", {{"mlp_bias", true}}).mlp_bias);
  EXPECT_TRUE(
      load("qwen2", {{"use_sliding_window", false}, {"sliding_window", 4096}})
          .qkv_bias);
  EXPECT_FALSE(load("qwen2", json::object()).o_bias);
  EXPECT_EQ(load("mistral", {{"sliding_window", 32}}).window, 32);
  EXPECT_EQ(load("mistral", {{"sliding_window", nullptr}}).window, 0);
  EXPECT_EQ(load("llama", {{"hidden_act", "gelu"}}).activation,
            Activation::kGelu);
  EXPECT_EQ(load("gemma", {{"hidden_act", "gelu"}}).activation,
            Activation::kGeluTanh);
  EXPECT_EQ(load("gemma", {{"hidden_act", "gelu"},
                           {"hidden_activation", "gelu_pytorch_tanh"}})
                .activation,
            Activation::kGeluTanh);
  EXPECT_EQ(load("gemma2", {{"hidden_activation", "gelu"}}).activation,
            Activation::kGelu);
  EXPECT_EQ(load("llama", {{"hidden_act", "swish"}}).activation,
            Activation::kSilu);
  // Where Transformers has a number for what is absent.
  json absent = Complete();
  absent["model_type"] = "mistral";
  absent["num_attention_heads"] = 16;
  absent.erase("num_key_value_heads");
  EXPECT_EQ(Load(absent)->kv_heads, 8);
  absent["num_key_value_heads"] = nullptr;
  EXPECT_EQ(Load(absent)->kv_heads, 16);
  EXPECT_EQ(load("gemma", json::object()).head_dim, 256);
  EXPECT_EQ(load("gemma2", json::object()).score_cap, 50);
  EXPECT_EQ(load("gemma2", {{"attn_logit_softcapping", nullptr}}).score_cap, 0);
  EXPECT_EQ(load("gemma3_text", json::object()).window_rope_theta, 1e4);
  const ModelConfig gemma3 =
      load("gemma3_text",
           {{"rope_theta", nullptr},
            {"rope_parameters",
             {{"full_attention",
               {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 3e5}}},
              {"sliding_attention",
               {{"rope_type", "default"}, {"rope_theta", 500}}}}}});
  EXPECT_EQ(gemma3.rope_theta, 3e5);
  EXPECT_EQ(gemma3.rope_scaling.factor, 8);
  EXPECT_EQ(gemma3.window_rope_theta, 500);
  const ModelConfig neox = load("gpt_neox", {{"rotary_pct", 0.25},
                                             {"rotary_emb_base", 500},
                                             {"rope_theta", nullptr},
                                             {"layer_norm_eps", 1e-3},
                                             {"head_dim", 16},
                                             {"use_parallel_residual", false}});
  EXPECT_EQ(neox.rotary_dim(), 4);
  EXPECT_EQ(neox.rope_theta, 500);
  EXPECT_EQ(neox.norm_epsilon, 1e-3f);
  EXPECT_EQ(neox.kv_heads, neox.heads);
  EXPECT_FALSE(neox.parallel_blocks);
  EXPECT_EQ(neox.BlockMacs(0), 64 * (3 * 128) + 128 * 64 + 2 * 64 * 160);

  const auto expect_error = [&](const char* family, const json& fields,
                                const std::string& field) {
    json config = Complete();
    config["model_type"] = family;
    config.erase("hidden_act");
    config.erase("rope_theta");
    config.update(fields);
    const auto loaded = Load(config);
    ASSERT_FALSE(loaded.ok()) << fields;
    EXPECT_NE(loaded.status().message().find("'" + field + "'"),
              std::string::npos)
        << loaded.status().message();
  };
  expect_error("mistral", {{"sliding_window", 0}}, "sliding_window");
  expect_error("llama", {{"is_causal", false}}, "is_causal");
  const json sliding = {"sliding_attention", "full_attention"};
  for (const char* family : {"llama", "mistral", "qwen2", "gpt_neox"}) {
    expect_error(
        family, {{"layer_types", sliding}},
        family == std::string("qwen2") ? "sliding_window" : "layer_types");
  }
  for (const json& types :
       {json{"full_attention"}, json(3), json{"full_attention", "chunked"}}) {
    expect_error("gemma2", {{"layer_types", types}}, "layer_types");
  }
  expect_error("gemma2", {{"sliding_window", nullptr}}, "sliding_window");
  expect_error("gemma", {{"hidden_act", "gelu"}, {"hidden_activation", "silu"}},
               "hidden_activation");
  expect_error("gemma3_text", {{"attn_logit_softcapping", 50}},
               "attn_logit_softcapping");
  expect_error("gemma3_text", {{"rope_parameters", {{"rope_theta", 5}}}},
               "rope_theta");
  expect_error("gpt_neox", {{"rope_theta", 500}}, "rope_theta");
  expect_error("gemma", {{"use_bidirectional_attention", true}},
               "use_bidirectional_attention");
  expect_error("gpt_neox", {{"use_parallel_residual", 1}},
               "use_parallel_residual");
  expect_error("gpt_neox", {{"layer_norm_eps", 0}}, "layer_norm_eps");
  for (const json& share : {json(0), json(-0.5), json("x")}) {
    expect_error("gpt_neox", {{"rotary_pct", share}}, "rotary_pct");
  }
  // A share of 8 dimensions that is more than all, none, or odd.
  for (const double share : {1.5, 1e300, 0.1, 0.4}) {
    expect_error("gpt_neox", {{"rotary_pct", share}}, "head_dim");
  }
}

TEST_F(ConfigTest, HostileValues) {
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "vocab_size", "head_dim",
        "max_position_embeddings"}) {
    for (const json& value :
         {json(0), json(-1), json(1.5), json("64"), json(json::array()),
          json(true), json(uint64_t{1} << 63), json(1e300), json::object()}) {
      ExpectError(field, value);
    }
  }
  for (const json& value : {json(0), json(-1e-6), json("x"), json(false)}) {
    ExpectError("rms_norm_eps", value);
    ExpectError("rope_theta", value);
  }
  ExpectError("tie_word_embeddings", "yes");
  ExpectError("eos_token_id", "2");
  ExpectError("bos_token_id", uint64_t{1} << 40);
  ExpectError("rope_parameters", json::array({1}));
  ExpectError("num_key_value_heads", 3);
  ExpectError("head_dim", 7);
  ExpectError("num_attention_heads", 7);
  json missing = Complete();
  missing.erase("hidden_size");
  EXPECT_FALSE(Load(missing).ok());
}

TEST_F(ConfigTest, NoConfig) {
  EXPECT_FALSE(LoadConfig(folder_.path()).ok());
  for (const char* text : {"", "{", "[]", "null", "{\"model_type\": \"ll"}) {
    WriteAll(folder_.File("config.json"), text);
    const auto loaded = LoadConfig(folder_.path());
    ASSERT_FALSE(loaded.ok()) << text;
    EXPECT_NE(loaded.status().message().find("config.json"), std::string::npos);
  }
}

TEST_F(ConfigTest, SavedPresetsAreReadBack) {
  for (const Preset& preset : Presets()) {
    ASSERT_TRUE(SaveConfig(preset.config, folder_.path()).ok());
    const auto loaded = LoadConfig(folder_.path());
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    EXPECT_EQ(*loaded, preset.config) << preset.name;
    EXPECT_EQ(*FindPreset(preset.name), preset.config);
  }
  const auto unknown = FindPreset("gpt-5");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.status().code(), StatusCode::kUsage);
  EXPECT_NE(unknown.status().message().find("tinyllama-1.1b"),
            std::string::npos);
}

// Every family with every scaling, some windows and caps.
TEST_F(ConfigTest, SavedConfigsAreReadBack) {
  const std::vector<double> factors = {1, 1.5, 2, 4, 4, 4, 4, 8};
  using Type = RopeScaling::Type;
  for (const ModelFamily& family : Families()) {
    ModelConfig config = family.defaults;
    config.hidden = 64;
    config.layers = 3;
    config.heads = 4;
    config.kv_heads = family.groups_heads ? 2 : 4;
    config.head_dim = 16;
    config.rotary_share = 1;
    config.mlp = 96;
    config.vocab = 100;
    config.bos_id = 1;
    config.eos_ids = {2, 3};
    if (!family.query_scalar.empty()) config.query_scalar = 20;
    if (!family.logit_cap.empty()) config.logit_cap = 3;
    if (family.windows != ModelFamily::Windows::kNone) config.window = 7;
    if (family.windows == ModelFamily::Windows::kAlternate) {
      config.windowed = {false, true, false};
    }
    for (const RopeScaling& scaling :
         {RopeScaling{}, RopeScaling{.type = Type::kLinear, .factor = 2},
          RopeScaling{.type = Type::kDynamic, .factor = 3},
          RopeScaling{.type = Type::kLlama3,
          .factor = 8,
          .low = 1,
          .high = 2,
          .positions = 32},
          RopeScaling{.type = Type::kYarn,
          .factor = 4,
          .low = 2,
          .high = 16,
          .positions = 32,
          .truncate = false,
          .attention_factor = 1.25},
          RopeScaling{.type = Type::kLong,
          .factor = 4,
          .positions = 32,
          .attention_factor = 1.25,
          .short_factors = factors,
          .long_factors = factors}}) {
      // There, that name is one of longrope.
      if (scaling.type == Type::kYarn && family.longrope_names.size() > 1) {
        continue;
      }
      config.rope_scaling = scaling;
      ASSERT_TRUE(SaveConfig(config, folder_.path()).ok());
      const auto loaded = LoadConfig(folder_.path());
      ASSERT_TRUE(loaded.ok()) << loaded.status().message();
      EXPECT_EQ(*loaded, config)
          << config.family << " " << static_cast<int>(scaling.type);
    }
  }
}

// Sharded checkpoints, from tensors of a small synthetic one.
class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteSyntheticCheckpoint(TinyConfig(), 1, folder_.path()).ok());
  }
  // Splits model.safetensors into `count` shards with an index.
  json Shard(size_t count) {
    const auto whole = SafetensorsFile::Open(folder_.File("model.safetensors"));
    EXPECT_TRUE(whole.ok());
    json index = {{"metadata", {{"total_size", 1}}}};
    for (size_t shard = 0; shard < count; ++shard) {
      const std::string name =
          "model-" + std::to_string(shard) + ".safetensors";
      std::vector<SafetensorsWriter::Tensor> tensors;
      size_t i = 0;
      for (const auto& [tensor, info] : whole->tensors()) {
        if (i++ % count != shard) continue;
        tensors.push_back({tensor, info.dtype, info.shape});
        index["weight_map"][tensor] = name;
      }
      auto writer = SafetensorsWriter::Create(folder_.File(name), tensors, {});
      EXPECT_TRUE(writer.ok());
      for (const auto& tensor : tensors) {
        const auto bytes =
            whole->Bytes(tensor.name, tensor.dtype, tensor.shape);
        EXPECT_TRUE(writer->Append(*bytes).ok());
      }
      EXPECT_TRUE(writer->Commit().ok());
    }
    std::filesystem::remove(folder_.File("model.safetensors"));
    WriteIndex(index);
    return index;
  }
  void WriteIndex(const json& index) {
    WriteAll(folder_.File("model.safetensors.index.json"), index.dump());
  }
  void ExpectError(const std::string& part) {
    const auto opened = Checkpoint::Open(folder_.path());
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.status().message().find(part), std::string::npos)
        << opened.status().message();
  }

  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, ShardsGiveTheSameLogits) {
  const std::vector<int> ids = {1, 2, 3};
  std::vector<float> whole;
  {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    Model model = MakeModel(checkpoint->config(), *checkpoint);
    whole = DecodeLogits(model, ids);
  }
  Shard(3);
  const auto sharded = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(sharded.ok()) << sharded.status().message();
  Model model = MakeModel(sharded->config(), *sharded);
  EXPECT_EQ(DecodeLogits(model, ids), whole);
}

TEST_F(CheckpointTest, WrongIndexes) {
  const json index = Shard(2);
  json changed = index;
  changed["weight_map"]["model.norm.weight"] = "../model-0.safetensors";
  WriteIndex(changed);
  ExpectError("../model-0.safetensors");
  changed["weight_map"]["model.norm.weight"] = 7;
  WriteIndex(changed);
  ExpectError("weight_map");
  changed["weight_map"]["model.norm.weight"] = "model-9.safetensors";
  WriteIndex(changed);
  ExpectError("model-9.safetensors");
  changed = index;
  changed["weight_map"]["no.such.tensor"] = "model-1.safetensors";
  WriteIndex(changed);
  ExpectError("no.such.tensor");
  WriteIndex(json::array());
  ExpectError("weight_map");
  WriteIndex({{"weight_map", json::object()}});
  ExpectError("weight_map");
  // The same tensor in two shards, of which the index names one for all but the
  // last tensor.
  std::filesystem::copy_file(folder_.File("model-0.safetensors"),
                             folder_.File("model-2.safetensors"));
  changed = index;
  for (auto& [tensor, shard] : changed["weight_map"].items()) {
    if (shard == "model-0.safetensors") {
      shard = "model-2.safetensors";
      break;
    }
  }
  WriteIndex(changed);
  EXPECT_TRUE(Checkpoint::Open(folder_.path()).ok());
  std::string unnamed;
  for (const auto& [tensor, shard] : changed["weight_map"].items()) {
    if (shard == "model-0.safetensors") unnamed = tensor;
  }
  changed["weight_map"].erase(unnamed);
  WriteIndex(changed);
  ExpectError("stands in");
  std::filesystem::remove(folder_.File("model.safetensors.index.json"));
  ExpectError("neither model.safetensors nor");
}

// Edits of the tensors of a file, and what the model of the result computes.
class EditedCheckpointTest : public CheckpointTest {
 protected:
  struct Tensor {
    std::string dtype;
    std::vector<size_t> shape;
    std::string bytes;
  };
  using Tensors = std::map<std::string, Tensor>;

  Tensors Read() {
    const auto file = SafetensorsFile::Open(folder_.File("model.safetensors"));
    EXPECT_TRUE(file.ok());
    Tensors tensors;
    for (const auto& [name, info] : file->tensors()) {
      const auto bytes = *file->Bytes(name, info.dtype, info.shape);
      tensors[name] = {
          info.dtype,
          info.shape,
          {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
    }
    return tensors;
  }
  // As text, because the writer knows no dtypes of its own invention.
  void Write(const Tensors& tensors, const json& metadata = json()) {
    json header = {{"__metadata__", metadata}};
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      header[name] = {
          {"dtype", tensor.dtype},
          {"shape", tensor.shape},
          {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    const uint64_t size = text.size();
    WriteAll(folder_.File("model.safetensors"),
             std::string(reinterpret_cast<const char*>(&size), sizeof(size)) +
                 text + data);
  }
  void EditConfig(const json& fields) {
    json config = json::parse(ReadAll(folder_.File("config.json")));
    config.update(fields);
    WriteAll(folder_.File("config.json"), config.dump());
  }
  std::vector<float> Logits() {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    if (!checkpoint.ok()) return {};
    notes_ = checkpoint->notes();
    Model model = MakeModel(checkpoint->config(), *checkpoint);
    return DecodeLogits(model, std::vector<int>{1, 2, 3});
  }

  std::vector<std::string> notes_;
};

TEST_F(EditedCheckpointTest, NamesOfTheBaseModel) {
  const std::vector<float> expected = Logits();
  Tensors base;
  for (const auto& [name, tensor] : Read()) {
    base[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  }
  Write(base);
  EXPECT_EQ(Logits(), expected);
}

TEST_F(EditedCheckpointTest, UnreadTensorsMayBeOfAnyDtype) {
  const std::vector<float> expected = Logits();
  Tensors tensors = Read();
  tensors["extra.scales"] = {"F8_E8M0", {3}, "abc"};
  tensors["extra.complex"] = {"C64", {1}, "12345678"};
  Write(tensors);
  EXPECT_EQ(Logits(), expected);
  tensors["model.norm.weight"].dtype = "C64";
  Write(tensors);
  const auto opened = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(opened.ok());
  const auto vector = opened->Vector("model.norm.weight", 96);
  ASSERT_FALSE(vector.ok());
  EXPECT_NE(vector.status().message().find("has dtype C64"), std::string::npos)
      << vector.status().message();
}

// As Transformers 5.24: a stored lm_head is used, and an absent embedding is
// the lm_head.
TEST_F(EditedCheckpointTest, TiedEmbeddingsWithAnLmHead) {
  const std::vector<float> expected = Logits();
  EditConfig({{"tie_word_embeddings", true}});
  EXPECT_EQ(Logits(), expected);
  ASSERT_EQ(notes_.size(), 1);
  EXPECT_NE(notes_[0].find("'tie_word_embeddings'"), std::string::npos);
  EXPECT_NE(notes_[0].find("'lm_head.weight'"), std::string::npos);

  Tensors tensors = Read();
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  Write(tensors);
  const std::vector<float> same = Logits();
  EXPECT_TRUE(notes_.empty());
  EXPECT_NE(same, expected);
  tensors.erase("model.embed_tokens.weight");
  Write(tensors);
  EXPECT_EQ(Logits(), same);
  tensors["model.embed_tokens.weight"] = tensors["lm_head.weight"];
  tensors.erase("lm_head.weight");
  Write(tensors);
  EXPECT_EQ(Logits(), same);
}

// Every matrix as 8-bit floats times scales is the matrix of what they widen
// to.
TEST_F(EditedCheckpointTest, EightBitFloats) {
  EditConfig({{"quantization_config",
               {{"quant_method", "fp8"}, {"weight_block_size", {32, 48}}}}});
  const Tensors original = Read();
  const auto floats = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()),
                       values.size() * sizeof(float));
  };
  struct Case {
    const char* dtype;
    const char* suffix;
    size_t block_rows, block_cols;  // 0: all rows, all columns
    std::vector<size_t> shape;      // of one factor
  };
  for (const Case& test :
       {Case{"F8_E4M3", "", 0, 0, {}}, Case{"F8_E5M2", "", 0, 0, {}},
        Case{"F8_E4M3", "_scale_inv", 32, 48, {}},
        Case{"F8_E5M2", "_scale", 1, 0, {}},
        Case{"F8_E4M3", "_scale", 0, 0, {}},
        Case{"F8_E4M3", "_scale", 0, 0, {1}}}) {
    Tensors narrow = original, wide = original;
    for (const auto& [name, tensor] : original) {
      if (tensor.shape.size() != 2) continue;
      const size_t rows = tensor.shape[0], cols = tensor.shape[1];
      const size_t high = test.block_rows > 0 ? test.block_rows : rows;
      const size_t broad = test.block_cols > 0 ? test.block_cols : cols;
      const size_t across = (cols + broad - 1) / broad;
      std::vector<float> scales((rows + high - 1) / high * across);
      for (size_t i = 0; i < scales.size(); ++i) {
        scales[i] = 0.25f + 0.0625f * static_cast<float>(i % 5);
      }
      std::vector<float> values(rows * cols);
      std::string bytes(values.size(), '\0');
      for (size_t i = 0; i < values.size(); ++i) {
        // Both signs and many magnitudes, none of them large.
        const auto bits = static_cast<uint8_t>(i * 37 % 56 + i % 2 * 128);
        bytes[i] = static_cast<char>(bits);
        const float value = test.dtype == std::string("F8_E4M3")
                                ? FromE4m3(bits)
                                : FromE5m2(bits);
        const size_t scale = i / cols / high * across + i % cols / broad;
        values[i] = value * (*test.suffix != 0 ? scales[scale] : 1);
      }
      wide[name] = {"F32", tensor.shape, floats(values)};
      narrow[name] = {test.dtype, tensor.shape, bytes};
      if (*test.suffix == 0) continue;
      std::vector<size_t> shape = {scales.size() / across, across};
      if (scales.size() == 1) shape = test.shape;
      narrow[name + test.suffix] = {"F32", shape, floats(scales)};
    }
    Write(wide);
    const std::vector<float> expected = Logits();
    Write(narrow);
    EXPECT_EQ(Logits(), expected) << test.dtype << test.suffix;
  }
  // Scales of another shape, and what is read in place.
  Tensors wrong = original;
  Tensor& norm = wrong["model.norm.weight"];
  norm = {"F8_E4M3", norm.shape, std::string(norm.shape[0], '8')};
  wrong["model.norm.weight_scale"] = {"F32", {2}, floats({1, 1})};
  Write(wrong);
  const auto opened = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const auto vector = opened->Vector("model.norm.weight", norm.shape[0]);
  ASSERT_FALSE(vector.ok());
  EXPECT_NE(vector.status().message().find("weight_scale' is F32 (2)"),
            std::string::npos)
      << vector.status().message();
  const auto in_place = opened->Matrix("model.norm.weight", 1, norm.shape[0]);
  ASSERT_FALSE(in_place.ok());
  EXPECT_NE(in_place.status().message().find("F8_E4M3"), std::string::npos);
}

TEST(Float8Test, EveryCode) {
  EXPECT_EQ(FromE4m3(0x7e), 448);
  EXPECT_EQ(FromE4m3(0x38), 1);
  EXPECT_EQ(FromE4m3(0xb9), -1.125f);
  EXPECT_EQ(FromE4m3(1), 0x1p-9f);
  EXPECT_EQ(FromE4m3(8), 0x1p-6f);
  EXPECT_TRUE(std::signbit(FromE4m3(0x80)));
  EXPECT_EQ(FromE5m2(0x7b), 57344);
  EXPECT_EQ(FromE5m2(0x3c), 1);
  EXPECT_EQ(FromE5m2(1), 0x1p-16f);
  EXPECT_EQ(FromE5m2(0xfc), -std::numeric_limits<float>::infinity());
  for (int bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    EXPECT_EQ(std::isnan(FromE4m3(code)), (bits & 127) == 127) << bits;
    EXPECT_EQ(std::isnan(FromE5m2(code)), (bits & 127) > 124) << bits;
    // Codes of one sign ascend.
    if ((bits & 127) == 0) continue;
    const auto below = static_cast<uint8_t>(bits - 1);
    if (!std::isnan(FromE4m3(code))) {
      EXPECT_GT(std::abs(FromE4m3(code)), std::abs(FromE4m3(below))) << bits;
    }
    if (!std::isnan(FromE5m2(code))) {
      EXPECT_GT(std::abs(FromE5m2(code)), std::abs(FromE5m2(below))) << bits;
    }
  }
}

TEST_F(CheckpointTest, TensorsThatDoNotFit) {
  json config = json::parse(ReadAll(folder_.File("config.json")));
  const auto create = [&](const std::string& field, const json& value) {
    json changed = config;
    changed[field] = value;
    WriteAll(folder_.File("config.json"), changed.dump());
    const auto checkpoint = Checkpoint::Open(folder_.path());
    if (!checkpoint.ok()) return checkpoint.status().message();
    const auto model =
        Model::Create(checkpoint->config(), *checkpoint, nullptr,
                      Dispatcher(nullptr), {}, MakeSerialExecutor());
    EXPECT_FALSE(model.ok());
    return model.status().message();
  };
  EXPECT_NE(create("intermediate_size", 208).find("(200, 96), expected (208"),
            std::string::npos);
  EXPECT_NE(create("num_hidden_layers", 4).find("model.layers.3"),
            std::string::npos);
  EXPECT_NE(create("vocab_size", 302).find("embed_tokens"), std::string::npos);
  // Sizes that no machine could hold fail before anything is allocated.
  EXPECT_NE(create("intermediate_size", 1 << 20).find("expected"),
            std::string::npos);
}

TEST_F(CheckpointTest, IdentityFollowsTheContents) {
  const auto open = [&] {
    auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return std::move(checkpoint).value();
  };
  const std::string path = folder_.File("model.safetensors");
  const std::string identity = open().Identity();
  const std::string full = open().FullHash();
  EXPECT_EQ(open().Identity(), identity);
  std::string contents = ReadAll(path);
  contents.back() ^= 1;
  WriteAll(path, contents);
  EXPECT_NE(open().Identity(), identity);
  EXPECT_NE(open().FullHash(), full);
  // A header that differs only in its metadata is another file.
  contents.back() ^= 1;
  const size_t format = contents.find("\"pt\"");
  ASSERT_NE(format, std::string::npos);
  contents[format + 1] = 'q';
  WriteAll(path, contents);
  EXPECT_NE(open().Identity(), identity);
}

// A weight that is NaN, or too large for the type it is packed to, is found
// while packing.
TEST_F(CheckpointTest, WeightsThatNoTypeHolds) {
  const std::string path = folder_.File("model.safetensors");
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const std::string contents = ReadAll(path);
  const auto message = [&](uint16_t bits, WeightType type) {
    std::string changed = contents;
    {
      const auto file = SafetensorsFile::Open(path);
      const auto& info = file->tensors().at(name);
      EXPECT_EQ(info.dtype, "BF16");
      const size_t at = contents.size() - file->data().size() + info.begin;
      std::memcpy(changed.data() + at + 2, &bits, sizeof(bits));
    }
    WriteAll(path, changed);
    const auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    const ModelConfig& config = checkpoint->config();
    const size_t rows[] = {config.hidden};
    const auto packed =
        checkpoint->Pack({&name, 1}, rows, config.mlp, type, Layout::kInOut);
    WriteAll(path, contents);
    return packed.ok() ? "" : packed.status().message();
  };
  constexpr uint16_t kOne = 0x3f80, kNan = 0x7fc0, kInfinity = 0x7f80,
                     kHundredThousand = 0x47c3;
  for (const WeightType type : kWeightTypes) {
    EXPECT_EQ(message(kOne, type), "");
    for (const uint16_t bits : {kNan, kInfinity}) {
      EXPECT_NE(message(bits, type).find(name + "': 1 of"), std::string::npos);
    }
    EXPECT_EQ(message(kHundredThousand, type).find("--dtype bf16") ==
                  std::string::npos,
              type != WeightType::kF16 && !FormatOf(type).has_minimum);
    // 2^24: beyond the scales of 4 bits, an f16.
    EXPECT_EQ(message(0x4b80, type) == "", type != WeightType::kF16 &&
                                               type != WeightType::kI8Group32 &&
                                               FormatOf(type).bits != 4);
  }
}

// The identity samples blocks; the full hash of an adapter finds the rest.
TEST_F(CheckpointTest, AnAdapterOfOtherWeightsIsRefused) {
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  Adapter adapter;
  adapter.checkpoint_hash = checkpoint->Identity();
  const auto status_with = [&](const std::string& full_hash) {
    adapter.checkpoint_full_hash = full_hash;
    const std::string path = folder_.File("adapter.safetensors");
    EXPECT_TRUE(SaveAdapter(adapter, path).ok());
    return LoadAdapterOf(*checkpoint, path, AdapterParts::kAll).status();
  };
  EXPECT_TRUE(status_with(checkpoint->FullHash()).ok());
  EXPECT_TRUE(status_with("").ok());
  const Status other = status_with("0123");
  EXPECT_FALSE(other.ok());
  EXPECT_NE(other.message().find("checkpoint.full_hash"), std::string::npos);
}

}  // namespace
}  // namespace rankforge
