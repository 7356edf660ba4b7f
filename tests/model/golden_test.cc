// Against what Hugging Face Transformers computes from the same checkpoints.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct GoldenCase {
  std::string model;
  std::string text;  // "evaluation" or "tinystories"
  bool old_config = false;
};

// Rewrites a config.json of Transformers 5 as older versions wrote it.
std::string OldSpelling(const std::string& text) {
  json config = json::parse(text);
  const json& rope = config["rope_parameters"];
  config["rope_theta"] = rope["rope_theta"];
  config["rope_scaling"] = nullptr;
  if (rope.contains("partial_rotary_factor")) {
    config["rotary_pct"] = rope["partial_rotary_factor"];
    config["rotary_emb_base"] = config["rope_theta"];
    config.erase("rope_theta");
  }
  config["torch_dtype"] = config["dtype"];
  config.erase("rope_parameters");
  config.erase("dtype");
  if (config["model_type"] == "gemma") {
    config["hidden_act"] = "gelu";
    config["hidden_activation"] = nullptr;
    config.erase("tie_word_embeddings");  // written where it is not the default
  } else {
    config.erase("head_dim");
  }
  config["transformers_version"] = "4.31.0";
  return config.dump();
}

class GoldenTest : public testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    const std::string folder = CheckpointFolder(GetParam().model);
    golden_ = folder + "/golden/" + GetParam().text;
    if (!fs::exists(golden_ + ".json")) {
      // The validation stories are not part of this repository.
      golden_ = SharedFile("models/" + GetParam().model + "/golden/" +
                           GetParam().text + ".json");
      if (golden_.empty()) {
        const std::string missing = "no golden values of " + GetParam().model +
                                    " on " + GetParam().text +
                                    ": ../shared/models is not there";
        if (InCi()) FAIL() << missing;
        GTEST_SKIP() << missing;
      }
      golden_.resize(golden_.size() - std::strlen(".json"));
    }
    json_ = json::parse(ReadAll(golden_ + ".json"));
    if (GetParam().old_config) {
      for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.path().filename() == "config.json") continue;
        fs::create_symlink(fs::absolute(entry.path()),
                           temporary_.File(entry.path().filename().string()));
      }
      WriteAll(temporary_.File("config.json"),
               OldSpelling(ReadAll(folder + "/config.json")));
      folder_ = temporary_.path();
    } else {
      folder_ = folder;
    }
    Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    checkpoint_.emplace(std::move(checkpoint).value());
    model_.emplace(MakeModel(checkpoint_->config(), *checkpoint_, nullptr,
                             {.threads = 2}));
    Result<SafetensorsFile> values =
        SafetensorsFile::Open(golden_ + ".safetensors");
    ASSERT_TRUE(values.ok()) << values.status().message();
    values_.emplace(std::move(values).value());
  }

  TemporaryFolder temporary_;
  std::string folder_;
  std::string golden_;
  json json_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<Model> model_;
  std::optional<SafetensorsFile> values_;
};

TEST_P(GoldenTest, Logits) {
  const std::vector<int> ids = IdsOf(*values_, "input_ids");
  const std::vector<size_t> shape = {ids.size(), checkpoint_->config().vocab};
  const auto expected = values_->Floats("logits", shape);
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  EXPECT_LT(LargestDifference(PrefillLogits(*model_, ids), *expected), 2e-3f);
  EXPECT_LT(LargestDifference(DecodeLogits(*model_, ids), *expected), 2e-3f);
}

TEST_P(GoldenTest, HiddenStatesOfEveryLayer) {
  const ModelConfig& config = checkpoint_->config();
  const std::vector<int> ids = IdsOf(*values_, "input_ids");
  const size_t size = ids.size() * config.hidden;
  const std::vector<size_t> shape = {config.layers + 1, ids.size(),
                                     config.hidden};
  const auto expected = values_->Floats("hidden_states", shape);
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  const auto difference = [&](size_t state, const std::vector<float>& hidden) {
    return LargestDifference(hidden,
                             std::span(*expected).subspan(state * size, size));
  };

  KvCache cache(config, WeightType::kF32, ids.size());
  std::vector<float> hidden(size);
  ASSERT_TRUE(model_->Embed(ids, hidden.data()).ok());
  EXPECT_EQ(difference(0, hidden), 0);
  for (size_t layer = 0; layer < config.layers; ++layer) {
    model_->ForwardLayer(layer, hidden.data(), ids.size(), cache);
    if (layer + 1 < config.layers) {
      EXPECT_LT(difference(layer + 1, hidden), 5e-4f) << "layer " << layer;
    }
  }
  // The last stored state is that after the final norm.
  const auto norm = Norm::Load(DescribeModel(config, nullptr).final_norm,
                               config, *checkpoint_);
  ASSERT_TRUE(norm.ok());
  for (size_t i = 0; i < ids.size(); ++i) {
    float* const row = hidden.data() + i * config.hidden;
    norm->Run(row, row);
  }
  EXPECT_LT(difference(config.layers, hidden), 1e-3f);
}

TEST_P(GoldenTest, GreedyTokens) {
  const auto prompt = json_["prompt_ids"].get<std::vector<int>>();
  std::vector<int> expected = json_["greedy_ids"].get<std::vector<int>>();
  expected.erase(expected.begin(), expected.begin() + prompt.size());
  std::vector<int> seen;
  const auto generation =
      Generate(*model_, prompt, expected.size(), {}, [&](int id) {
        seen.push_back(id);
        return true;
      });
  ASSERT_TRUE(generation.ok()) << generation.status().message();
  EXPECT_EQ(generation->ids, expected);
  EXPECT_EQ(seen, expected);
}

// Takes long. Both spellings of a config give the same ModelConfig
// (ConfigTest), so one is enough.
class PerplexityTest : public GoldenTest {};

TEST_P(PerplexityTest, IsThatOfTransformers) {
  std::vector<int> ids;
  if (GetParam().text == "evaluation") {
    const auto tokenizer = Tokenizer::Load(folder_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    ids = tokenizer->Encode(
        ReadAll(RANKFORGE_SOURCE_DIR "/examples/models/text/evaluation.txt"));
    EXPECT_EQ(ids.size(), json_["eval"]["total_token_ids"]);
  } else {
    const auto file = SafetensorsFile::Open(golden_ + "_ids.safetensors");
    ASSERT_TRUE(file.ok()) << file.status().message();
    ids = IdsOf(*file, "eval_ids");
  }
  const auto evaluation = Evaluate(*model_, ids, {256, 80}, nullptr);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status().message();
  EXPECT_EQ(evaluation->tokens, json_["eval"]["tokens"]);
  EXPECT_DOUBLE_EQ(evaluation->linear_flops_ratio, 1);
  EXPECT_DOUBLE_EQ(evaluation->bytes_per_token,
                   static_cast<double>(model_->packed_bytes()));
  const double expected = json_["eval"]["perplexity"];
  EXPECT_NEAR(evaluation->perplexity, expected, 2e-4 * expected);
}

const GoldenCase kCases[] = {
    {"llama-gqa-7m", "evaluation"}, {"llama-gqa-7m", "tinystories"},
    {"llama-30m", "tinystories"},   {"gemma-6m", "evaluation"},
    {"gemma-6m", "tinystories"},    {"neox-7m", "evaluation"},
    {"neox-7m", "tinystories"}};
const GoldenCase kOldConfigs[] = {{"llama-gqa-7m", "evaluation", true},
                                  {"llama-30m", "tinystories", true},
                                  {"gemma-6m", "evaluation", true},
                                  {"neox-7m", "evaluation", true}};

std::string NameOf(const testing::TestParamInfo<GoldenCase>& info) {
  std::string name = info.param.model + "_" + info.param.text;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, testing::ValuesIn(kCases), NameOf);
INSTANTIATE_TEST_SUITE_P(OldConfigs, GoldenTest, testing::ValuesIn(kOldConfigs),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Models, PerplexityTest, testing::ValuesIn(kCases),
                         NameOf);

// The trained model in every weight type: prefill and decode read the same
// weights, threads change nothing, and the loss grows by no more than rounding
// to so many bits may cost, and than rounding inputs to 8 bits may beside that.
class WeightTypeTest : public testing::TestWithParam<WeightType> {};

TEST_P(WeightTypeTest, TrainedModelKeepsItsQuality) {
  const WeightType type = GetParam();
  const std::string folder = CheckpointFolder("llama-gqa-7m");
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const auto make = [&](WeightType weights, size_t threads,
                        std::optional<Activations> activations =
                            Activations::kF32) {
    return MakeModel(checkpoint->config(), *checkpoint, nullptr,
                     {.type = weights,
                      .lm_head_type = weights,
                      .activations = activations,
                      .threads = threads});
  };
  Model model = make(type, 2);
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  std::vector<int> ids = tokenizer->Encode(
      ReadAll(RANKFORGE_SOURCE_DIR "/examples/models/text/evaluation.txt"));

  const std::span<const int> start(ids.data(), 24);
  const std::vector<float> decoded = DecodeLogits(model, start);
  EXPECT_LT(LargestDifference(PrefillLogits(model, start), decoded), 2e-3f);
  Model one_thread = make(type, 1);
  EXPECT_EQ(LargestDifference(DecodeLogits(one_thread, start), decoded), 0);

  Model exact = make(WeightType::kF32, 2);
  const auto loss = [&](Model& of) {
    const auto evaluation = Evaluate(of, ids, {256, 8}, nullptr);
    EXPECT_TRUE(evaluation.ok()) << evaluation.status().message();
    return evaluation->loss;
  };
  const size_t bits = FormatOf(type).bits;
  const double most = bits == 4 ? 0.04 : bits == 8 ? 0.004 : 0.001;
  EXPECT_NEAR(loss(model), loss(exact), most);
  Model untold = make(type, 2, {});
  EXPECT_NEAR(loss(untold), loss(model), IsQuantized(type) ? 0.002 : 0);

  const double error = model.quantization_error().Relative();
  EXPECT_GE(error, bits == 4 ? 0.05 : bits == 8 ? 0.002 : 0);
  EXPECT_LE(error, bits == 4 ? 0.12 : bits == 8 ? 0.02 : 0);
}

INSTANTIATE_TEST_SUITE_P(All, WeightTypeTest, testing::ValuesIn(kWeightTypes),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

class GoldenTokenizerTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizerTest, IdsAndRoundTrip) {
  const std::string folder = CheckpointFolder(GetParam());
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer->vocab(), 4096);
  const std::string text =
      ReadAll(RANKFORGE_SOURCE_DIR "/examples/models/text/evaluation.txt");
  const json golden = json::parse(ReadAll(folder + "/golden/evaluation.json"));
  std::vector<int> ids = tokenizer->Encode(text);
  EXPECT_EQ(ids.size(), golden["eval"]["total_token_ids"]);
  ids.resize(32);
  EXPECT_EQ(ids, golden["tokenizer_first_ids"].get<std::vector<int>>());
  const std::string start = tokenizer->Decode(ids);
  EXPECT_EQ(text.substr(0, start.size()), start);
  // Ids beyond the pieces stand for no text.
  ids.push_back(4096);
  ids.push_back(-1);
  EXPECT_EQ(tokenizer->Decode(ids), start);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GoldenTokenizerTest,
                         testing::Values("llama-gqa-7m", "gemma-6m", "neox-7m"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace rankforge
