// What is counted of models that decode in turn. No test asks how long anything
// took.
#include "runtime/model/use/decode_times.h"

#include <gtest/gtest.h>

#include "model_testing.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

constexpr size_t kContext = 5;
constexpr size_t kWarmUp = 2;

class DecodeTimesTest : public testing::Test {
 protected:
  DecodeTimesTest() {
    const Result<Adapter> adapter = SyntheticAdapter(config_, 0.6);
    EXPECT_TRUE(adapter.ok());
    models_.push_back(
        std::make_unique<TimedModel>(MakeModel(config_, weights_), 32));
    models_.push_back(std::make_unique<TimedModel>(
        MakeModel(config_, weights_, &*adapter), 32));
    EXPECT_TRUE(models_.back()->model.FitThresholds(ids_).ok());
  }

  // Fills the caches and decodes the rest of ids_.
  void Decode() {
    const std::span<const int> ids = ids_;
    for (auto& timed : models_) {
      timed->cache.Clear();
      ASSERT_TRUE(
          timed->model.Forward(ids.first(kContext), timed->cache, {}).ok());
    }
    ASSERT_TRUE(
        DecodeInTurns(ids, kContext, models_, [&](size_t done, size_t total) {
          EXPECT_EQ(done, turns_++ % total);
          EXPECT_EQ(total, ids.size() - kContext);
        }).ok());
  }

  const ModelConfig config_ = TinyConfig();
  const SyntheticWeights weights_{config_, 3};
  const std::vector<int> ids_ = SyntheticIds(config_, 16, 5);
  TimedModels models_;
  size_t turns_ = 0;
};

TEST_F(DecodeTimesTest, EveryModelDecodesEveryToken) {
  const size_t tokens = ids_.size() - kContext;
  // The second time replaces the first.
  for (const size_t round : {1, 2}) {
    Decode();
    EXPECT_EQ(turns_, round * tokens);
    for (const auto& timed : models_) {
      EXPECT_EQ(timed->cache.length(), ids_.size());
      EXPECT_EQ(timed->seconds.size(), tokens - kWarmUp);
      EXPECT_EQ(timed->model.counters().tokens, tokens - kWarmUp);
    }
  }
}

TEST_F(DecodeTimesTest, StagesAddUpToTheToken) {
  Decode();
  for (auto& timed : models_) {
    timed->seconds.assign(timed->seconds.size(), 2.0);  // more than any took
    const DecodeTiming timing = TimingOf(*timed);
    EXPECT_EQ(timing.ms_per_token, 2000);
    EXPECT_DOUBLE_EQ(timing.useful_gbps, timing.bytes_per_token / 2e9);
    const StageTimes stages = StagesOf(*timed);
    double bytes = 0;
    double ms = stages.between_ms_per_token;
    for (const auto& [kind, stage] : stages.kinds) {
      bytes += stage.bytes_per_token;
      ms += stage.ms_per_token;
    }
    EXPECT_NEAR(bytes, timing.bytes_per_token, 1e-6 * bytes);
    EXPECT_NEAR(ms, timing.ms_per_token, 1e-6 * ms);
  }
  EXPECT_LT(TimingOf(*models_.back()).bytes_per_token,
            TimingOf(*models_.front()).bytes_per_token);
}

TEST_F(DecodeTimesTest, DensitiesAreMeansOverLayers) {
  ForwardCounters counters;
  counters.tokens = 10;
  counters.density["model.layers.0.mlp.down_proj"] = {20, 40, {}};
  counters.density["model.layers.1.mlp.down_proj"] = {40, 80, {}};
  counters.density["model.layers.1.self_attn.qkv"] = {30, 40, {}};
  const std::map<std::string, KindDensity> kinds = DensityByKind(counters);
  ASSERT_EQ(kinds.size(), 2u);
  EXPECT_EQ(kinds.at("mlp.down_proj").density, 0.5);
  EXPECT_EQ(kinds.at("mlp.down_proj").mean_kept, 3);
  EXPECT_EQ(kinds.at("self_attn.qkv").density, 0.75);
  EXPECT_TRUE(DensityByKind(models_.front()->model.counters()).empty());
}

TEST_F(DecodeTimesTest, SamplesAsManyIdsAsAskedFor) {
  Model& model = models_.front()->model;
  const Result<std::vector<int>> ids = SampleIds(model, 20, 7);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 20u);
  EXPECT_EQ(*ids, *SampleIds(model, 20, 7));
  EXPECT_NE(*ids, *SampleIds(model, 20, 8));
}

TEST(KindOfTest, LeavesOutTheLayer) {
  EXPECT_EQ(KindOf("model.layers.3.mlp.up_proj"), "mlp.up_proj");
  EXPECT_EQ(KindOf("gpt_neox.layers.0.attention.dense.rank.A"),
            "attention.dense.rank.A");
  EXPECT_EQ(KindOf("lm_head"), "lm_head");
}

}  // namespace
}  // namespace rankforge
