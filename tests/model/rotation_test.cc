// Blocks that hold the residual stream in another basis compute the same.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/family.h"
#include "runtime/model/use/layer_comparison.h"
#include "runtime/model/use/packed_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

// (n, n), by Gram and Schmidt, twice.
std::vector<float> RandomOrthogonal(size_t n, unsigned seed) {
  const std::vector<float> random = RandomVector(n * n, seed);
  std::vector<double> rows(random.begin(), random.end());
  const auto row = [&](size_t i) { return rows.begin() + i * n; };
  for (size_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t k = 0; k < i; ++k) {
        const double dot = std::inner_product(row(i), row(i) + n, row(k), 0.0);
        for (size_t j = 0; j < n; ++j) row(i)[j] -= dot * row(k)[j];
      }
    }
    const double norm =
        std::sqrt(std::inner_product(row(i), row(i) + n, row(i), 0.0));
    for (size_t j = 0; j < n; ++j) row(i)[j] /= norm;
  }
  return {rows.begin(), rows.end()};
}

// 'Q' begins a group with a basis of its own, 'q' goes on with it, '-' begins
// or goes on with blocks that are not rotated.
Rotation MakeRotation(size_t hidden, const std::string& blocks) {
  Rotation rotation{hidden, {}};
  for (size_t block = 0; block < blocks.size(); ++block) {
    const char kind = blocks[block];
    if (kind == 'q' || (kind == '-' && block > 0 && blocks[block - 1] == '-')) {
      continue;
    }
    rotation.groups.push_back({block, kind == 'Q', {}});
    if (kind == 'Q') {
      rotation.groups.back().q =
          RandomOrthogonal(hidden, static_cast<unsigned>(block + 1));
    }
  }
  return rotation;
}

// Rank adapters of full rank, W = W I, of all projections, in the bases of the
// adapter.
void AddFullRanks(const ModelConfig& config, const WeightSource& weights,
                  Adapter& adapter) {
  const FoldedWeights rotated(config, weights, &adapter);
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const Site site : kSites) {
      const ProjectionSpec& projection = block[site];
      const WeightSource& source =
          ReadsStream(site) ? static_cast<const WeightSource&>(rotated)
                            : weights;
      std::vector<std::string> names;
      std::vector<size_t> heights;
      for (const TensorShape& tensor : projection.direct.front().tensors) {
        names.push_back(tensor.name);
        heights.push_back(tensor.rows);
      }
      const size_t rows = projection.rows, cols = projection.cols;
      const auto w =
          source.Pack(names, heights, cols, WeightType::kF32, Layout::kOutIn);
      ASSERT_TRUE(w.ok()) << w.status().message();
      RankAdapter& rank = adapter.ranks[projection.name];
      rank.module = projection.name;
      rank.rows = rows;
      rank.cols = rank.d = cols;
      rank.a.resize(cols * rows);
      rank.b.resize(cols * cols);
      for (size_t j = 0; j < cols; ++j) {
        for (size_t i = 0; i < rows; ++i) rank.a[j * rows + i] = w->At(i, j);
        rank.b[j * cols + j] = 1;
      }
      rank.tau.assign(cols, 0.0f);
      rank.density = 1;
    }
  }
}

size_t Turns(const ModelSpec& spec) {
  size_t turns = 0;
  for (const BlockSpec& block : spec.blocks) {
    turns += block.enter.has_value() + block.leave.has_value();
  }
  return turns;
}

// The checkpoints that Transformers' logits are known of, two blocks each.
class RotatedFixtureTest : public testing::TestWithParam<std::string> {
 protected:
  Checkpoint checkpoint_ =
      Checkpoint::Open(RANKFORGE_SOURCE_DIR "/tests/model/data/families/" +
                       GetParam())
          .value();
  const ModelConfig& config_ = checkpoint_.config();
  std::vector<int> ids_ = SyntheticIds(config_, 24, 3);
};

TEST_P(RotatedFixtureTest, LogitsStay) {
  Model dense = MakeModel(config_, checkpoint_);
  const std::vector<float> logits = DecodeLogits(dense, ids_);
  for (const char* blocks : {"Qq", "QQ", "-Q", "Q-"}) {
    for (const bool ranks : {false, true}) {
      Adapter adapter;
      adapter.rotation = MakeRotation(config_.hidden, blocks);
      if (ranks) {
        AddFullRanks(config_, checkpoint_, adapter);
      } else {
        AddMasks(config_, 0, adapter);
      }
      Model rotated = MakeModel(config_, checkpoint_, &adapter, {.threads = 2});
      EXPECT_LT(LargestDifference(DecodeLogits(rotated, ids_), logits), 1e-4f)
          << blocks << ranks;
      EXPECT_LT(LargestDifference(PrefillLogits(rotated, ids_), logits), 1e-4f)
          << blocks << ranks;
    }
  }
}

TEST_P(RotatedFixtureTest, APackHoldsFoldedWeights) {
  TemporaryFolder folder;
  const std::string path = folder.File("rotated.pack");
  for (const bool ranks : {false, true}) {
    for (const WeightType type : {WeightType::kF32, WeightType::kI8Group32}) {
      Adapter adapter;
      adapter.rotation = MakeRotation(config_.hidden, "QQ");
      if (ranks) AddFullRanks(config_, checkpoint_, adapter);
      const ModelOptions options{.type = type, .threads = 2};
      Model rotated = MakeModel(config_, checkpoint_, &adapter, options);
      const PackOrigin origin{"checkpoint", "adapter"};
      const auto written =
          WritePack(config_, checkpoint_, &adapter, Dispatcher(nullptr),
                    options, origin, path, [](size_t, size_t) {});
      ASSERT_TRUE(written.ok()) << written.status().message();
      const PackedWeights pack =
          PackedWeights::Open(path, checkpoint_, origin).value();
      Adapter bare = adapter;
      for (RotationGroup& group : bare.rotation.groups) group.q.clear();
      for (auto& [module, rank] : bare.ranks) rank.a = rank.b = {};
      const std::vector<float> expected = DecodeLogits(rotated, ids_);
      // Also where the adapter has its matrices.
      for (const Adapter* with : {&bare, &adapter}) {
        if (ranks && with == &adapter) continue;
        Model packed = MakeModel(config_, pack, with, options);
        EXPECT_EQ(DecodeLogits(packed, ids_), expected);
      }
      const auto without =
          Model::Create(config_, checkpoint_, &bare, Dispatcher(nullptr),
                        options, MakeDefaultExecutor(1));
      EXPECT_FALSE(without.ok());
    }
  }
}

TEST_P(RotatedFixtureTest, MasksReadTheStreamInItsBasis) {
  struct First : ActivationObserver {
    void Observe(size_t layer, Site site, const float* x, size_t tokens,
                 size_t width) override {
      if (layer == 0 && site == Site::kAttentionInput) {
        values.assign(x, x + tokens * width);
      }
    }
    std::vector<float> values;
  } first;
  Adapter adapter;
  adapter.rotation = MakeRotation(config_.hidden, "Qq");
  Model rotated = MakeModel(config_, checkpoint_, &adapter);
  rotated.set_observer(&first);
  const std::vector<int> ids = {5};
  DecodeLogits(rotated, ids);

  const size_t n = config_.hidden;
  std::vector<float> h(n);
  ASSERT_TRUE(rotated.Embed(ids, h.data()).ok());
  double mean = 0, squares = 0;
  if (config_.norm == NormKind::kLayer) {
    mean = std::accumulate(h.begin(), h.end(), 0.0) / static_cast<double>(n);
  }
  for (const float value : h) squares += (value - mean) * (value - mean);
  const double rms = std::sqrt(squares / static_cast<double>(n) +
                               static_cast<double>(config_.norm_epsilon));
  const std::vector<float>& q = adapter.rotation.groups.front().q;
  ASSERT_EQ(first.values.size(), n);
  for (size_t k = 0; k < n; ++k) {
    double expected = 0;
    for (size_t i = 0; i < n; ++i) {
      expected += q[i * n + k] * (h[i] - mean) / rms;
    }
    EXPECT_NEAR(first.values[k], expected, 1e-5);
  }
}

// Dense layers of the same basis compute the same, so their errors are zero.
TEST_P(RotatedFixtureTest, LayersAreComparedInTheirBasis) {
  Adapter adapter;
  adapter.rotation = MakeRotation(config_.hidden, "Q-");
  AddMasks(config_, 0, adapter);
  Model rotated = MakeModel(config_, checkpoint_, &adapter);
  const auto comparison =
      LayerComparison::Create(rotated, checkpoint_, adapter);
  ASSERT_TRUE(comparison.ok()) << comparison.status().message();
  rotated.set_observer(comparison->get());
  PrefillLogits(rotated, ids_);
  const auto figures = (*comparison)->Figures();
  EXPECT_GE(figures.size(), adapter.masks.size());
  for (const auto& [module, layer] : figures) {
    EXPECT_LT(layer.error, 1e-9) << module;
  }
}

INSTANTIATE_TEST_SUITE_P(All, RotatedFixtureTest,
                         testing::Values("llama3", "llama_biases", "llama_yarn",
                                         "mistral", "qwen2", "qwen3", "gemma",
                                         "phi3", "gpt_neox"),
                         [](const auto& info) { return info.param; });

// Synthetic checkpoints: parallel blocks, three of them.
class RotationTest : public testing::Test {
 protected:
  static ModelConfig Parallel() {
    ModelConfig config = FindFamily("gpt_neox")->defaults;
    const ModelConfig tiny = TinyConfig();
    config.hidden = tiny.hidden;
    config.layers = tiny.layers;
    config.heads = config.kv_heads = tiny.heads;
    config.head_dim = tiny.head_dim;
    config.mlp = tiny.mlp;
    config.vocab = tiny.vocab;
    return config;
  }
  static std::string Refusal(const ModelConfig& config,
                             const Rotation& rotation) {
    Adapter adapter;
    adapter.rotation = rotation;
    const Status status = CheckAdapter(config, adapter);
    EXPECT_FALSE(status.ok());
    return status.message();
  }
  // What LoadAdapter says of `rotation` in a file.
  std::string RefusalOfFile(const Rotation& rotation) const {
    Adapter adapter;
    adapter.checkpoint_hash = "0123";
    adapter.rotation = rotation;
    EXPECT_TRUE(SaveAdapter(adapter, path_).ok());
    const auto loaded = LoadAdapter(path_, "0123");
    EXPECT_FALSE(loaded.ok());
    EXPECT_NE(loaded.status().message().find(path_), std::string::npos);
    return loaded.status().message();
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("a.safetensors");
};

TEST_F(RotationTest, ParallelBlocks) {
  const ModelConfig config = Parallel();
  ASSERT_TRUE(config.parallel_blocks);
  const SyntheticWeights weights(config, 5);
  const std::vector<int> ids = SyntheticIds(config, 9, 1);
  Model dense = MakeModel(config, weights);
  const std::vector<float> logits = DecodeLogits(dense, ids);
  for (const char* blocks : {"QqQ", "Q-Q", "-Qq", "QQ-"}) {
    Adapter adapter;
    adapter.rotation = MakeRotation(config.hidden, blocks);
    Model rotated = MakeModel(config, weights, &adapter);
    const std::vector<float> decoded = DecodeLogits(rotated, ids);
    EXPECT_LT(LargestDifference(decoded, logits), 1e-3f) << blocks;
    EXPECT_EQ(DecodeTogether(rotated, ids, 4), decoded) << blocks;
    EXPECT_LT(LargestDifference(PrefillLogits(rotated, ids), logits), 1e-3f)
        << blocks;
  }
}

// Routers judge the stream, and layers are left out, in any basis as in none.
// Blocks at the border of a group turn the stream even where they are left out.
TEST_F(RotationTest, LayersThatAPromptLeavesOut) {
  ModelConfig config = TinyConfig();
  config.layers = 5;
  const SyntheticWeights weights(config, 5);
  const std::vector<int> ids = SyntheticIds(config, 20, 1);
  Adapter plain;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    plain.skip.routers[layer] =
        RandomVector(config.hidden, static_cast<unsigned>(layer + 9), 2);
  }
  const auto run = [&](const Adapter& adapter, const SkipOptions& skip,
                       LayerDecision& decision) {
    Model model = MakeModel(config, weights, &adapter, {.skip = skip});
    KvCache cache = model.NewCache(ids.size()).value();
    std::vector<float> logits(9 * config.vocab);
    EXPECT_TRUE(model
                    .Forward(std::span(ids).first(12), cache,
                             {logits.data(), config.vocab})
                    .ok());
    EXPECT_TRUE(model.EndPrompt(cache).ok());
    for (size_t i = 12; i < ids.size(); ++i) {
      EXPECT_TRUE(
          model
              .Forward(std::span(ids).subspan(i, 1), cache,
                       {logits.data() + (i - 11) * config.vocab, config.vocab})
              .ok());
    }
    decision = cache.decision().value_or(LayerDecision());
    return logits;
  };
  const std::vector<SkipOptions> options = {
      {.threshold = 1},      {.layers = {1}},
      {.layers = {2}},       {.layers = {3}},
      {.layers = {1, 2, 3}}, {.always_on = {{0, 0}}, .layers = {0, 4}}};
  for (const SkipOptions& skip : options) {
    LayerDecision expected;
    const std::vector<float> logits = run(plain, skip, expected);
    for (const char* blocks : {"QqQqq", "Q-Q-Q", "-Qq--", "QQQQQ", "--QqQ"}) {
      Adapter adapter = plain;
      adapter.rotation = MakeRotation(config.hidden, blocks);
      LayerDecision decision;
      EXPECT_LT(LargestDifference(run(adapter, skip, decision), logits), 1e-3f)
          << blocks;
      EXPECT_EQ(decision.skipped, expected.skipped) << blocks;
      for (const auto& [layer, rho] : expected.rho) {
        EXPECT_NEAR(decision.rho.at(layer), rho, 1e-4) << blocks << layer;
      }
    }
  }
}

// Without its matrices, an adapter still has the bases that routers read in.
TEST_F(RotationTest, RoutersNeedTheirBases) {
  ModelConfig config = TinyConfig();
  Adapter adapter;
  adapter.checkpoint_hash = "0123";
  adapter.rotation = MakeRotation(config.hidden, "QQq");
  adapter.skip.routers[1] = RandomVector(config.hidden, 3);
  ASSERT_TRUE(SaveAdapter(adapter, path_).ok());
  const auto bare = LoadAdapter(path_, "0123", AdapterParts::kWithoutMatrices);
  ASSERT_TRUE(bare.ok()) << bare.status().message();
  // Block 1 finds the stream as block 0 leaves it.
  EXPECT_EQ(bare->rotation.groups[0].q, adapter.rotation.groups[0].q);
  EXPECT_TRUE(bare->rotation.groups[1].q.empty());
  // A LayerNorm takes the mean away before the stream is turned.
  config = Parallel();
  EXPECT_NE(CheckAdapter(config, adapter).message().find("lacks its mean"),
            std::string::npos);
  adapter.skip.routers = {{0, RandomVector(config.hidden, 3)}};
  EXPECT_TRUE(CheckAdapter(config, adapter).ok());
}

TEST_F(RotationTest, ProductsThatTurnTheStreamAreCounted) {
  const ModelConfig config = TinyConfig();
  const SyntheticWeights weights(config, 5);
  const std::vector<std::pair<const char*, size_t>> cases = {
      {"Qqq", 2}, {"QqQ", 3}, {"Q-Q", 4}, {"---", 0}, {"-Q-", 2}};
  for (const auto& [blocks, turns] : cases) {
    Adapter adapter;
    adapter.rotation = MakeRotation(config.hidden, blocks);
    const ModelSpec spec = DescribeModel(config, &adapter);
    EXPECT_EQ(Turns(spec), turns) << blocks;
    const ModelOptions options{.type = WeightType::kI4Group32};
    const size_t products = DecodeSequence(config, nullptr, options).size();
    const std::vector<Problem> sequence =
        DecodeSequence(config, &adapter, options);
    EXPECT_EQ(sequence.size(), products + turns);
    size_t in_8_bits = 0;
    for (const Problem& problem : sequence) {
      in_8_bits += problem.type == WeightType::kI8Group32;
    }
    EXPECT_EQ(in_8_bits, turns);
    Model model = MakeModel(config, weights, &adapter);
    Model dense = MakeModel(config, weights);
    const std::vector<int> ids = SyntheticIds(config, 5, 1);
    for (const auto run : {&DecodeLogits, &PrefillLogits}) {
      model.ResetCounters();
      dense.ResetCounters();
      run(model, ids);
      run(dense, ids);
      const double squares = static_cast<double>(turns) * 5 *
                             static_cast<double>(config.hidden) *
                             static_cast<double>(config.hidden);
      EXPECT_EQ(model.counters().block_macs - dense.counters().block_macs,
                squares);
      EXPECT_EQ(model.counters().weight_bytes - dense.counters().weight_bytes,
                4 * squares);
    }
    EXPECT_EQ(model.packed_bytes() - dense.packed_bytes(),
              turns * config.hidden * config.hidden * sizeof(float));
  }
}

TEST_F(RotationTest, FilesKeepBases) {
  Adapter adapter;
  adapter.checkpoint_hash = "0123";
  adapter.rotation = MakeRotation(32, "Q-Q");
  ASSERT_TRUE(SaveAdapter(adapter, path_).ok());
  const auto loaded = LoadAdapter(path_, "0123");
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  ASSERT_EQ(loaded->rotation.groups.size(), 3);
  EXPECT_EQ(loaded->rotation.hidden, 32);
  for (size_t i = 0; i < 3; ++i) {
    const RotationGroup& written = adapter.rotation.groups[i];
    const RotationGroup& read = loaded->rotation.groups[i];
    EXPECT_EQ(read.first_block, written.first_block);
    EXPECT_EQ(read.rotated, written.rotated);
    EXPECT_EQ(read.q, written.q);
  }
  EXPECT_EQ(loaded->rotation.Of(1), nullptr);
  EXPECT_EQ(loaded->rotation.Of(7), &loaded->rotation.groups[2]);
  const auto bare = LoadAdapter(path_, "0123", AdapterParts::kWithoutMatrices);
  ASSERT_TRUE(bare.ok()) << bare.status().message();
  EXPECT_TRUE(bare->rotation.groups[0].rotated);
  EXPECT_TRUE(bare->rotation.groups[0].q.empty());
}

TEST_F(RotationTest, WhatIsNotOrthogonalIsAnError) {
  const Rotation good = MakeRotation(32, "-Q");
  const auto with =
      [&](const std::function<void(std::vector<float>&)>& change) {
        Rotation wrong = good;
        change(wrong.groups[1].q);
        return RefusalOfFile(wrong);
      };
  const auto expect = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find("'rotation.1.Q'"), std::string::npos) << message;
  };
  expect(with([](auto& q) { q[5 * 32 + 7] = NAN; }), "has nan at (5, 7)");
  expect(with([](auto& q) { q[0] = INFINITY; }), "has inf at (0, 0)");
  expect(with([](auto& q) { q[5 * 32 + 7] += 1e-2f; }), "not orthogonal");
  expect(with([](auto& q) { std::fill_n(q.begin(), 32, 0.0f); }),
         "not orthogonal");
  expect(with([](auto& q) {
           for (float& value : q) value *= 1.001f;
         }),
         "not orthogonal");
}

TEST_F(RotationTest, GroupsAreInOrder) {
  for (const auto& firsts :
       std::vector<std::vector<size_t>>{{1}, {0, 0}, {0, 3, 2}, {0, 3, 3}}) {
    Rotation rotation{32, {}};
    for (const size_t first : firsts) {
      rotation.groups.push_back({first, false, {}});
    }
    EXPECT_NE(RefusalOfFile(rotation).find("'rotation.groups'"),
              std::string::npos);
  }
}

TEST_F(RotationTest, OnlyWhatFitsTheModel) {
  const ModelConfig config = TinyConfig();
  const auto expect = [&](const Rotation& rotation, const char* part) {
    const std::string message = Refusal(config, rotation);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(MakeRotation(32, "Q"), "32 hidden values, the model has 96");
  expect(MakeRotation(96, "Q--Q"), "from block 3, the model has 3");
  Rotation cut = MakeRotation(96, "Q");
  cut.groups[0].q.pop_back();
  expect(cut, "9215 values");
}

TEST_F(RotationTest, NormsOfOutputsAreRefused) {
  size_t refused = 0;
  for (const ModelFamily& family : Families()) {
    if (family.attention_out_norm.empty()) continue;
    ModelConfig config = TinyConfig();
    config.family = family.defaults.family;
    const std::string message = Refusal(config, MakeRotation(96, "Q"));
    EXPECT_NE(message.find(config.family), std::string::npos) << message;
    EXPECT_NE(message.find("norms after attention"), std::string::npos);
    ++refused;
  }
  EXPECT_EQ(refused, 3u);  // gemma2, gemma3_text, olmo2
}

}  // namespace
}  // namespace rankforge
