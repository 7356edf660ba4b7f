// Sampling and the generation loop.
#include "runtime/model/use/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <utility>

#include "runtime/model/weights/weights_over.h"
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

// Drafts of up to N tokens.
constexpr size_t kLookups[] = {1, 2, 3, 7, 15};

class LookupTest : public GenerateTest {
 protected:
  // A text that repeats, so that there are drafts, right and wrong.
  std::vector<int> Repeating() const {
    std::vector<int> ids = SyntheticIds(config_, 12, 4);
    const std::vector<int> once = ids;
    ids.insert(ids.end(), once.begin(), once.end());
    ids.insert(ids.end(), once.begin(), once.begin() + 5);
    return ids;
  }
  // The same, and what the model makes of it: greedy texts of random weights
  // end in circles.
  std::vector<int> InACircle(Model& model) const {
    std::vector<int> ids = Repeating();
    const auto more = Generate(model, ids, 150, {}, {});
    EXPECT_TRUE(more.ok()) << more.status().message();
    ids.insert(ids.end(), more->ids.begin(), more->ids.end());
    return ids;
  }
  // The same tokens as without drafts, for every N. Returns the counts of all.
  DraftCounts ExpectTheSame(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& sampling) {
    DraftCounts all;
    const auto expected = Generate(model, prompt, count, sampling, {});
    EXPECT_TRUE(expected.ok()) << expected.status().message();
    EXPECT_EQ(expected->drafts.drafted, 0u);
    EXPECT_EQ(expected->drafts.passes, expected->drafts.decoded);
    for (const size_t lookup : kLookups) {
      std::vector<int> seen;
      const auto drafted = Generate(
          model, prompt, count, sampling,
          [&](int id) {
            seen.push_back(id);
            return true;
          },
          lookup);
      EXPECT_TRUE(drafted.ok()) << drafted.status().message();
      EXPECT_EQ(drafted->ids, expected->ids) << lookup;
      EXPECT_EQ(drafted->ended, expected->ended) << lookup;
      EXPECT_EQ(seen, expected->ids) << lookup;
      const DraftCounts& counts = drafted->drafts;
      EXPECT_EQ(counts.decoded, expected->drafts.decoded) << lookup;
      // A pass gives what it accepts and one token more.
      if (!drafted->ended) {
        EXPECT_EQ(counts.decoded, counts.passes + counts.accepted) << lookup;
      }
      EXPECT_LE(counts.accepted, counts.drafted) << lookup;
      EXPECT_LE(counts.drafted, counts.passes * lookup) << lookup;
      all.passes += counts.passes;
      all.decoded += counts.decoded;
      all.drafted += counts.drafted;
      all.accepted += counts.accepted;
    }
    return all;
  }
};

TEST_F(LookupTest, GivesTheTokensOfDecodingWithout) {
  DraftCounts all;
  for (const WeightType type : kWeightTypes) {
    Model model =
        MakeModel(config_, weights_, nullptr, {.type = type, .threads = 2});
    const DraftCounts counts = ExpectTheSame(model, Repeating(), 60, {});
    all.drafted += counts.drafted;
    all.accepted += counts.accepted;
  }
  // Greedy texts of random weights end in circles.
  EXPECT_GT(all.accepted, 100u);
  EXPECT_GT(all.drafted, all.accepted);
}

TEST_F(LookupTest, WithAnAdapter) {
  Adapter adapter;
  AddMasks(config_, 0.3f, adapter);
  Model model = MakeModel(config_, weights_, &adapter);
  ExpectTheSame(model, Repeating(), 60, {});
  EXPECT_GT(ExpectTheSame(model, InACircle(model), 60, {}).accepted, 0u);
}

// Each token is drawn as it is without drafts, from the same logits by the same
// number.
TEST_F(LookupTest, SampledTokensAreTheSame) {
  Model model = MakeModel(config_, weights_);
  size_t accepted = 0;
  for (const uint64_t seed : {1, 2, 3}) {
    const DraftCounts cold = ExpectTheSame(
        model, Repeating(), 60,
        {.temperature = 0.3, .top_k = 5, .top_p = 0.95, .seed = seed});
    EXPECT_GT(cold.drafted, cold.accepted);
    accepted += cold.accepted;
    const DraftCounts warm = ExpectTheSame(model, Repeating(), 40,
                                           {.temperature = 0.7,
                                            .min_p = 0.05,
                                            .repetition_penalty = 1.2,
                                            .seed = seed});
    EXPECT_GT(warm.drafted, 0u);
  }
  EXPECT_GT(accepted, 0u);
}

TEST_F(LookupTest, EndsAtTheCountWhateverIsDrafted) {
  Model model = MakeModel(config_, weights_);
  const auto whole = Generate(model, Repeating(), 40, {}, {});
  ASSERT_TRUE(whole.ok());
  for (size_t count = 0; count <= 40; ++count) {
    const auto some = Generate(model, Repeating(), count, {}, {}, 7);
    ASSERT_TRUE(some.ok()) << some.status().message();
    EXPECT_EQ(some->ids,
              std::vector<int>(whole->ids.begin(), whole->ids.begin() + count));
  }
}

// The cache then holds what it holds without drafts: another turn goes on.
TEST_F(LookupTest, StopsWhereTheObserverSays) {
  Model model = MakeModel(config_, weights_);
  const std::vector<int> prompt = Repeating();
  const auto whole = Generate(model, prompt, 40, {}, {});
  ASSERT_TRUE(whole.ok());
  for (size_t stop = 1; stop <= 40; ++stop) {
    KvCache cache = model.NewCache(prompt.size() + 60).value();
    Sampler sampler({});
    size_t seen = 0;
    const auto stopped = Continue(
        model, cache, prompt, 40, sampler, [&](int) { return ++seen < stop; },
        7);
    ASSERT_TRUE(stopped.ok());
    ASSERT_EQ(stopped->ids.size(), stop);
    EXPECT_FALSE(stopped->ended);
    EXPECT_EQ(cache.length(), prompt.size() + stop - 1);
    std::vector<int> turn = prompt;
    turn.insert(turn.end(), stopped->ids.begin(), stopped->ids.end());
    const auto next = Continue(model, cache, turn, 5, sampler, {}, 7);
    ASSERT_TRUE(next.ok());
    const auto begin = whole->ids.begin() + static_cast<ptrdiff_t>(stop);
    const size_t left = std::min<size_t>(5, 40 - stop);
    EXPECT_EQ(std::vector<int>(next->ids.begin(), next->ids.begin() + left),
              std::vector<int>(begin, begin + left));
  }
}

// An end of text inside of what a draft would have been.
TEST_F(LookupTest, EndsAtAnEndOfText) {
  Model model = MakeModel(config_, weights_);
  const std::vector<int> prompt = InACircle(model);
  const auto whole = Generate(model, prompt, 40, {}, {});
  ASSERT_TRUE(whole.ok());
  DraftCounts all;
  for (const int end : whole->ids) {
    ModelConfig ending = config_;
    ending.eos_ids = {end};
    Model ends = MakeModel(ending, weights_);
    const DraftCounts counts = ExpectTheSame(ends, prompt, 40, {});
    all.drafted += counts.drafted;
    all.accepted += counts.accepted;
    KvCache cache = ends.NewCache(prompt.size() + 40).value();
    Sampler sampler({});
    const auto ended = Continue(ends, cache, prompt, 40, sampler, {}, 7);
    ASSERT_TRUE(ended.ok());
    EXPECT_TRUE(ended->ended);
    EXPECT_EQ(cache.length(), prompt.size() + ended->ids.size());
  }
  EXPECT_GT(all.accepted, 0u);
  EXPECT_GT(all.drafted, all.accepted);
}

TEST_F(LookupTest, UpToTheLastPosition) {
  config_.max_positions = 64;
  Model model = MakeModel(config_, weights_);
  const std::vector<int> prompt = Repeating();
  const size_t room = config_.max_positions - prompt.size();
  EXPECT_GT(ExpectTheSame(model, prompt, room, {}).accepted, 0u);
}

TEST_F(LookupTest, AfterLayersAreLeftOut) {
  Model model =
      MakeModel(config_, weights_, nullptr, {.skip = {.layers = {1}}});
  EXPECT_GT(ExpectTheSame(model, Repeating(), 60, {}).accepted, 0u);
}

// Weights with an embedding that is right so many times, and then says `status`
// or, where that is none, is too large to be scaled.
class FailingRow : public WeightsOver {
 public:
  FailingRow(const WeightSource& base, size_t row, size_t good, Status status)
      : WeightsOver(base), row_(row), good_(good), status_(std::move(status)) {}
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    return base().Pack(names, rows, cols, type, layout);
  }
  Status Embedding(size_t row, std::span<float> out) const override {
    if (row != row_) return base().Embedding(row, out);
    if (good_ > 0) {
      --good_;
      return base().Embedding(row, out);
    }
    std::ranges::fill(out, std::numeric_limits<float>::max());
    return status_;
  }

 private:
  size_t row_;
  mutable size_t good_;
  Status status_;
};

// Every token of the prompt is followed by one that fails when it is drafted,
// and that nothing else needs.
class FailingDraftTest : public LookupTest {
 protected:
  static constexpr int kLost = 300;

  FailingDraftTest() {
    config_.scaled_embedding = true;
    prompt_.clear();
    for (int id = 0; id < kLost; ++id) {
      prompt_.insert(prompt_.end(), {id, kLost});
    }
    prompt_.push_back(7);
  }
  Result<Generation> Run(Status status) {
    const FailingRow damaged(weights_, kLost, kLost, std::move(status));
    Model model = MakeModel(config_, damaged);
    Result<Generation> drafted = Generate(model, prompt_, 12, {}, {}, 4);
    std::vector<float> logits(config_.vocab);
    KvCache cache = model.NewCache(4).value();
    const std::vector<int> lost = {kLost};
    EXPECT_FALSE(model.Forward(lost, cache, logits).ok());
    return drafted;
  }
};

// The row itself cannot be read, or a layer overflows after the cache has the
// tokens.
TEST_F(FailingDraftTest, ChangesNoToken) {
  Model model = MakeModel(config_, weights_);
  const auto expected = Generate(model, prompt_, 12, {}, {});
  ASSERT_TRUE(expected.ok());
  ASSERT_EQ(std::ranges::count(expected->ids, kLost), 0);
  const auto healthy = Generate(model, prompt_, 12, {}, {}, 4);
  ASSERT_TRUE(healthy.ok());
  EXPECT_GT(healthy->drafts.drafted, 0u);
  EXPECT_EQ(healthy->drafts.failed, 0u);
  EXPECT_EQ(healthy->drafts.failure, "");
  for (const bool overflows : {false, true}) {
    const auto drafted =
        Run(overflows ? Status() : Failed("this row is damaged"));
    ASSERT_TRUE(drafted.ok()) << drafted.status().message();
    EXPECT_EQ(drafted->ids, expected->ids);
    EXPECT_GT(drafted->drafts.failed, 0u);
    EXPECT_NE(drafted->drafts.failure.find(overflows ? "NaN or infinite"
                                                     : "this row is damaged"),
              std::string::npos)
        << drafted->drafts.failure;
  }
}

// What is not the draft's fault is an error.
TEST_F(FailingDraftTest, ErrorsOfTheMachineAreErrors) {
  for (const Status& status :
       {EnvironmentError("no memory"), UsageError("not so")}) {
    const auto drafted = Run(status);
    ASSERT_FALSE(drafted.ok());
    EXPECT_EQ(drafted.status().code(), status.code());
    EXPECT_EQ(drafted.status().message(), status.message());
  }
}

// Weights with an embedding that throws.
class ThrowingRow : public FailingRow {
 public:
  ThrowingRow(const WeightSource& base, size_t row)
      : FailingRow(base, row, 0, {}), row_(row) {}
  Status Embedding(size_t row, std::span<float> out) const override {
    if (row == row_) throw std::runtime_error("no row");
    return FailingRow::Embedding(row, out);
  }

 private:
  size_t row_;
};

// A run that throws leaves nothing of it behind: several tokens are a prompt
// again, which is refused once a prompt has ended.
TEST_F(FailingDraftTest, WhatThrowsEndsItsDecoding) {
  const ThrowingRow damaged(weights_, kLost);
  Model model = MakeModel(config_, damaged, nullptr, {.skip = {.layers = {1}}});
  KvCache cache = model.NewCache(9).value();
  const std::vector<int> prompt = {1, 2}, lost = {3, kLost};
  std::vector<float> logits(2 * config_.vocab);
  ASSERT_TRUE(model.Forward(prompt, cache, {}).ok());
  ASSERT_TRUE(model.EndPrompt(cache).ok());
  EXPECT_THROW((void)model.Decode(lost, cache, logits), std::runtime_error);
  EXPECT_FALSE(model.Forward(prompt, cache, {}).ok());
  EXPECT_TRUE(model.Decode(prompt, cache, logits).ok());
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
