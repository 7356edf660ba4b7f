// config.json in both spellings, and what is wrong with the others.
#include "runtime/model/format/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/model/format/checkpoint.h"
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
  EXPECT_EQ(config->eos_id, 2);
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
  EXPECT_EQ(loaded->eos_id, -1);
  EXPECT_FALSE(loaded->tied_embeddings);
}

TEST_F(ConfigTest, UnsupportedModels) {
  ExpectError("model_type", "gemma2");
  ExpectError("model_type", nullptr);
  ExpectError("model_type", 7);
  ExpectError("hidden_act", "relu");
  ExpectError("attention_bias", 1);
  ExpectError("mlp_bias", "no");
  ExpectError("quantization_config", {{"bits", 4}});
  for (const json& rope :
       {json{{"rope_type", "yarn"}}, json{{"type", "dynamic"}},
        json{{"rope_type", 3}}, json{{"partial_rotary_factor", 0.25}}}) {
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
    ExpectRopeError(changed, field);
    for (const json& wrong : {json(0), json(-1), json("x"), json(true)}) {
      changed[field] = wrong;
      ExpectRopeError(changed, field);
    }
  }
  json crossed = llama3;
  crossed["low_freq_factor"] = 4.0;
  ExpectRopeError(crossed, "low_freq_factor");
  ExpectRopeError({{"type", "linear"}}, "factor");
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
  EXPECT_EQ(
      load("gemma", {{"hidden_act", "gelu"}, {"hidden_activation", "silu"}})
          .activation,
      Activation::kSilu);
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
    config.update(fields);
    const auto loaded = Load(config);
    ASSERT_FALSE(loaded.ok()) << fields;
    EXPECT_NE(loaded.status().message().find("'" + field + "'"),
              std::string::npos)
        << loaded.status().message();
  };
  expect_error("mistral", {{"sliding_window", 0}}, "sliding_window");
  expect_error("qwen2", {{"use_sliding_window", true}}, "use_sliding_window");
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
  // The same tensor in two shards.
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
  ExpectError("stands in");
  std::filesystem::remove(folder_.File("model.safetensors.index.json"));
  ExpectError("neither model.safetensors nor");
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
