// RaNA on models whose blocks differ from Llama's: GeGLU, an MLP of two
// matrices, fused q, k, v, biases.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "adapt/adapt.h"
#include "adapt/forms/mlp.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/synthetic.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

constexpr char kExamples[] = RANKFORGE_SOURCE_DIR "/examples/models/";

std::string TextOf(const std::string& file) {
  std::ifstream stream(std::string(kExamples) + "text/" + file);
  EXPECT_TRUE(stream.good()) << file;
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct TrainedCase {
  std::string model;
  std::string rank;  // a module that has a rank adapter
  std::string mask;  // one that has an input mask
  double most_loss;  // more than the dense model's
};

class TrainedFamilyTest : public testing::TestWithParam<TrainedCase> {};

TEST_P(TrainedFamilyTest, AdaptersKeepBudgetAndQuality) {
  const std::string folder = kExamples + GetParam().model;
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  AdaptOptions options;
  options.method = "rana-paper";
  options.keep = 0.7;
  options.calibration_tokens = 4096;
  options.split_tokens = 512;
  const auto adapter =
      Adapt(*checkpoint, tokenizer->Encode(TextOf("calibration.txt")), options);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_NEAR(adapter->linear_flops_ratio, 0.7, 0.007);
  EXPECT_TRUE(adapter->ranks.contains(GetParam().rank));
  EXPECT_TRUE(adapter->masks.contains(GetParam().mask));

  const std::vector<int> ids = tokenizer->Encode(TextOf("evaluation.txt"));
  const auto loss = [&](const Adapter* with) {
    Result<Model> model =
        Model::Create(checkpoint->config(), *checkpoint, with,
                      Dispatcher(nullptr), {}, MakeSerialExecutor());
    EXPECT_TRUE(model.ok()) << model.status().message();
    const auto evaluation = Evaluate(*model, ids, {256, 8}, nullptr);
    EXPECT_TRUE(evaluation.ok()) << evaluation.status().message();
    return evaluation->loss;
  };
  const double dense = loss(nullptr);
  const double adapted = loss(&*adapter);
  EXPECT_GT(adapted, dense);
  EXPECT_LT(adapted, dense + GetParam().most_loss);
}

INSTANTIATE_TEST_SUITE_P(
    Models, TrainedFamilyTest,
    testing::Values(TrainedCase{"gemma-6m", "model.layers.1.mlp.gate_proj",
                                "model.layers.1.mlp.down_proj", 0.1},
                    TrainedCase{"neox-7m",
                                "gpt_neox.layers.1.mlp.dense_h_to_4h",
                                "gpt_neox.layers.1.mlp.dense_4h_to_h", 0.1}),
    [](const auto& info) { return info.param.model.substr(0, 4); });

// Without a gate and with a bias: what the search believes is what the adapter
// computes.
TEST(MlpWithoutGate, SplitSpendsTheBudget) {
  constexpr size_t kHidden = 48, kMlp = 192, kTokens = 512;
  const auto executor = MakeSerialExecutor();
  const Matrix<float> x = RandomInputs(kTokens, kHidden, kHidden, 1);
  const Matrix<float> down = RandomMatrix(kHidden, kMlp, 2);
  std::vector<Matrix<float>> weights = {RandomMatrix(kMlp, kHidden, 3)};
  auto layers = RankLayers({"up"}, std::move(weights), x, {}, *executor);
  ASSERT_TRUE(layers.ok()) << layers.status().message();
  RankedLayer& up = layers->front();
  up.bias = RandomMatrix(1, kMlp, 4).values;
  const RankedMlp mlp{up, nullptr, down, Activation::kGelu};

  for (const double keep : {0.5, 0.8}) {
    const auto split = SearchMlpSplit(mlp, keep, kTokens, *executor);
    ASSERT_TRUE(split) << keep;
    EXPECT_EQ(split->up_share + split->down_share, 18u);
    EXPECT_EQ(split->gate_share, 0u);
    EXPECT_FALSE(split->gate);
    const double up_cost =
        split->up ? RankCost(kMlp, kHidden, split->up->d, split->up->kept) : 1;
    EXPECT_NEAR(up_cost + split->down_keep, 2 * keep, 1e-9);
    EXPECT_GT(split->error, 0);
    EXPECT_LT(split->error, 1);
  }

  // All ranks: the bias, once, on top of W x.
  Matrix<float> dense(kTokens, kMlp), ranked(kTokens, kMlp);
  LayerForm{&up}.Run(0, kTokens, dense.values.data());
  LayerForm{&up, up.basis.rank(), 0}.Run(0, kTokens, ranked.values.data());
  EXPECT_LT(SquaredDistance(dense, ranked), 1e-8 * SquaredNorm(dense));
  const Matrix<float> product = TimesTransposed(x, up.w);
  for (size_t i = 0; i < kMlp; ++i) {
    EXPECT_NEAR(dense.row(7)[i], product.row(7)[i] + up.bias[i], 1e-3);
  }
}

// A tiny random checkpoint of a family.
class RandomFamilyTest : public testing::Test {
 protected:
  Result<Adapter> AdaptFamily(const std::string& family,
                              const std::string& method) {
    ModelConfig config = FindFamily(family)->defaults;
    config.hidden = 64;
    config.layers = 2;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 16;
    config.mlp = 160;
    config.vocab = 200;
    config.max_positions = 64;
    const std::string folder = folder_.File(family);
    EXPECT_TRUE(WriteSyntheticCheckpoint(config, 3, folder).ok());
    checkpoint_.emplace(Checkpoint::Open(folder).value());
    AdaptOptions options;
    options.method = method;
    options.keep = 0.75;
    options.window = 32;
    options.round_d = false;
    options.calibration_tokens = 1024;
    return Adapt(*checkpoint_, SyntheticIds(config, 2048, 4), options);
  }

  TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
};

// Its gradients go through all that these families add to a block
// (loss_gradient_test).
TEST_F(RandomFamilyTest, RanaAdaptsEveryFamily) {
  for (const char* family :
       {"qwen3", "gemma2", "gemma3_text", "phi3", "olmo2"}) {
    const Result<Adapter> adapter = AdaptFamily(family, "rana");
    ASSERT_TRUE(adapter.ok()) << family << adapter.status().message();
    EXPECT_NEAR(adapter->linear_flops_ratio, 0.75, 0.02) << family;
    Result<Model> model =
        Model::Create(checkpoint_->config(), *checkpoint_, &*adapter,
                      Dispatcher(nullptr), {}, MakeSerialExecutor());
    EXPECT_TRUE(model.ok()) << family << model.status().message();
  }
}

TEST_F(RandomFamilyTest, WhatAMethodCannotAdaptIsRefused) {
  for (const auto& [family, method] :
       {std::pair("phi3", "cats"), std::pair("phi3", "rana-paper"),
        std::pair("phi3", "a3"), std::pair("qwen3", "a3"),
        std::pair("gemma2", "a3"), std::pair("gemma3_text", "a3"),
        std::pair("olmo2", "a3")}) {
    const Result<Adapter> adapter = AdaptFamily(family, method);
    ASSERT_FALSE(adapter.ok()) << family << method;
    const std::string& message = adapter.status().message();
    EXPECT_NE(message.find(std::string("model family ") + family),
              std::string::npos)
        << message;
  }
}

}  // namespace
}  // namespace rankforge
