// Methods beside the paper's on a trained model.
#include <gtest/gtest.h>

#include "adapt/adapt.h"
#include "adapt/run/budget.h"
#include "base/files.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

const std::string kExamples = RANKFORGE_SOURCE_DIR "/examples/models/";

std::vector<int> TokensOf(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.Encode(
      ReadTextFile(kExamples + "text/" + text, 1 << 24).value());
}

class MethodsTest : public testing::Test {
 protected:
  Adapter Adapted(const std::string& method, size_t tokens = 2048,
                  double keep = 0.56, std::set<Refinement> without = {}) const {
    AdaptOptions options;
    options.method = method;
    options.without = std::move(without);
    options.keep = keep;
    options.calibration_tokens = tokens;
    options.split_tokens = 512;
    options.threads = 2;
    // Plans are refined where nothing is left out.
    options.effort = options.without.empty() ? 1 : 0;
    Result<Adapter> adapter = Adapt(checkpoint_, calibration_, options);
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    EXPECT_NEAR(adapter->linear_flops_ratio, keep, 0.02 * keep) << method;
    return std::move(adapter).value();
  }
  double Loss(const Adapter* adapter) const {
    Result<Model> model = Model::Create(checkpoint_.config(), checkpoint_,
                                        adapter, Dispatcher(nullptr),
                                        {.threads = 2}, MakeDefaultExecutor(2));
    EXPECT_TRUE(model.ok()) << model.status().message();
    return Evaluate(*model, evaluation_, {256, 16}, nullptr).value().loss;
  }

  Checkpoint checkpoint_ = Checkpoint::Open(kExamples + "llama-gqa-7m").value();
  Tokenizer tokenizer_ = Tokenizer::Load(kExamples + "llama-gqa-7m").value();
  std::vector<int> calibration_ = TokensOf(tokenizer_, "calibration.txt");
  std::vector<int> evaluation_ = TokensOf(tokenizer_, "evaluation.txt");
};

TEST_F(MethodsTest, RanaLosesLeast) {
  const double dense = Loss(nullptr);
  const Adapter mixture = Adapted("rana");
  const double loss = Loss(&mixture) - dense;
  EXPECT_GT(loss, 0);
  EXPECT_LE(std::stod(mixture.parameters.at("search_divergence")),
            std::stod(mixture.parameters.at("search_start_divergence")));
  for (const char* method :
       {"rana-paper", "teal", "teal-greedy", "wina", "svd"}) {
    const Adapter adapter = Adapted(method);
    EXPECT_LT(loss, Loss(&adapter) - dense) << method;
  }
}

TEST_F(MethodsTest, UniformBaselinesAreUniform) {
  for (const char* method : {"teal", "wina"}) {
    const Adapter adapter = Adapted(method);
    EXPECT_TRUE(adapter.ranks.empty());
    EXPECT_EQ(adapter.masks.size(), 4 * checkpoint_.config().layers);
    for (const auto& [module, mask] : adapter.masks) {
      EXPECT_NEAR(mask.density, 0.56, 0.01) << module;
    }
  }
}

TEST_F(MethodsTest, NeuronsAreDroppedInMlpsAlone) {
  const Adapter adapter = Adapted("neurons", 512, 0.7);
  EXPECT_EQ(adapter.masks.size(), 2 * checkpoint_.config().layers);
  for (const auto& [module, mask] : adapter.masks) {
    EXPECT_NE(module.find(".mlp."), std::string::npos) << module;
  }
}

TEST_F(MethodsTest, GatesOfCatsDecideAlone) {
  const Adapter adapter = Adapted("cats", 1024, 0.8);
  EXPECT_EQ(adapter.gates.size(), checkpoint_.config().layers);
  EXPECT_TRUE(adapter.masks.empty() && adapter.ranks.empty());
  for (const auto& [module, gate] : adapter.gates) {
    // One threshold a layer, and the share that 1 - .2 * 2.43 leaves of up and
    // down.
    EXPECT_EQ(std::set<float>(gate.tau.begin(), gate.tau.end()).size(), 1u);
    EXPECT_NEAR(gate.density, 0.59, 0.01) << module;
    EXPECT_GT(gate.error, 0) << module;
  }
  const double dense = Loss(nullptr), loss = Loss(&adapter);
  EXPECT_GT(loss, dense);
  EXPECT_LT(loss, dense + 0.2);
}

TEST_F(MethodsTest, RefinementsCanBeLeftOut) {
  const Adapter masks =
      Adapted("rana", 1024, 0.56, {Refinement::kRankAdapters});
  EXPECT_TRUE(masks.ranks.empty());
  const Adapter ranks = Adapted("rana", 1024, 0.56, {Refinement::kInputMasks});
  EXPECT_FALSE(ranks.ranks.empty());
  for (const auto& [module, mask] : ranks.masks) {
    EXPECT_NE(module.find("down_proj"), std::string::npos) << module;
  }
  EXPECT_EQ(ranks.parameters.at("without"), " input-masks");
}

TEST_F(MethodsTest, LessThanTheCheapestFormsIsAnError) {
  AdaptOptions options;
  options.keep = 0.2;
  options.without = {Refinement::kInputMasks};  // o stays dense
  options.calibration_tokens = 512;
  const Result<Adapter> adapter = Adapt(checkpoint_, calibration_, options);
  ASSERT_FALSE(adapter.ok());
  EXPECT_EQ(adapter.status().code(), StatusCode::kUsage);
  EXPECT_NE(adapter.status().message().find("keep 0.2"), std::string::npos)
      << adapter.status().message();
}

// Where masked weights are dear, fewer multiply-adds are left for the same
// keep, and every method meets it, also those that plan multiply-adds.
TEST_F(MethodsTest, TimesAreKept) {
  const CostModel times = {.dense = {.fixed = 2000, .per_weight = 0.1},
                           .column_mask = {.fixed = 1000, .per_weight = 0.13}};
  const double dense =
      BlockCost(DescribeModel(checkpoint_.config(), nullptr), times);
  for (const char* method : {"teal", "rana-paper", "rana"}) {
    AdaptOptions options;
    options.method = method;
    options.keep = 0.7;
    options.times = times;
    options.calibration_tokens = 512;
    options.split_tokens = 256;
    options.threads = 2;
    options.effort = 0;
    const Result<Adapter> adapter = Adapt(checkpoint_, calibration_, options);
    ASSERT_TRUE(adapter.ok()) << adapter.status().message();
    const double spent =
        BlockCost(DescribeModel(checkpoint_.config(), &*adapter), times);
    EXPECT_NEAR(spent / dense, 0.7, 0.02) << method;
    EXPECT_LT(adapter->linear_flops_ratio, 0.7) << method;
    EXPECT_EQ(adapter->parameters.at("objective"), "time");
  }
}

TEST_F(MethodsTest, MethodsHaveTheirOwnToLeaveOut) {
  AdaptOptions options;
  options.method = "teal";
  options.without = {Refinement::kRefit};
  const Result<Adapter> adapter = Adapt(checkpoint_, calibration_, options);
  ASSERT_FALSE(adapter.ok());
  EXPECT_EQ(adapter.status().code(), StatusCode::kUsage);
}

}  // namespace
}  // namespace rankforge
