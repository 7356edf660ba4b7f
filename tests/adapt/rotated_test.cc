// Method rotated: masks in bases that groups of blocks share.
#include "adapt/methods/rotated.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "adapt/adapt.h"
#include "adapt/methods/stream_bases.h"
#include "base/files.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/use/evaluation.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

const std::string kExamples = RANKFORGE_SOURCE_DIR "/examples/models/";

// Trained models with an RMSNorm, with a LayerNorm and biases in parallel
// blocks, and with norms of 1 + weight.
class RotatedModelTest : public testing::TestWithParam<std::string> {
 protected:
  std::vector<int> TokensOf(const std::string& text) const {
    return tokenizer_.Encode(
        ReadTextFile(kExamples + "text/" + text, 1 << 24).value());
  }
  Adapter Adapted(double keep) const {
    AdaptOptions options;
    options.method = "rotated";
    options.keep = keep;
    options.calibration_tokens = 2048;
    options.threads = 2;
    Result<Adapter> adapter =
        Adapt(checkpoint_, TokensOf("calibration.txt"), options);
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    return std::move(adapter).value();
  }
  Evaluation Evaluated(const Adapter* adapter) const {
    Result<Model> model =
        Model::Create(config_, checkpoint_, adapter, Dispatcher(nullptr),
                      {.threads = 2}, MakeDefaultExecutor(2));
    EXPECT_TRUE(model.ok()) << model.status().message();
    return Evaluate(*model, TokensOf("evaluation.txt"), {256, 12}, nullptr)
        .value();
  }

  Checkpoint checkpoint_ = Checkpoint::Open(kExamples + GetParam()).value();
  const ModelConfig& config_ = checkpoint_.config();
  Tokenizer tokenizer_ = Tokenizer::Load(kExamples + GetParam()).value();
};

TEST_P(RotatedModelTest, MeetsItsBudgetWithTurnsCounted) {
  constexpr double kKeep = 0.7;
  const Adapter adapter = Adapted(kKeep);
  EXPECT_NEAR(adapter.linear_flops_ratio, kKeep, 0.01 * kKeep);
  EXPECT_EQ(adapter.rotation.groups.size(), (config_.layers + 1) / 2);
  EXPECT_EQ(adapter.masks.size(), kSites.size() * config_.layers);
  EXPECT_TRUE(adapter.ranks.empty() && adapter.gates.empty());
  const double turns = TurnShare(config_, adapter.rotation, {});
  EXPECT_GT(turns, 0.02);
  for (const auto& [module, mask] : adapter.masks) {
    EXPECT_NEAR(mask.density, kKeep - turns, 0.02) << module;
    EXPECT_GT(mask.error, 0) << module;
    EXPECT_LT(mask.error, 0.5) << module;
  }
  const Evaluation dense = Evaluated(nullptr), rotated = Evaluated(&adapter);
  EXPECT_NEAR(rotated.linear_flops_ratio, kKeep, 0.04 * kKeep);
  EXPECT_GT(rotated.loss, dense.loss);
  EXPECT_LT(rotated.loss, dense.loss + 0.1);
}

// A cheap budget loses more, and only what the masks drop is lost.
TEST_P(RotatedModelTest, BasesAloneLoseNothing) {
  Adapter adapter = Adapted(0.6);
  const double masked = Evaluated(&adapter).loss;
  adapter.masks.clear();
  const double bases = Evaluated(&adapter).loss;
  const double dense = Evaluated(nullptr).loss;
  EXPECT_NEAR(bases, dense, 1e-5 * dense);
  EXPECT_GT(masked, dense + 0.005);
}

INSTANTIATE_TEST_SUITE_P(Models, RotatedModelTest,
                         testing::Values("llama-gqa-7m", "neox-7m", "gemma-6m"),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find('-'));
                         });

TEST(RotatedTest, GroupsAreEven) {
  EXPECT_EQ(EvenGroups(5, 2), (std::vector<size_t>{0, 2, 4}));
  EXPECT_EQ(EvenGroups(4, 4), (std::vector<size_t>{0}));
  EXPECT_EQ(EvenGroups(2, 9), (std::vector<size_t>{0}));
}

TEST(RotatedTest, PrincipalDirectionsComeFirst) {
  // Moments whose directions are known: axes turned by 30 degrees.
  const double c = std::cos(M_PI / 6), s = std::sin(M_PI / 6);
  Matrix<double> moments(2, 2);
  moments.values = {4 * c * c + s * s, 3 * c * s, 3 * c * s, 4 * s * s + c * c};
  const auto q = PrincipalBasis(moments);
  ASSERT_TRUE(q.ok());
  EXPECT_NEAR(std::fabs((*q)[0] * c + (*q)[2] * s), 1, 1e-6);
  EXPECT_NEAR(std::fabs((*q)[1] * s - (*q)[3] * c), 1, 1e-6);
}

class RefusedTest : public testing::Test {
 protected:
  std::string Refusal(const ModelConfig& config, const AdaptOptions& options) {
    TemporaryFolder folder;
    EXPECT_TRUE(WriteSyntheticCheckpoint(config, 1, folder.path()).ok());
    const Checkpoint checkpoint = Checkpoint::Open(folder.path()).value();
    const auto adapter =
        Adapt(checkpoint, SyntheticIds(config, 600, 2), options);
    EXPECT_FALSE(adapter.ok());
    EXPECT_EQ(adapter.status().code(), StatusCode::kUsage);
    return adapter.status().message();
  }
};

TEST_F(RefusedTest, WhatCannotBeRotatedOrReached) {
  AdaptOptions options;
  options.method = "rotated";
  ModelConfig config = TinyConfig();
  config.family = "olmo2";
  config.qk_norm = QkNorm::kAll;
  EXPECT_NE(Refusal(config, options).find("norms after attention"),
            std::string::npos);
  options.keep = 0.05;  // the products that turn the stream cost 0.11
  EXPECT_NE(Refusal(TinyConfig(), options).find("cannot go below"),
            std::string::npos);
  options.keep = 0.6;
  options.group_blocks = 0;
  EXPECT_NE(Refusal(TinyConfig(), options).find("group_blocks 0"),
            std::string::npos);
}

}  // namespace
}  // namespace rankforge
