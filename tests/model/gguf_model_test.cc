// Models in GGUF files against Hugging Face Transformers, on tiny random models
// of each architecture (scripts/gguf_fixtures.py), and what is refused.
#include "runtime/model/format/gguf_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <tuple>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/gguf_tokenizer.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/weights/modules.h"
#include "runtime/plan/source_weight.h"
#include "tests/model/gguf_fuzz.h"
#include "tests/model/gguf_writer.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint32_t kF32 = 0;

std::string FixtureFile(const std::string& name) {
  return RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/" + name;
}

class GgufFixtureTest : public testing::TestWithParam<std::string> {};

TEST_P(GgufFixtureTest, LogitsAreThoseOfTransformers) {
  const auto checkpoint = Checkpoint::Open(FixtureFile(GetParam() + ".gguf"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const ModelConfig& config = checkpoint->config();
  const auto golden =
      SafetensorsFile::Open(FixtureFile(GetParam() + ".safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  const std::vector<int> ids = IdsOf(*golden, "input_ids");
  const std::vector<size_t> shape = {ids.size(), config.vocab};
  const auto logits = golden->Floats("logits", shape);
  ASSERT_TRUE(logits.ok()) << logits.status().message();
  Model model = MakeModel(config, *checkpoint, nullptr, {.threads = 2});
  EXPECT_LT(LargestDifference(PrefillLogits(model, ids), *logits), 1e-4f);
  EXPECT_LT(LargestDifference(DecodeLogits(model, ids), *logits), 1e-4f);
  EXPECT_EQ(checkpoint->notes(), std::vector<std::string>());
}

// A folder with the same weights, which the checkpoint writes itself.
TEST_P(GgufFixtureTest, SettingsAreThoseOfAFolder) {
  const auto checkpoint = Checkpoint::Open(FixtureFile(GetParam() + ".gguf"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const TemporaryFolder folder;
  ASSERT_TRUE(checkpoint->WriteSettings(folder.path()).ok());
  const auto config = LoadConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(*config, checkpoint->config());
}

INSTANTIATE_TEST_SUITE_P(All, GgufFixtureTest,
                         testing::Values("llama3", "llama_biases", "mistral",
                                         "qwen2", "qwen3", "phi3", "gemma",
                                         "gemma2", "gemma3", "olmo2",
                                         "gpt_neox"),
                         [](const auto& info) { return info.param; });

std::string Floats(size_t count) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    bytes += BytesOfValue(0.01f * static_cast<float>(i % 50));
  }
  return bytes;
}

// The smallest llama; `change` may alter its metadata before tensors follow.
struct TinyGguf {
  GgufWriter writer;
  std::set<std::string> without = {};  // tensors that are left out

  void Tensor(const std::string& name, const std::vector<uint64_t>& shape) {
    if (without.contains(name)) return;
    size_t count = 1;
    for (const uint64_t size : shape) count *= size;
    writer.Tensor(name, kF32, shape, Floats(count));
  }
  void Metadata(const std::string& architecture = "llama") {
    writer.Text("general.architecture", architecture);
    for (const auto& [key, count] :
         {std::pair("context_length", 16), std::pair("embedding_length", 8),
          std::pair("block_count", 1), std::pair("feed_forward_length", 12),
          std::pair("attention.head_count", 2),
          std::pair("attention.head_count_kv", 1)}) {
      writer.Count(architecture + "." + key, static_cast<uint32_t>(count));
    }
    writer.Number(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
  }
  void Tensors() {
    Tensor("token_embd.weight", {20, 8});
    Tensor("output_norm.weight", {8});
    Tensor("blk.0.attn_norm.weight", {8});
    Tensor("blk.0.ffn_norm.weight", {8});
    Tensor("blk.0.attn_q.weight", {8, 8});
    Tensor("blk.0.attn_k.weight", {4, 8});
    Tensor("blk.0.attn_v.weight", {4, 8});
    Tensor("blk.0.attn_output.weight", {8, 8});
    Tensor("blk.0.ffn_gate.weight", {12, 8});
    Tensor("blk.0.ffn_up.weight", {12, 8});
    Tensor("blk.0.ffn_down.weight", {8, 12});
  }
};

class GgufModelTest : public testing::Test {
 protected:
  using Change = std::function<void(TinyGguf&)>;

  // A file with what `before` and `after` write around the tensors.
  Result<Checkpoint> Open(const Change& before, const Change& after = nullptr) {
    TinyGguf file;
    file.Metadata();
    if (before) before(file);
    file.Tensors();
    if (after) after(file);
    WriteAll(path_, file.writer.Build());
    return Checkpoint::Open(path_);
  }
  void ExpectError(const std::string& part, const Change& before,
                   const Change& after = nullptr) {
    Result<Checkpoint> checkpoint = Open(before, after);
    Status status = checkpoint.status();
    if (checkpoint.ok()) {
      // What is wrong may be seen when the tensor is read.
      for (const TensorShape& tensor :
           CheckpointTensors(checkpoint->config())) {
        const auto matrix =
            checkpoint->Matrix(tensor.name, tensor.rows, tensor.cols);
        status = matrix.status();
        if (!status.ok()) break;
      }
    }
    EXPECT_FALSE(status.ok()) << part;
    EXPECT_TRUE(status.message().starts_with(path_)) << status.message();
    EXPECT_NE(status.message().find(part), std::string::npos)
        << status.message();
  }
  static Change Count(const std::string& key, uint32_t count) {
    return [=](TinyGguf& file) { file.writer.Count(key, count); };
  }
  static Change Text(const std::string& key, const std::string& text) {
    return [=](TinyGguf& file) { file.writer.Text(key, text); };
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("model.gguf");
};

TEST_F(GgufModelTest, TheTinyModelIsRead) {
  const auto checkpoint = Open(nullptr);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.head_dim, 4u);
  EXPECT_EQ(config.vocab, 20u);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_EQ(checkpoint->directory(), path_);
  for (const TensorShape& tensor : CheckpointTensors(config)) {
    EXPECT_TRUE(checkpoint->Matrix(tensor.name, tensor.rows, tensor.cols).ok())
        << tensor.name;
  }
}

TEST_F(GgufModelTest, AFolderWithOneFileStandsForIt) {
  ASSERT_TRUE(Open(nullptr).ok());
  EXPECT_EQ(GgufPathOf(path_), path_);
  EXPECT_EQ(GgufPathOf(folder_.path()), path_);
  EXPECT_TRUE(Checkpoint::Open(folder_.path()).ok());
  // Later parts of a split model do not count.
  fs::copy_file(path_, folder_.File("m-00002-of-00002.gguf"));
  EXPECT_EQ(GgufPathOf(folder_.path()), path_);
  fs::copy_file(path_, folder_.File("second.gguf"));
  EXPECT_EQ(GgufPathOf(folder_.path()), std::nullopt);
  const auto two = Checkpoint::Open(folder_.path());
  ASSERT_FALSE(two.ok());
  EXPECT_NE(two.status().message().find("config.json"), std::string::npos);
}

TEST_F(GgufModelTest, AnotherFileIsNamed) {
  WriteAll(path_, "text");
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_NE(checkpoint.status().message().find("does not begin with 'GGUF'"),
            std::string::npos);
}

TEST_F(GgufModelTest, RefusesWhatIsNotComputed) {
  ExpectError("field 'llama.expert_count' is 8",
              Count("llama.expert_count", 8));
  ExpectError("field 'llama.attention.value_length' is 8",
              Count("llama.attention.value_length", 8));
  ExpectError("field 'llama.rope.dimension_count' is 2",
              Count("llama.rope.dimension_count", 2));
  ExpectError("'rope_type' is \"magic\"",
              Text("llama.rope.scaling.type", "magic"));
  ExpectError("field 'llama.rope.scaling.attn_factor' is 0.5",
              [](TinyGguf& file) {
                file.writer.Text("llama.rope.scaling.type", "yarn");
                file.writer.Number("llama.rope.scaling.attn_factor", 0.5f);
              });
  ExpectError("field 'llama.attention.key_length' is no integer",
              [](TinyGguf& file) {
                file.writer.Array("llama.attention.key_length",
                                  GgufType::kUint32, {BytesOfValue(4)});
              });
  ExpectError("'factor' is missing", Text("llama.rope.scaling.type", "linear"));
  ExpectError("tensor 'rope_freqs.weight' scales rotary angles",
              [](TinyGguf& file) {
                file.writer.Tensor("rope_freqs.weight", kF32, {2},
                                   BytesOfValue(3.0f) + BytesOfValue(2.0f));
              });
  ExpectError("tensor 'rope_freqs.weight' is not 2 F32 divisors",
              [](TinyGguf& file) { file.Tensor("rope_freqs.weight", {3}); });
  ExpectError(
      "tensor 'rope_factors_long.weight' is no part",
      [](TinyGguf& file) { file.Tensor("rope_factors_long.weight", {2}); });
  for (const auto& [field, value] :
       {std::pair("attn_logit_softcapping", "30"),
        std::pair("final_logit_softcapping", "30"),
        std::pair("attention.scale", "0.25"),
        std::pair("attention.clamp_kqv", "8"),
        std::pair("attention.max_alibi_bias", "8"),
        std::pair("rope.freq_base_swa", "500"), std::pair("logit_scale", "0.5"),
        std::pair("embedding_scale", "12"), std::pair("residual_scale", "0.5"),
        std::pair("rope.scaling.yarn_log_multiplier", "0.5")}) {
    const std::string key = std::string("llama.") + field;
    const float number = std::stof(value);
    ExpectError("field '" + key + "' is " + value,
                [&](TinyGguf& file) { file.writer.Number(key, number); });
  }
  ExpectError("field 'llama.attention.causal' is 0", [](TinyGguf& file) {
    file.writer.Flag("llama.attention.causal", false);
  });
  ExpectError("field 'llama.attention.key_length_swa' is 2",
              Count("llama.attention.key_length_swa", 2));
  // A norm of queries is another architecture's, whatever the file says.
  ExpectError(
      "tensor 'blk.0.attn_q_norm.weight' is no part",
      [](TinyGguf& file) { file.Tensor("blk.0.attn_q_norm.weight", {4}); });
}

TEST_F(GgufModelTest, ScalingsAreThoseOfConfigJson) {
  const auto checkpoint = Open([](TinyGguf& file) {
    file.writer.Text("llama.rope.scaling.type", "yarn");
    file.writer.Number("llama.rope.scaling.factor", 4);
    file.writer.Count("llama.rope.scaling.original_context_length", 8);
  });
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const RopeScaling& yarn = checkpoint->config().rope_scaling;
  EXPECT_EQ(yarn.type, RopeScaling::Type::kYarn);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.positions, 8u);
  const auto old = Open(
      [](TinyGguf& file) { file.writer.Number("llama.rope.scale_linear", 2); });
  ASSERT_TRUE(old.ok()) << old.status().message();
  EXPECT_EQ(old->config().rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(old->config().rope_scaling.factor, 2);
}

TEST_F(GgufModelTest, FieldsThatChangeNothingAreRead) {
  const auto checkpoint = Open([](TinyGguf& file) {
    file.writer.Number("llama.attention.scale", 0.5f);  // of 4 elements
    file.writer.Number("llama.rope.freq_base_swa", 10000);
    file.writer.Number("llama.final_logit_softcapping", 0);
    file.writer.Number("llama.logit_scale", 1);
    file.writer.Flag("llama.attention.causal", true);
    file.writer.Count("llama.rope.dimension_count_swa", 4);
  });
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->notes(), std::vector<std::string>());
}

// Configs of Gemma 2 and 3 from metadata alone.
class GgufGemmaTest : public testing::Test {
 protected:
  // With `blocks` layers and what `change` adds.
  Result<GgufModel> Open(const std::string& architecture, uint32_t blocks,
                         const std::function<void(GgufWriter&)>& change) {
    TinyGguf file;
    file.writer.Text("general.architecture", architecture);
    for (const auto& [key, count] :
         {std::pair("context_length", 16u), std::pair("embedding_length", 24u),
          std::pair("block_count", blocks),
          std::pair("feed_forward_length", 12u),
          std::pair("attention.head_count", 2u),
          std::pair("attention.key_length", 4u)}) {
      file.writer.Count(architecture + "." + key, count);
    }
    if (change) change(file.writer);
    file.Tensor("token_embd.weight", {20, 24});
    WriteAll(path_, file.writer.Build());
    return GgufModel::Open(path_);
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("model.gguf");
};

TEST_F(GgufGemmaTest, OnlyTheLargestScalesQueriesByTheHiddenValuesPerHead) {
  for (const auto& [architecture, blocks, scalar] :
       {std::tuple("gemma2", 42u, 4), std::tuple("gemma2", 46u, 12),
        std::tuple("gemma3", 48u, 4), std::tuple("gemma3", 62u, 12)}) {
    const auto model = Open(architecture, blocks, nullptr);
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ(model->config().query_scalar, scalar) << architecture << blocks;
  }
}

TEST_F(GgufGemmaTest, CapsAndWindowsAreThoseOfTheFile) {
  const auto silent = Open("gemma2", 2, nullptr);
  ASSERT_TRUE(silent.ok()) << silent.status().message();
  EXPECT_EQ(silent->config().score_cap, 50);
  EXPECT_EQ(silent->config().logit_cap, 30);
  EXPECT_EQ(silent->config().window_of(0), 4096u);
  EXPECT_EQ(silent->config().window_of(1), 0u);
  const auto stated = Open("gemma2", 2, [](GgufWriter& writer) {
    writer.Number("gemma2.attn_logit_softcapping", 5);
    writer.Number("gemma2.final_logit_softcapping", 0);
    writer.Count("gemma2.attention.sliding_window", 8);
    writer.Count("gemma2.attention.sliding_window_pattern", 2);
  });
  ASSERT_TRUE(stated.ok()) << stated.status().message();
  EXPECT_EQ(stated->config().score_cap, 5);
  EXPECT_EQ(stated->config().logit_cap, 0);
  EXPECT_EQ(stated->config().window_of(0), 8u);
  for (const auto& [field, value] :
       {std::pair("attention.sliding_window", 0u),
        std::pair("attention.sliding_window_pattern", 3u)}) {
    const std::string key = std::string("gemma2.") + field;
    const auto wrong =
        Open("gemma2", 2, [&, count = value](GgufWriter& writer) {
          writer.Count(key, count);
          if (count != 0) writer.Count("gemma2.attention.sliding_window", 8);
        });
    ASSERT_FALSE(wrong.ok()) << field;
    EXPECT_NE(wrong.status().message().find("field '" + key + "' is "),
              std::string::npos)
        << wrong.status().message();
  }
}

TEST_F(GgufGemmaTest, LayersWithoutAWindowHaveTheBaseOfAll) {
  const auto full = Open("gemma3", 6, nullptr);
  ASSERT_TRUE(full.ok()) << full.status().message();
  EXPECT_EQ(full->config().window, 0u);
  const auto thirds = Open("gemma3", 6, [](GgufWriter& writer) {
    writer.Count("gemma3.attention.sliding_window", 8);
    writer.Count("gemma3.attention.sliding_window_pattern", 3);
    writer.Number("gemma3.rope.freq_base", 5e5f);
    writer.Number("gemma3.rope.freq_base_swa", 500);
  });
  ASSERT_TRUE(thirds.ok()) << thirds.status().message();
  const ModelConfig& config = thirds->config();
  for (const size_t layer : {0u, 1u, 3u, 4u}) {
    EXPECT_EQ(config.window_of(layer), 8u) << layer;
  }
  EXPECT_EQ(config.window_of(2), 0u);
  EXPECT_EQ(config.window_of(5), 0u);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.window_rope_theta, 500);
}

TEST_F(GgufModelTest, GenerationEndsWithATextAndWithATurn) {
  const auto checkpoint = Open([](TinyGguf& file) {
    file.writer.Count("tokenizer.ggml.bos_token_id", 1);
    file.writer.Count("tokenizer.ggml.eos_token_id", 2);
    file.writer.Count("tokenizer.ggml.eot_token_id", 5);
    file.writer.Count("tokenizer.ggml.eom_token_id", 2);
  });
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->config().bos_id, 1);
  EXPECT_EQ(checkpoint->config().eos_ids, (std::vector<int>{2, 5}));
}

TEST_F(GgufModelTest, OtherArchitecturesAreNamed) {
  for (const auto& [architecture, part] :
       {std::pair("mamba",
                  "field 'general.architecture' is 'mamba'; supported: "
                  "llama, qwen2, qwen3, phi3, gemma, gemma2, gemma3, olmo2, "
                  "gptneox"),
        std::pair("qwen2", "")}) {
    TinyGguf file;
    file.Metadata(architecture);
    file.Tensors();
    WriteAll(path_, file.writer.Build());
    const auto checkpoint = Checkpoint::Open(path_);
    EXPECT_EQ(checkpoint.ok(), *part == '\0');
    EXPECT_NE(checkpoint.status().message().find(part), std::string::npos)
        << checkpoint.status().message();
  }
  TinyGguf file;
  file.Metadata("qwen2");
  file.writer.Count("qwen2.attention.sliding_window", 4);
  file.Tensors();
  WriteAll(path_, file.writer.Build());
  const auto windowed = Checkpoint::Open(path_);
  ASSERT_FALSE(windowed.ok());
  EXPECT_NE(
      windowed.status().message().find("'qwen2.attention.sliding_window' is 4"),
      std::string::npos);
}

TEST_F(GgufModelTest, MissingAndMisshapenTensorsAreNamed) {
  ExpectError("tensor 'token_embd.weight' is missing",
              [](TinyGguf& file) { file.without.insert("token_embd.weight"); });
  ExpectError("tensor 'blk.0.ffn_up.weight' is missing", [](TinyGguf& file) {
    file.without.insert("blk.0.ffn_up.weight");
  });
  ExpectError(
      "tensor 'blk.0.ffn_up.weight' is F32 (8, 12), expected (12, 8)",
      [](TinyGguf& file) {
        file.without.insert("blk.0.ffn_up.weight");
        file.writer.Tensor("blk.0.ffn_up.weight", kF32, {8, 12}, Floats(96));
      });
  // One bias implies all biases of its kind.
  ExpectError("tensor 'blk.0.attn_k.bias' is missing",
              [](TinyGguf& file) { file.Tensor("blk.0.attn_q.bias", {8}); });
}

TEST_F(GgufModelTest, UnknownTypesAreNamedWhereTheyAreNeeded) {
  const auto tensor = [](const std::string& name) {
    return [=](TinyGguf& file) {
      file.without.insert(name);
      file.writer.Tensor(name, 29, {8}, "");
    };
  };
  ExpectError("tensor 'output_norm.weight' has ggml type 29, which is not read",
              tensor("output_norm.weight"));
  const auto checkpoint = Open(tensor("vision.weight"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(
      checkpoint->notes(),
      std::vector<std::string>{path_ + ": tensor 'vision.weight' is not read"});
}

TEST_F(GgufModelTest, FieldsThatNothingReadsAreNoted) {
  const auto checkpoint = Open(Count("llama.attention.logit_cap", 30));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->notes(),
            std::vector<std::string>{
                path_ + ": field 'llama.attention.logit_cap' is not read"});
}

TEST_F(GgufModelTest, HostileSizesAreErrors) {
  for (const char* key :
       {"llama.embedding_length", "llama.block_count",
        "llama.attention.head_count", "llama.feed_forward_length",
        "llama.context_length"}) {
    for (const uint32_t count : {0u, ~0u}) {
      TinyGguf file;
      file.writer.Text("general.architecture", "llama");
      for (const char* other :
           {"llama.embedding_length", "llama.block_count",
            "llama.attention.head_count", "llama.feed_forward_length",
            "llama.context_length"}) {
        file.writer.Count(other, std::string_view(other) == key ? count : 2);
      }
      file.Tensors();
      WriteAll(path_, file.writer.Build());
      EXPECT_FALSE(Checkpoint::Open(path_).ok()) << key << " " << count;
    }
  }
  ExpectError("field 'llama.attention.key_length' is 4294967295",
              Count("llama.attention.key_length", ~0u));
}

TEST_F(GgufModelTest, BothHashesFollowTheBytes) {
  const auto first = Open(nullptr);
  ASSERT_TRUE(first.ok());
  const std::string identity = first->Identity(), full = first->FullHash();
  EXPECT_EQ(Open(nullptr)->Identity(), identity);
  std::string bytes = ReadAll(path_);
  bytes.back() ^= 1;
  WriteAll(path_, bytes);
  const auto second = Checkpoint::Open(path_);
  ASSERT_TRUE(second.ok());
  EXPECT_NE(second->Identity(), identity);
  EXPECT_NE(second->FullHash(), full);
  const auto third = Open(Count("llama.vocab_size", 20));
  ASSERT_TRUE(third.ok());
  EXPECT_NE(third->Identity(), identity);
}

// A file with every kind of metadata that a model of `architecture` has.
std::string WholeModel(const std::string& architecture) {
  TinyGguf file;
  file.Metadata(architecture);
  const auto key = [&](const char* field) {
    return architecture + "." + field;
  };
  file.writer.Number(key("rope.freq_base"), 1000);
  file.writer.Number(key("rope.scaling.factor"), 2);
  if (architecture == "gemma3") {
    file.writer.Count(key("attention.sliding_window"), 4);
    file.writer.Count(key("attention.sliding_window_pattern"), 2);
    file.writer.Count(key("attention.key_length_swa"), 4);
    file.writer.Number(key("rope.freq_base_swa"), 500);
    file.writer.Number(key("final_logit_softcapping"), 30);
    file.writer.Number(key("attention.scale"), 0.5f);
    for (const char* norm : {"attn_q_norm", "attn_k_norm"}) {
      file.Tensor(std::string("blk.0.") + norm + ".weight", {4});
    }
    for (const char* norm : {"post_attention_norm", "post_ffw_norm"}) {
      file.Tensor(std::string("blk.0.") + norm + ".weight", {8});
    }
  } else {
    file.writer.Text(key("rope.scaling.type"), "yarn");
    file.writer.Flag(key("attention.causal"), true);
  }
  file.writer.Text("tokenizer.ggml.model", "llama");
  file.writer.Texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "a", "b", "ab"});
  std::vector<std::string> scores, kinds;
  for (const int32_t kind : {2, 3, 1, 1, 1}) {
    kinds.push_back(BytesOfValue(kind));
    scores.push_back(BytesOfValue(-1.0f));
  }
  file.writer.Array("tokenizer.ggml.scores", GgufType::kFloat32, scores);
  file.writer.Array("tokenizer.ggml.token_type", GgufType::kInt32, kinds);
  file.writer.Count("tokenizer.ggml.bos_token_id", 1);
  file.Tensors();
  return file.writer.Build();
}

// Models and tokenizers with wrong bytes in their headers: errors, or weights
// that lie inside the file.
TEST_F(GgufModelTest, MutatedModelsAreSafe) {
  const std::vector<std::string> files = {WholeModel("llama"),
                                          WholeModel("gemma3")};
  // Most of the file is weights, where nothing can go wrong.
  const auto header_of = [](const std::string& file) {
    return file.find("blk.0.ffn_down.weight") + 64;
  };
  const size_t runs = FuzzRuns(5000);
  const MemoryFile memory;
  for (const std::string& whole : files) {
    ASSERT_TRUE(memory.Write(whole));
    const Result<GgufModel> model = GgufModel::Open(memory.path());
    ASSERT_TRUE(model.ok()) << model.status().message();
    ASSERT_EQ(model->notes(), std::vector<std::string>());
  }
  std::mt19937 random(2);
  size_t opened = 0, translated = 0;
  for (size_t run = 0; run < runs; ++run) {
    const std::string& whole = files[run % files.size()];
    const size_t header = header_of(whole);
    const std::string begin = Mutated(whole.substr(0, header), random);
    ASSERT_TRUE(memory.Write(
        begin.size() < header ? begin : begin + whole.substr(header)));
    const Result<GgufModel> model = GgufModel::Open(memory.path());
    if (!model.ok()) continue;
    ++opened;
    std::vector<std::string> notes;
    if (GgufTokenizerJson(model->file(), notes).ok()) ++translated;
    const ModelConfig& config = model->config();
    for (const auto& [name, rows, cols] :
         {std::tuple("model.embed_tokens.weight", config.vocab, config.hidden),
          std::tuple("model.norm.weight", size_t{1}, config.hidden),
          std::tuple("model.layers.0.self_attn.q_proj.weight",
                     config.heads * config.head_dim, config.hidden),
          std::tuple("model.layers.0.mlp.down_proj.weight", config.hidden,
                     config.mlp)}) {
      const Result<SourceMatrix> matrix = model->Matrix(name, rows, cols);
      if (!matrix.ok()) continue;
      std::vector<float> line(matrix->line_length());
      for (size_t i = 0; i < matrix->lines(); ++i) {
        WidenLine(*matrix, i, 0, line.size(), line.data());
      }
    }
  }
  EXPECT_GT(opened, runs / 100);
  EXPECT_LT(opened, runs);
  EXPECT_GT(translated, 0u);
}

// Integers of blocks are those of our groups: neither is rounded.
TEST(GgufPackTest, BlocksKeepTheirIntegers) {
  for (const auto& [name, type] :
       {std::pair("llama3", WeightType::kI8Group32),    // Q8_0
        std::pair("gemma", WeightType::kI8Group32),     // Q5_0
        std::pair("qwen2", WeightType::kI4Group32)}) {  // Q4_0
    const auto checkpoint =
        Checkpoint::Open(FixtureFile(std::string(name) + ".gguf"));
    ASSERT_TRUE(checkpoint.ok());
    const std::string tensor = "model.layers.0.self_attn.q_proj.weight";
    const size_t rows = checkpoint->config().q_rows(0);
    const auto pack = [&](WeightType to) {
      return checkpoint
          ->Pack({&tensor, 1}, {&rows, 1}, checkpoint->config().hidden, to,
                 Layout::kOutIn)
          .value();
    };
    const PackedMatrix exact = pack(WeightType::kF32), groups = pack(type);
    EXPECT_EQ(groups.quantization_error().Relative(), 0) << name;
    for (size_t row = 0; row < exact.rows(); ++row) {
      for (size_t col = 0; col < exact.cols(); ++col) {
        ASSERT_EQ(groups.At(row, col), exact.At(row, col))
            << name << " " << row << " " << col;
      }
    }
  }
}

}  // namespace
}  // namespace rankforge
