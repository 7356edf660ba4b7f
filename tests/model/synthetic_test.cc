// Synthetic weights, checkpoints and adapters.
#include "runtime/model/weights/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

constexpr std::string_view kUp = "model.layers.0.mlp.up_proj.weight";

PackedMatrix PackUp(uint64_t seed, size_t rows, size_t cols, WeightType type,
                    Layout layout) {
  const SyntheticWeights weights(TinyConfig(), seed);
  const std::vector<std::string> names = {std::string(kUp), "other"};
  const std::vector<size_t> heights = {rows - 1, 1};
  auto packed = weights.Pack(names, heights, cols, type, layout);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return std::move(packed).value();
}

TEST(SyntheticTest, AWeightDependsOnItsPlaceAlone) {
  constexpr size_t kRows = 200, kCols = 77;
  const PackedMatrix reference =
      PackUp(3, kRows, kCols, WeightType::kF32, Layout::kOutIn);
  double sum = 0, squares = 0;
  for (const Layout layout : kLayouts) {
    // The others round what is a bf16.
    for (const WeightType type : {WeightType::kF32, WeightType::kBf16}) {
      if (!Offers(layout, type)) continue;
      const PackedMatrix packed = PackUp(3, kRows, kCols, type, layout);
      for (size_t row = 0; row < kRows; ++row) {
        for (size_t col = 0; col < kCols; ++col) {
          ASSERT_EQ(packed.At(row, col), reference.At(row, col))
              << Name(layout) << " " << row << " " << col;
        }
      }
      // All that is stored beside the weights is zero.
      const auto count_nonzero = [&](auto* data) {
        size_t count = 0;
        for (size_t i = 0; i < packed.bytes() / sizeof(*data); ++i) {
          count += data[i] != 0;
        }
        return count;
      };
      const size_t stored =
          type == WeightType::kF32
              ? count_nonzero(reinterpret_cast<const float*>(packed.data()))
              : count_nonzero(reinterpret_cast<const uint16_t*>(packed.data()));
      EXPECT_LE(stored, kRows * kCols);
      EXPECT_GT(stored, kRows * kCols - 10);
    }
  }
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t col = 0; col < kCols; ++col) {
      sum += reference.At(row, col);
      squares += std::pow(reference.At(row, col), 2);
    }
  }
  EXPECT_NEAR(sum / (kRows * kCols), 0, 0.005);
  EXPECT_NEAR(squares / kRows, 1, 0.05);  // variance 1 / cols
  const PackedMatrix other =
      PackUp(4, kRows, kCols, WeightType::kF32, Layout::kOutIn);
  EXPECT_NE(other.At(0, 0), reference.At(0, 0));
}

TEST(SyntheticTest, CheckpointHasTheSameWeights) {
  for (const bool tied : {false, true}) {
    TemporaryFolder folder;
    ModelConfig config = TinyConfig();
    config.tied_embeddings = tied;
    const std::string path = folder.File("new/folder");
    ASSERT_TRUE(WriteSyntheticCheckpoint(config, 7, path).ok());
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    EXPECT_EQ(checkpoint->config(), config);
    const SyntheticWeights weights(config, 7);
    Model from_file = MakeModel(config, *checkpoint);
    Model generated = MakeModel(config, weights);
    const std::vector<int> ids = SyntheticIds(config, 5, 0);
    EXPECT_EQ(DecodeLogits(from_file, ids), DecodeLogits(generated, ids));
  }
}

TEST(SyntheticTest, UnwritableFolder) {
  const Status status =
      WriteSyntheticCheckpoint(TinyConfig(), 7, "/proc/nowhere/folder");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/proc/nowhere"), std::string::npos);
}

TEST(SyntheticTest, PinnedAdapterOfLlama2) {
  const auto config = FindPreset("llama-2-7b");
  ASSERT_TRUE(config.ok());
  const auto adapter = SyntheticAdapter(*config, 0.56);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  ASSERT_TRUE(CheckAdapter(*config, *adapter).ok());
  EXPECT_EQ(adapter->ranks.size(), 3 * config->layers);
  EXPECT_EQ(adapter->masks.size(), config->layers);
  const auto expect = [&](const std::string& name, double kept) {
    const RankAdapter& rank = adapter->ranks.at("model.layers.5." + name);
    EXPECT_EQ(rank.d, 3072);
    EXPECT_NEAR(rank.density * 3072, kept, 1) << name;
    EXPECT_TRUE(rank.a.empty());
  };
  expect("mlp.up_proj", 988);
  expect("mlp.gate_proj", 988);
  expect("self_attn.qkv", 1107);
  EXPECT_NEAR(adapter->masks.at("model.layers.5.mlp.down_proj").density, 0.52,
              0.001);
}

TEST(SyntheticTest, AdaptersKeepWhatIsAskedFor) {
  for (const Preset& preset : Presets()) {
    for (const double keep : {0.5, 0.56, 0.7, 0.9, 1.0}) {
      const auto adapter = SyntheticAdapter(preset.config, keep);
      if (!adapter.ok()) {  // more than that stays dense
        EXPECT_LT(keep, 0.6) << adapter.status().message();
        continue;
      }
      EXPECT_TRUE(CheckAdapter(preset.config, *adapter).ok());
      double macs = static_cast<double>(preset.config.LinearMacs());
      for (const auto& [name, rank] : adapter->ranks) {
        macs -= static_cast<double>(rank.rows * rank.cols);
        macs += static_cast<double>(rank.d) *
                (static_cast<double>(rank.cols) +
                 rank.density * static_cast<double>(rank.rows));
      }
      for (const auto& [name, mask] : adapter->masks) {
        macs -= (1 - mask.density) *
                static_cast<double>(mask.cols * preset.config.hidden);
      }
      const double ratio =
          macs / static_cast<double>(preset.config.LinearMacs());
      EXPECT_NEAR(ratio, keep, 0.002) << preset.name;
    }
  }
  EXPECT_FALSE(SyntheticAdapter(TinyConfig(), 0).ok());
  EXPECT_FALSE(SyntheticAdapter(TinyConfig(), 1.01).ok());
  EXPECT_FALSE(SyntheticAdapter(TinyConfig(), NAN).ok());
  EXPECT_FALSE(SyntheticAdapter(TinyConfig(), 0.1).ok());
}

TEST(SyntheticTest, FittedThresholdsKeepTheStatedShare) {
  const ModelConfig config = {.family = "llama",
                              .hidden = 192,
                              .layers = 2,
                              .heads = 6,
                              .kv_heads = 6,
                              .head_dim = 32,
                              .mlp = 512,
                              .vocab = 400,
                              .max_positions = 256};
  const auto adapter = SyntheticAdapter(config, 0.6);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  const SyntheticWeights weights(config, 5);
  Model model =
      MakeModel(config, weights, &*adapter, {.type = WeightType::kBf16});
  EXPECT_EQ(model.FitThresholds(SyntheticIds(config, 1, 1)).code(),
            StatusCode::kUsage);
  ASSERT_TRUE(model.FitThresholds(SyntheticIds(config, 64, 1)).ok());
  EXPECT_EQ(model.counters().tokens, 0);

  // Other tokens, decoded: about the same shares, on the real masking path.
  DecodeLogits(model, SyntheticIds(config, 64, 2));
  const ForwardCounters counters = model.counters();
  EXPECT_EQ(counters.density.size(), 4 * config.layers);
  for (const auto& [module, density] : counters.density) {
    const auto rank = adapter->ranks.find(module);
    const double stated = rank != adapter->ranks.end()
                              ? rank->second.density
                              : adapter->masks.at(module).density;
    EXPECT_NEAR(density.kept / density.total, stated, 0.05) << module;
  }
  const double ratio =
      counters.block_macs / static_cast<double>(64 * config.LinearMacs());
  EXPECT_NEAR(ratio, 0.6, 0.03);
}

}  // namespace
}  // namespace rankforge
