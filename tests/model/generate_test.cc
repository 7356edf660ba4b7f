// Sampling and the generation loop.
#include "runtime/model/use/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

std::map<int, int> Draw(const SamplingOptions& options,
                        const std::vector<float>& logits, int count) {
  Sampler sampler(options);
  std::map<int, int> counts;
  for (int i = 0; i < count; ++i) ++counts[sampler.Sample(logits)];
  return counts;
}

TEST(SamplerTest, GreedyTakesTheFirstLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-5, -7}), 0);
  EXPECT_EQ(sampler.Sample(std::vector<float>{NAN, 1, 2, NAN}), 2);
}

TEST(SamplerTest, FollowsTheDistribution) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f),
                                     std::log(5.0f), -INFINITY, NAN};
  constexpr int kDraws = 20000;
  const auto counts = Draw({.temperature = 1, .seed = 1}, logits, kDraws);
  EXPECT_NEAR(counts.at(0) / double{kDraws}, 1.0 / 8, 0.01);
  EXPECT_NEAR(counts.at(1) / double{kDraws}, 2.0 / 8, 0.01);
  EXPECT_NEAR(counts.at(2) / double{kDraws}, 5.0 / 8, 0.01);
  EXPECT_EQ(counts.size(), 3);
  // Temperature 1/2 squares the weights.
  const auto sharp = Draw({.temperature = 0.5, .seed = 1}, logits, kDraws);
  EXPECT_NEAR(sharp.at(2) / double{kDraws}, 25.0 / 30, 0.01);
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f),
                                     std::log(0.3f), std::log(0.2f)};
  const auto kept = [&](double top_p) {
    std::vector<int> ids;
    for (const auto& [id, count] :
         Draw({.temperature = 1, .top_p = top_p, .seed = 3}, logits, 2000)) {
      ids.push_back(id);
    }
    return ids;
  };
  EXPECT_EQ(kept(0), std::vector<int>({1}));
  EXPECT_EQ(kept(0.39), std::vector<int>({1}));
  EXPECT_EQ(kept(0.41), std::vector<int>({1, 2}));
  EXPECT_EQ(kept(0.71), std::vector<int>({1, 2, 3}));
  EXPECT_EQ(kept(0.95), std::vector<int>({0, 1, 2, 3}));
  EXPECT_EQ(kept(1), std::vector<int>({0, 1, 2, 3}));
  const auto counts =
      Draw({.temperature = 1, .top_p = 0.6, .seed = 3}, logits, 20000);
  EXPECT_NEAR(counts.at(1) / 20000.0, 4.0 / 7, 0.015);
}

TEST(SamplerTest, TheSeedDecides) {
  const std::vector<float> logits(100, 0.0f);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .top_p = 0.9, .seed = seed});
    std::vector<int> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(sampler.Sample(logits));
    return ids;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
}

TEST(SamplerTest, TopKComesBeforeTopPAndMinP) {
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  const std::vector<float> logits = {std::log(0.2f), std::log(0.4f),
                                     std::log(0.1f), std::log(0.3f)};
  const auto kept = [&](const SamplingOptions& options) {
    std::vector<int> ids;
    for (const auto& [id, count] : Draw(options, logits, 2000)) {
      ids.push_back(id);
    }
    return ids;
  };
  EXPECT_EQ(kept({.temperature = 1, .top_k = 1}), std::vector<int>({1}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 3}), std::vector<int>({0, 1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 9}),
            std::vector<int>({0, 1, 2, 3}));
  // Of the first two, the likelier has 4/7 of the weight.
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2, .top_p = 0.55}),
            std::vector<int>({1}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.55}), std::vector<int>({1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.6}), std::vector<int>({1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 1}), std::vector<int>({1}));
}

TEST(SamplerTest, ThePenaltyIsOfWhatWasSeen) {
  const std::vector<float> logits = {2, 1.5f, -1};
  Sampler sampler({.repetition_penalty = 2});
  sampler.See(std::vector<int>{2});
  EXPECT_EQ(sampler.Sample(logits), 0);  // 2, 1.5, -2
  EXPECT_EQ(sampler.Sample(logits), 1);  // 1, 1.5, -2
  EXPECT_EQ(sampler.Sample(logits), 0);  // 1, 0.75, -2
}

TEST(SamplerTest, DegenerateLogits) {
  for (const double temperature : {1e-30, 1.0, 1e30}) {
    Sampler sampler({.temperature = temperature, .top_p = 0.5});
    for (const std::vector<float>& logits :
         {std::vector<float>{NAN, NAN}, std::vector<float>{-INFINITY, 1},
          std::vector<float>{INFINITY, 1}, std::vector<float>{0}}) {
      const int id = sampler.Sample(logits);
      EXPECT_GE(id, 0);
      EXPECT_LT(id, static_cast<int>(logits.size()));
    }
  }
}

class GenerateTest : public testing::Test {
 protected:
  ModelConfig config_ = TinyConfig();
  SyntheticWeights weights_{config_, 2};
  std::vector<int> prompt_ = {1, 2, 3};
};

TEST_F(GenerateTest, StopsAtEosAndAtTheCount) {
  Model model = MakeModel(config_, weights_);
  const auto all = Generate(model, prompt_, 12, {}, nullptr);
  ASSERT_TRUE(all.ok()) << all.status().message();
  EXPECT_EQ(all->ids.size(), 12);
  EXPECT_GT(all->prefill_tokens_per_s, 0);
  EXPECT_GT(all->decode_tokens_per_s, 0);
  EXPECT_TRUE(Generate(model, prompt_, 0, {}, nullptr)->ids.empty());

  // With the fifth token as end of the sequence, what stands before its first
  // occurrence remains.
  ModelConfig ending = config_;
  ending.eos_ids = {all->ids[4]};
  Model ends = MakeModel(ending, weights_);
  std::vector<int> seen;
  const auto ended = Generate(ends, prompt_, 12, {}, [&](int id) {
    seen.push_back(id);
    return true;
  });
  ASSERT_TRUE(ended.ok());
  const auto first =
      std::find(all->ids.begin(), all->ids.end(), ending.eos_ids.front());
  EXPECT_EQ(ended->ids, std::vector<int>(all->ids.begin(), first));
  EXPECT_EQ(seen, ended->ids);

  // Any of several ids ends it.
  ending.eos_ids.insert(ending.eos_ids.begin(), {300, 299});
  Model ends_at_any = MakeModel(ending, weights_);
  EXPECT_EQ(Generate(ends_at_any, prompt_, 12, {}, nullptr)->ids, ended->ids);
}

TEST_F(GenerateTest, StopsWhereTheObserverSays) {
  Model model = MakeModel(config_, weights_);
  size_t seen = 0;
  const auto stopped =
      Generate(model, prompt_, 12, {}, [&](int) { return ++seen < 3; });
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->ids.size(), 3u);
  EXPECT_FALSE(stopped->ended);
}

// A conversation goes on in its cache as if it were run from the start.
TEST_F(GenerateTest, ContinuesInACache) {
  Model model = MakeModel(config_, weights_);
  KvCache cache = model.NewCache(40).value();
  Sampler sampler({});
  const auto first = Continue(model, cache, prompt_, 4, sampler, nullptr);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(cache.length(), prompt_.size() + 3);
  std::vector<int> whole = prompt_;
  whole.insert(whole.end(), first->ids.begin(), first->ids.end());
  whole.insert(whole.end(), {5, 6});
  const auto second = Continue(model, cache, whole, 4, sampler, nullptr);
  ASSERT_TRUE(second.ok());
  const auto afresh = Generate(model, whole, 4, {}, nullptr);
  ASSERT_TRUE(afresh.ok());
  EXPECT_EQ(second->ids, afresh->ids);
}

TEST_F(GenerateTest, WrongInputIsAnError) {
  Model model = MakeModel(config_, weights_);
  EXPECT_FALSE(Generate(model, {}, 3, {}, nullptr).ok());
  const std::vector<int> outside = {301};
  EXPECT_FALSE(Generate(model, outside, 3, {}, nullptr).ok());
  const auto too_long = Generate(model, prompt_, 1022, {}, nullptr);
  ASSERT_FALSE(too_long.ok());
  EXPECT_NE(too_long.status().message().find("max_position_embeddings"),
            std::string::npos);
}

}  // namespace
}  // namespace rankforge
