// A model from a pack is the model from its checkpoint, bit for bit.
#include "runtime/model/use/packed_weights.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>

#include "kernels/registry.h"
#include "meta/rules.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/use/generate.h"
#include "tests/model/model_testing.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

// An adapter with every kind of module and random values.
Adapter RandomAdapter(const ModelConfig& config) {
  Adapter adapter = SyntheticAdapter(config, 0.8).value();
  unsigned seed = 0;
  for (auto& [module, rank] : adapter.ranks) {
    const float scale = 1 / std::sqrt(static_cast<float>(rank.cols));
    rank.a = RandomVector(rank.d * rank.rows, ++seed, scale);
    rank.b = RandomVector(rank.d * rank.cols, ++seed, scale);
    rank.tau.assign(rank.d, 0.5f);
  }
  for (auto& [module, mask] : adapter.masks) mask.tau.assign(mask.cols, 0.1f);
  return adapter;
}

class PackedWeightsTest : public testing::Test {
 protected:
  void Write(const Adapter* adapter, const ModelOptions& options,
             const PackOrigin& origin = {"checkpoint", ""}) {
    size_t last = 0, all = 0;
    const auto summary =
        WritePack(config_, weights_, adapter, Dispatcher(nullptr), options,
                  origin, path_, [&](size_t done, size_t total) {
                    last = done;
                    all = total;
                  });
    ASSERT_TRUE(summary.ok()) << summary.status().message();
    EXPECT_EQ(last, all);
    EXPECT_EQ(summary->matrices, all);
    EXPECT_GT(summary->bytes, 0u);
  }
  PackedWeights Open(const PackOrigin& origin = {"checkpoint", ""}) {
    return PackedWeights::Open(path_, weights_, origin).value();
  }
  // Why the model cannot be made from the pack.
  std::string Refusal(const ModelOptions& options,
                      const Adapter* adapter = nullptr) {
    const PackedWeights pack = Open();
    const auto model =
        Model::Create(config_, pack, adapter, Dispatcher(nullptr), options,
                      MakeDefaultExecutor(2));
    EXPECT_FALSE(model.ok());
    EXPECT_EQ(model.status().code(), StatusCode::kUsage);
    const std::string& message = model.status().message();
    EXPECT_NE(message.find(path_), std::string::npos) << message;
    EXPECT_NE(message.find("rankforge pack"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }

  const ModelConfig config_ = TinyConfig();
  const SyntheticWeights weights_{config_, 11};
  const std::vector<int> ids_ = SyntheticIds(config_, 12, 3);
  TemporaryFolder folder_;
  const std::string path_ = folder_.File("x.pack");
};

TEST_F(PackedWeightsTest, EveryTypeGivesTheSameBits) {
  const Adapter adapter = RandomAdapter(config_);
  Adapter without_matrices = adapter;
  for (auto& [module, rank] : without_matrices.ranks) {
    rank.a.clear();
    rank.b.clear();
  }
  for (const bool adapted : {false, true}) {
    for (const WeightType type : kWeightTypes) {
      const ModelOptions options = {
          .type = type, .lm_head_type = WeightType::kBf16, .threads = 2};
      Write(adapted ? &adapter : nullptr, options);
      const PackedWeights pack = Open();
      Model expected =
          MakeModel(config_, weights_, adapted ? &adapter : nullptr, options);
      Model packed = MakeModel(config_, pack,
                               adapted ? &without_matrices : nullptr, options);
      EXPECT_EQ(DecodeLogits(packed, ids_), DecodeLogits(expected, ids_));
      EXPECT_EQ(PrefillLogits(packed, ids_), PrefillLogits(expected, ids_));
      // Summed in another order where blocks are packed by several threads.
      EXPECT_DOUBLE_EQ(packed.quantization_error().Relative(),
                       expected.quantization_error().Relative());
      EXPECT_EQ(packed.packed_bytes(), expected.packed_bytes());
    }
  }
}

// A pack holds weights and no arithmetic: it serves all activations, whatever
// those that it was written with.
TEST_F(PackedWeightsTest, ServesAllActivations) {
  const Adapter adapter = RandomAdapter(config_);
  const Adapter without_matrices = WithoutMatrices(adapter);
  ModelOptions options = {.type = WeightType::kI4Group32,
                          .lm_head_type = WeightType::kI8};
  Write(&adapter, options);
  const std::string bytes = ReadAll(path_);
  options.activations = Activations::kF32;
  Write(&adapter, options);
  EXPECT_EQ(ReadAll(path_), bytes);
  const PackedWeights pack = Open();
  for (const auto activations :
       {std::optional<Activations>(), std::optional(Activations::kF32),
        std::optional(Activations::kI8)}) {
    options.activations = activations;
    Model expected = MakeModel(config_, weights_, &adapter, options);
    Model packed = MakeModel(config_, pack, &without_matrices, options);
    EXPECT_EQ(packed.activations(), expected.activations());
    EXPECT_EQ(DecodeLogits(packed, ids_), DecodeLogits(expected, ids_));
    EXPECT_EQ(PrefillLogits(packed, ids_), PrefillLogits(expected, ids_));
  }
}

// A variant that keeps dense weights in panels; empty: none in this build.
std::string VariantOfPanels() {
  for (const KernelEntry& entry : Registry::Get().entries()) {
    if (entry.spec.operation == Operation::kDense &&
        entry.spec.type == WeightType::kF32 &&
        Accepts(entry.spec, Layout::kPanel64) &&
        !Accepts(entry.spec, Layout::kOutIn)) {
      return entry.FullName();
    }
  }
  return "";
}

TEST_F(PackedWeightsTest, HoldsTheLayoutsThatWereDecided) {
  const std::string variant = VariantOfPanels();
  if (variant.empty()) GTEST_SKIP() << "the default variants alone";
  setenv("RANKFORGE_FORCE", variant.c_str(), 1);
  Write(nullptr, {});
  const PackedWeights pack = Open();
  Model expected = MakeModel(config_, weights_);
  Model packed = MakeModel(config_, pack);
  unsetenv("RANKFORGE_FORCE");
  EXPECT_EQ(DecodeLogits(packed, ids_), DecodeLogits(expected, ids_));
  const std::string message = Refusal({});
  for (const char* part : {"'layout' panel", "out_in", "--table"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST_F(PackedWeightsTest, OtherTypesAreRefused) {
  Write(nullptr, {.type = WeightType::kBf16});
  for (const ModelOptions& options : {ModelOptions{.type = WeightType::kI8},
                                      ModelOptions{.type = WeightType::kBf16,
                                      .lm_head_type = WeightType::kI8}}) {
    const std::string message = Refusal(options);
    EXPECT_NE(message.find("i8; give the --dtype"), std::string::npos)
        << message;
  }
}

TEST_F(PackedWeightsTest, OtherModulesAreRefused) {
  Write(nullptr, {});
  Adapter adapter = SyntheticAdapter(config_, 0.8).value();
  const std::string message = Refusal({}, &adapter);
  EXPECT_NE(message.find("is missing"), std::string::npos) << message;
}

TEST_F(PackedWeightsTest, OtherOriginsAreRefused) {
  const PackOrigin dense = {"one", ""};
  const PackOrigin adapted = {"one", "adapter"};
  const auto expect = [&](const PackOrigin& written, const PackOrigin& here,
                          const std::vector<std::string>& parts) {
    Write(nullptr, {}, written);
    const auto pack = PackedWeights::Open(path_, weights_, here);
    ASSERT_FALSE(pack.ok());
    EXPECT_EQ(pack.status().code(), StatusCode::kUsage);
    for (const std::string& part : parts) {
      EXPECT_NE(pack.status().message().find(part), std::string::npos)
          << pack.status().message();
    }
  };
  expect(dense, {"other", ""}, {path_, "'checkpoint' is one", "other"});
  expect(dense, adapted, {"'adapter' is none", "no --adapter"});
  expect(adapted, dense, {"'adapter' is adapter", "give the --adapter"});
  expect(adapted, {"one", "other"}, {"'adapter' is adapter", "other"});
}

TEST_F(PackedWeightsTest, SeveralLoadAndRunAtOnce) {
  Write(nullptr, {});
  Model model = MakeModel(config_, weights_);
  const std::vector<float> expected = DecodeLogits(model, ids_);
  std::vector<std::vector<float>> logits(4);
  std::vector<std::thread> threads;
  for (auto& result : logits) {
    threads.emplace_back([&] {
      const PackedWeights pack = Open();
      Model packed = MakeModel(config_, pack);
      result = DecodeLogits(packed, ids_);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : logits) EXPECT_EQ(result, expected);
}

TEST_F(PackedWeightsTest, FailuresLeaveNoFile) {
  const auto nowhere =
      WritePack(config_, weights_, nullptr, Dispatcher(nullptr), {}, {},
                folder_.File("none/x"), [](size_t, size_t) {});
  EXPECT_FALSE(nowhere.ok());
  // Shapes without values, and a source that has none either.
  const auto checkpoint = Checkpoint::Open(CheckpointFolder("llama-gqa-7m"));
  ASSERT_TRUE(checkpoint.ok());
  const Adapter adapter = SyntheticAdapter(checkpoint->config(), 0.6).value();
  const auto missing =
      WritePack(checkpoint->config(), *checkpoint, &adapter,
                Dispatcher(nullptr), {}, {}, path_, [](size_t, size_t) {});
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("rank.B"), std::string::npos);
  EXPECT_TRUE(folder_.Files().empty());
}

// A trained model with an adapter from a file, which is read without its
// matrices: the same tokens and the same bits.
TEST_F(PackedWeightsTest, TrainedModelWithAnAdapter) {
  const auto checkpoint = Checkpoint::Open(CheckpointFolder("llama-gqa-7m"));
  ASSERT_TRUE(checkpoint.ok());
  const ModelConfig& config = checkpoint->config();
  Adapter made = RandomAdapter(config);
  made.checkpoint_hash = checkpoint->Identity();
  const std::string file = folder_.File("adapter.safetensors");
  ASSERT_TRUE(SaveAdapter(made, file).ok());
  const auto adapter = LoadAdapter(file, checkpoint->Identity());
  const auto bare =
      LoadAdapter(file, checkpoint->Identity(), AdapterParts::kWithoutMatrices);
  ASSERT_TRUE(adapter.ok() && bare.ok());
  EXPECT_EQ(bare->identity, adapter->identity);
  EXPECT_EQ(bare->ranks.begin()->second.tau,
            adapter->ranks.begin()->second.tau);
  EXPECT_TRUE(bare->ranks.begin()->second.a.empty());

  for (const bool adapted : {false, true}) {
    const ModelOptions options = {.type = WeightType::kBf16, .threads = 2};
    const PackOrigin origin = {checkpoint->Identity(),
                               adapted ? adapter->identity : ""};
    const auto written = WritePack(
        config, *checkpoint, adapted ? &*adapter : nullptr, Dispatcher(nullptr),
        options, origin, path_, [](size_t, size_t) {});
    ASSERT_TRUE(written.ok()) << written.status().message();
    const auto pack = PackedWeights::Open(path_, *checkpoint, origin);
    ASSERT_TRUE(pack.ok()) << pack.status().message();
    Model expected =
        MakeModel(config, *checkpoint, adapted ? &*adapter : nullptr, options);
    Model packed =
        MakeModel(config, *pack, adapted ? &*bare : nullptr, options);
    const std::vector<int> prompt = SyntheticIds(config, 5, 1);
    const auto tokens = [&](Model& model) {
      return Generate(model, prompt, 24, SamplingOptions{.temperature = 0}, {})
          .value()
          .ids;
    };
    EXPECT_EQ(tokens(packed), tokens(expected));
    EXPECT_EQ(DecodeLogits(packed, prompt), DecodeLogits(expected, prompt));
  }
}

}  // namespace
}  // namespace rankforge
