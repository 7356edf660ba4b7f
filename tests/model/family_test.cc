// Every family against Hugging Face Transformers, on tiny random checkpoints
// (scripts/family_fixtures.py).
#include "runtime/model/format/family.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string FixtureFolder(const std::string& name) {
  return RANKFORGE_SOURCE_DIR "/tests/model/data/families/" + name;
}

class FamilyFixtureTest : public testing::TestWithParam<std::string> {};

TEST_P(FamilyFixtureTest, LogitsAndHiddenStates) {
  const std::string folder = FixtureFolder(GetParam());
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const ModelConfig& config = checkpoint->config();
  const auto golden = SafetensorsFile::Open(folder + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  const std::vector<int> ids = IdsOf(*golden, "input_ids");
  ASSERT_EQ(ids.size(), 24);
  const std::vector<size_t> shape = {ids.size(), config.vocab};
  const auto logits = golden->Floats("logits", shape);
  ASSERT_TRUE(logits.ok()) << logits.status().message();

  Model model = MakeModel(config, *checkpoint, nullptr, {.threads = 2});
  EXPECT_LT(LargestDifference(PrefillLogits(model, ids), *logits), 1e-4f);
  EXPECT_LT(LargestDifference(DecodeLogits(model, ids), *logits), 1e-4f);

  const size_t size = ids.size() * config.hidden;
  const std::vector<size_t> states = {config.layers + 1, ids.size(),
                                      config.hidden};
  const auto hidden_states = golden->Floats("hidden_states", states);
  ASSERT_TRUE(hidden_states.ok()) << hidden_states.status().message();
  KvCache cache(config, WeightType::kF32, ids.size());
  std::vector<float> hidden(size);
  ASSERT_TRUE(model.Embed(ids, hidden.data()).ok());
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const auto expected = std::span(*hidden_states).subspan(layer * size, size);
    EXPECT_LT(LargestDifference(hidden, expected), layer == 0 ? 1e-6f : 2e-5f)
        << "layer " << layer;
    model.ForwardLayer(layer, hidden.data(), ids.size(), cache);
  }
}

// Also for caches that round, where a window begins at any position. The two
// paths add in different orders, so a value between two stored ones may become
// either: seldom, so that the logits differ by less than half of what rounding
// every value changes.
TEST_P(FamilyFixtureTest, PrefillAndDecodeAgreeForEveryKindOfCache) {
  const auto checkpoint = Checkpoint::Open(FixtureFolder(GetParam()));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const ModelConfig& config = checkpoint->config();
  const std::vector<int> ids = SyntheticIds(config, 40, 3);
  Model exact = MakeModel(config, *checkpoint, nullptr, {});
  const std::vector<float> unrounded = DecodeLogits(exact, ids);
  for (const WeightType type : kKvTypes) {
    Model model = MakeModel(config, *checkpoint, nullptr, {.kv_type = type});
    const std::vector<float> logits = DecodeLogits(model, ids);
    EXPECT_EQ(DecodeTogether(model, ids, 6), logits) << Name(type);
    const float rounding = LargestDifference(logits, unrounded);
    EXPECT_EQ(rounding == 0, type == WeightType::kF32) << Name(type);
    EXPECT_LT(LargestDifference(PrefillLogits(model, ids), logits),
              std::max(1e-4f, rounding / 2))
        << Name(type);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyFixtureTest,
                         testing::Values("llama3", "llama_biases", "llama_yarn",
                                         "mistral", "qwen2", "qwen3", "gemma",
                                         "gemma2", "gemma3", "phi3", "olmo2",
                                         "gpt_neox"),
                         [](const auto& info) { return info.param; });

// phi3 with a boundary of 16 positions: what its fixture holds for longer
// sequences.
class LongropeTest : public testing::Test {
 protected:
  static constexpr size_t kLongFrom = 16;

  void SetUp() override {
    const std::string from = FixtureFolder("phi3");
    json config = json::parse(ReadAll(from + "/config.json"));
    config["original_max_position_embeddings"] = kLongFrom;
    // Transformers put it there for the config that is in the fixture.
    config["rope_parameters"].erase("original_max_position_embeddings");
    WriteAll(folder_.File("config.json"), config.dump());
    fs::copy_file(from + "/model.safetensors",
                  folder_.File("model.safetensors"));
    auto checkpoint = Checkpoint::Open(folder_.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    checkpoint_.emplace(std::move(checkpoint).value());
    auto golden = SafetensorsFile::Open(from + "/golden.safetensors");
    ASSERT_TRUE(golden.ok());
    golden_.emplace(std::move(golden).value());
    ids_ = IdsOf(*golden_, "input_ids");
  }
  Model Make() {
    return MakeModel(checkpoint_->config(), *checkpoint_, nullptr, {});
  }

  TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<SafetensorsFile> golden_;
  std::vector<int> ids_;
};

TEST_F(LongropeTest, LongSequencesHaveTheLongFactors) {
  Model model = Make();
  const std::vector<size_t> shape = {ids_.size(), checkpoint_->config().vocab};
  const auto logits = golden_->Floats("long_logits", shape);
  ASSERT_TRUE(logits.ok()) << logits.status().message();
  EXPECT_LT(LargestDifference(PrefillLogits(model, ids_), *logits), 1e-4f);
}

// Transformers computes all keys again when a sequence becomes long.
TEST_F(LongropeTest, GenerationIntoALongSequence) {
  Model model = Make();
  const auto prompt = std::span(ids_).first(kLongFrom - 4);
  for (const size_t lookup : {0, 1, 5, 15}) {
    const auto generated = Generate(model, prompt, 12, {}, {}, lookup);
    ASSERT_TRUE(generated.ok()) << generated.status().message();
    EXPECT_EQ(generated->ids, IdsOf(*golden_, "long_generated")) << lookup;
  }
}

// Drafts end where the sequence becomes long.
TEST_F(LongropeTest, DraftsUpToALongSequence) {
  Model model = Make();
  DraftCounts before, all;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    // What repeats, so that there are drafts.
    std::vector<int> prompt = SyntheticIds(checkpoint_->config(), 7, seed);
    prompt.resize(kLongFrom - 2);
    std::copy_n(prompt.begin(), 7, prompt.begin() + 7);
    // What comes of the prompt was in it, where this changes nothing else.
    const auto first = Generate(model, prompt, 1, {}, {});
    ASSERT_TRUE(first.ok()) << first.status().message();
    if (!first->ids.empty()) prompt.front() = first->ids.front();
    const auto expected = Generate(model, prompt, 12, {}, {});
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    for (const size_t lookup : {1, 5, 15}) {
      const auto generated = Generate(model, prompt, 12, {}, {}, lookup);
      ASSERT_TRUE(generated.ok()) << generated.status().message();
      EXPECT_EQ(generated->ids, expected->ids) << seed << ", " << lookup;
      EXPECT_EQ(generated->drafts.failed, 0u);
      all.drafted += generated->drafts.drafted;
      all.accepted += generated->drafts.accepted;
      // The pass after the prompt's ends at the last short position, and the
      // last token is not drafted.
      const auto shorter = Generate(model, prompt, 3, {}, {}, lookup);
      ASSERT_TRUE(shorter.ok()) << shorter.status().message();
      before.drafted += shorter->drafts.drafted;
      before.accepted += shorter->drafts.accepted;
    }
  }
  EXPECT_GT(before.drafted, 0u);
  EXPECT_GT(all.drafted, before.drafted);
  EXPECT_GT(all.accepted, 0u);
}

TEST_F(LongropeTest, ACacheKeepsItsFactors) {
  Model model = Make();
  auto cache = model.NewCache(ids_.size());
  ASSERT_TRUE(cache.ok());
  const std::span<const int> ids = ids_;
  ASSERT_TRUE(model.Forward(ids.first(kLongFrom), *cache, {}).ok());
  const Status passed = model.Forward(ids.subspan(kLongFrom, 1), *cache, {});
  ASSERT_FALSE(passed.ok());
  EXPECT_NE(passed.message().find("longrope"), std::string::npos)
      << passed.message();
  cache->Clear();
  ASSERT_TRUE(model.Forward(ids.first(kLongFrom + 1), *cache, {}).ok());
  EXPECT_TRUE(model.Forward(ids.subspan(kLongFrom + 1, 1), *cache, {}).ok());
}

// Synthetic checkpoints of every family.
class EveryFamilyTest : public testing::TestWithParam<std::string> {
 protected:
  static ModelConfig Config() {
    ModelConfig config = FindFamily(GetParam())->defaults;
    const ModelConfig tiny = TinyConfig();
    config.hidden = tiny.hidden;
    config.layers = tiny.layers;
    config.heads = tiny.heads;
    config.kv_heads =
        FindFamily(GetParam())->groups_heads ? tiny.kv_heads : tiny.heads;
    config.head_dim = tiny.head_dim;
    config.mlp = tiny.mlp;
    config.vocab = tiny.vocab;
    config.max_positions = tiny.max_positions;
    return config;
  }
};

TEST_P(EveryFamilyTest, CheckpointsAreWrittenAndReadBack) {
  const ModelConfig config = Config();
  TemporaryFolder folder;
  ASSERT_TRUE(WriteSyntheticCheckpoint(config, 5, folder.path()).ok());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->config(), config);
  const std::vector<int> ids = SyntheticIds(config, 9, 1);
  Model model = MakeModel(config, *checkpoint);
  const std::vector<float> logits = DecodeLogits(model, ids);
  const SyntheticWeights weights(config, 5);
  Model synthetic = MakeModel(config, weights);
  EXPECT_EQ(DecodeLogits(synthetic, ids), logits);
  for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_LT(LargestDifference(PrefillLogits(model, ids), logits), 1e-3f);
}

// Rank adapters of full rank without thresholds compute what they replace.
TEST_P(EveryFamilyTest, AdaptersOfFullRankChangeNothing) {
  const ModelConfig config = Config();
  const SyntheticWeights weights(config, 5);
  const std::vector<int> ids = SyntheticIds(config, 9, 1);
  Model dense = MakeModel(config, weights);
  const std::vector<float> logits = DecodeLogits(dense, ids);

  Adapter adapter;
  const auto add = [&](const std::string& module,
                       const std::vector<TensorShape>& tensors) {
    std::vector<std::string> names;
    std::vector<size_t> heights;
    size_t rows = 0;
    for (const TensorShape& tensor : tensors) {
      names.push_back(tensor.name);
      heights.push_back(tensor.rows);
      rows += tensor.rows;
    }
    const size_t cols = tensors.front().cols;
    const auto packed =
        weights.Pack(names, heights, cols, WeightType::kF32, Layout::kInOut);
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    // W = W I: A is W, rank-major, and B the identity.
    RankAdapter rank;
    rank.module = module;
    rank.rows = rows;
    rank.cols = rank.d = cols;
    rank.a.resize(cols * rows);
    for (size_t j = 0; j < cols; ++j) {
      for (size_t i = 0; i < rows; ++i) rank.a[j * rows + i] = packed->At(i, j);
    }
    rank.b.resize(cols * cols);
    for (size_t j = 0; j < cols; ++j) rank.b[j * cols + j] = 1;
    rank.tau.assign(cols, 0.0f);
    adapter.ranks[module] = std::move(rank);
  };
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    add(block[Site::kAttentionInput].name,
        block[Site::kAttentionInput].direct.front().tensors);
    for (const TensorShape& tensor :
         block[Site::kMlpInput].direct.front().tensors) {
      add(ModuleOf(tensor), {tensor});
    }
    add(block[Site::kAttentionOutput].name,
        block[Site::kAttentionOutput].direct.front().tensors);
    InputMask mask;
    mask.module = block[Site::kMlpHidden].name;
    mask.cols = config.mlp;
    mask.tau.assign(config.mlp, 0.0f);
    mask.density = 1;
    adapter.masks[mask.module] = std::move(mask);
  }
  Model adapted = MakeModel(config, weights, &adapter);
  EXPECT_LT(LargestDifference(DecodeLogits(adapted, ids), logits), 1e-3f);
  EXPECT_LT(LargestDifference(PrefillLogits(adapted, ids), logits), 1e-3f);
}

TEST_P(EveryFamilyTest, SyntheticAdaptersFit) {
  ModelConfig config = Config();
  config.mlp = 384;
  const SyntheticWeights weights(config, 5);
  const auto adapter = SyntheticAdapter(config, 0.7);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  Model model = MakeModel(config, weights, &*adapter);
  ASSERT_TRUE(model.FitThresholds(SyntheticIds(config, 64, 1)).ok());
  // Prefill and decoding add in other orders. In a few sequences that puts a
  // value on the other side of its threshold, which ones depends on the CPU.
  size_t agreeing = 0;
  for (unsigned seed = 2; seed < 10; ++seed) {
    const std::vector<int> ids = SyntheticIds(config, 4, seed);
    const std::vector<float> decoded = DecodeLogits(model, ids);
    agreeing += LargestDifference(PrefillLogits(model, ids), decoded) < 1e-3f;
  }
  EXPECT_GE(agreeing, 5u);
  const ForwardCounters counters = model.counters();
  const double ratio =
      counters.block_macs /
      static_cast<double>(counters.tokens * config.LinearMacs());
  EXPECT_NEAR(ratio, 0.7, 0.05);
}

INSTANTIATE_TEST_SUITE_P(All, EveryFamilyTest, testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const ModelFamily& family : Families()) {
                             names.push_back(family.defaults.family);
                           }
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace rankforge
