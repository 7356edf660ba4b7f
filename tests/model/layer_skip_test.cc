// Layers that a sequence does without once its prompt has run, against models
// in which those layers add nothing.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/weights_over.h"
#include "tests/model/model_testing.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

using Layers = std::vector<size_t>;

// Weights in which some layers add zeros to the stream: those of o and down and
// their biases.
class WithoutLayers : public WeightsOver {
 public:
  WithoutLayers(const ModelConfig& config, const WeightSource& base,
                const Layers& layers)
      : WeightsOver(base) {
    const ModelSpec spec = DescribeModel(config, nullptr);
    for (const size_t layer : layers) {
      for (const Site site : {Site::kAttentionOutput, Site::kMlpHidden}) {
        const ProductSpec& product = spec.blocks[layer][site].direct.front();
        for (const auto* names : {&product.tensors, &product.biases}) {
          for (const TensorShape& tensor : *names) zeros_.insert(tensor.name);
        }
      }
    }
  }

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    if (!zeros_.contains(names.front())) {
      return base().Pack(names, rows, cols, type, layout);
    }
    const std::vector<float> values(rows.front() * cols);
    const SourceMatrix matrix{
        .data = values.data(), .rows = rows.front(), .cols = cols};
    return PackedMatrix::Pack({&matrix, 1}, type, layout);
  }
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override {
    if (zeros_.contains(name)) return std::vector<float>(n);
    return base().Vector(name, n);
  }

 private:
  std::set<std::string> zeros_;
};

ModelConfig ConfigOf(const std::string& family, size_t layers) {
  const ModelConfig tiny = TinyConfig();
  ModelConfig config = FindFamily(family)->defaults;
  config.hidden = tiny.hidden;
  config.layers = layers;
  config.heads = tiny.heads;
  config.kv_heads = FindFamily(family)->groups_heads ? 2 : tiny.heads;
  config.head_dim = tiny.head_dim;
  config.mlp = tiny.mlp;
  config.vocab = tiny.vocab;
  config.max_positions = 1024;
  return config;
}

// Random routers of all layers, so strong that rho differs between prompts. The
// signs are such that the prompt of the tests leaves out layers 2 and 3.
Adapter WithRouters(const ModelConfig& config) {
  Adapter adapter;
  adapter.method = "first";
  adapter.checkpoint_hash = "0123";
  for (size_t layer = 0; layer < config.layers; ++layer) {
    std::vector<float>& router = adapter.skip.routers[layer];
    router = RandomVector(config.hidden, static_cast<unsigned>(layer + 1), 2);
    if (layer != 2 && layer != 3) continue;
    for (float& weight : router) weight = -weight;
  }
  return adapter;
}

class LayerSkipTest : public testing::Test {
 protected:
  Model Routed(const SkipOptions& skip, size_t threads = 1) {
    return MakeModel(config_, weights_, &adapter_,
                     {.threads = threads, .skip = skip});
  }
  Model Fixed(const Layers& layers) {
    return MakeModel(config_, weights_, nullptr, {.skip = {.layers = layers}});
  }
  // What `prompt` decides.
  static LayerDecision Decide(Model& model, std::span<const int> prompt) {
    KvCache cache = model.NewCache(prompt.size()).value();
    EXPECT_TRUE(model.Forward(prompt, cache, {}).ok());
    const Status ended = model.EndPrompt(cache);
    EXPECT_TRUE(ended.ok()) << ended.message();
    return cache.decision().value_or(LayerDecision());
  }
  // logits (ids.size() - prompt + 1, vocab): of the last token of the prompt,
  // and of those after it.
  static std::vector<float> LogitsAfter(Model& model, std::span<const int> ids,
                                        size_t prompt, KvCache& cache) {
    const size_t vocab = model.config().vocab;
    std::vector<float> logits((ids.size() - prompt + 1) * vocab);
    EXPECT_TRUE(
        model.Forward(ids.first(prompt), cache, {logits.data(), vocab}).ok());
    EXPECT_TRUE(model.EndPrompt(cache).ok());
    Decode(model, ids.subspan(prompt), cache, logits.data() + vocab);
    return logits;
  }
  static std::vector<float> LogitsAfter(Model& model, std::span<const int> ids,
                                        size_t prompt) {
    KvCache cache = model.NewCache(ids.size()).value();
    return LogitsAfter(model, ids, prompt, cache);
  }
  static void Decode(Model& model, std::span<const int> ids, KvCache& cache,
                     float* logits) {
    const size_t vocab = model.config().vocab;
    for (size_t i = 0; i < ids.size(); ++i) {
      const Status status =
          model.Forward(ids.subspan(i, 1), cache, {logits + i * vocab, vocab});
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
  std::string Refusal(const Adapter* adapter, const SkipOptions& skip) {
    const auto model =
        Model::Create(config_, weights_, adapter, Dispatcher(nullptr),
                      {.skip = skip}, MakeDefaultExecutor(1));
    EXPECT_FALSE(model.ok());
    return model.ok() ? "" : model.status().message();
  }

  const ModelConfig config_ = ConfigOf("llama", 6);
  const SyntheticWeights weights_{config_, 3};
  const Adapter adapter_ = WithRouters(config_);
  const std::vector<int> ids_ = SyntheticIds(config_, 40, 4);
  const std::span<const int> prompt_ = std::span(ids_).first(23);
};

// A prompt on the whole model, then decoding on one whose layers add nothing,
// after the same keys and values.
TEST_F(LayerSkipTest, DecodesAsIfTheLayersAddedNothing) {
  for (const std::string family : {"llama", "gpt_neox", "gemma2", "qwen3"}) {
    const ModelConfig config = ConfigOf(family, 4);
    const SyntheticWeights weights(config, 7);
    const std::vector<int> ids = SyntheticIds(config, 30, 8);
    Model dense = MakeModel(config, weights);
    for (const Layers& layers : {Layers{1}, Layers{2}, Layers{1, 2}}) {
      const WithoutLayers zeros(config, weights, layers);
      Model without = MakeModel(config, zeros);
      KvCache cache = dense.NewCache(ids.size()).value();
      std::vector<float> expected(18 * config.vocab);
      ASSERT_TRUE(dense
                      .Forward(std::span(ids).first(13), cache,
                               {expected.data(), config.vocab})
                      .ok());
      Decode(without, std::span(ids).subspan(13), cache,
             expected.data() + config.vocab);

      for (const size_t threads : {1, 2, 3}) {
        Model model =
            MakeModel(config, weights, nullptr,
                      {.threads = threads, .skip = {.layers = layers}});
        EXPECT_TRUE(model.skips_layers());
        EXPECT_EQ(LogitsAfter(model, ids, 13), expected) << family;
      }
      // It is not what the dense model computes.
      Model all = MakeModel(config, weights);
      EXPECT_NE(LogitsAfter(all, ids, 13), expected);
    }
  }
}

TEST_F(LayerSkipTest, EveryWeightTypeAndKvType) {
  const WithoutLayers zeros(config_, weights_, {2, 4});
  for (const WeightType type :
       {WeightType::kBf16, WeightType::kI8Group32, WeightType::kI4Group32}) {
    for (const WeightType kv :
         {WeightType::kF16, WeightType::kBf16, WeightType::kI8}) {
      const ModelOptions options{
          .type = type, .lm_head_type = type, .kv_type = kv};
      Model dense = MakeModel(config_, weights_, nullptr, options);
      Model without = MakeModel(config_, zeros, nullptr, options);
      KvCache cache = dense.NewCache(ids_.size()).value();
      std::vector<float> expected((ids_.size() - 22) * config_.vocab);
      ASSERT_TRUE(
          dense.Forward(prompt_, cache, {expected.data(), config_.vocab}).ok());
      Decode(without, std::span(ids_).subspan(23), cache,
             expected.data() + config_.vocab);
      ModelOptions skipping = options;
      skipping.skip.layers = {4, 2};  // in any order
      Model model = MakeModel(config_, weights_, nullptr, skipping);
      EXPECT_EQ(LogitsAfter(model, ids_, 23), expected);
    }
  }
}

TEST_F(LayerSkipTest, RoutersThatSkipNothingChangeNoBit) {
  Model dense = MakeModel(config_, weights_);
  Model routed = Routed({.threshold = 0});
  EXPECT_EQ(LogitsAfter(routed, ids_, 23), LogitsAfter(dense, ids_, 23));
  EXPECT_EQ(PrefillLogits(routed, ids_), PrefillLogits(dense, ids_));
  EXPECT_EQ(DecodeLogits(routed, ids_), DecodeLogits(dense, ids_));
  EXPECT_EQ(Decide(routed, prompt_).skipped, Layers());
  EXPECT_FALSE(dense.skips_layers());
  KvCache cache = dense.NewCache(3).value();
  ASSERT_TRUE(dense.Forward(prompt_.first(2), cache, {}).ok());
  ASSERT_TRUE(dense.EndPrompt(cache).ok());
  EXPECT_FALSE(cache.decision().has_value());
}

// rho by hand, from the hidden values between the blocks of the dense model.
TEST_F(LayerSkipTest, RhoIsTheMeanSigmoid) {
  Model dense = MakeModel(config_, weights_);
  std::vector<float> hidden(prompt_.size() * config_.hidden);
  ASSERT_TRUE(dense.Embed(prompt_, hidden.data()).ok());
  KvCache cache = dense.NewCache(prompt_.size()).value();
  std::map<size_t, double> expected;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    double sum = 0;
    for (size_t t = 0; t < prompt_.size(); ++t) {
      double score = 0;
      for (size_t i = 0; i < config_.hidden; ++i) {
        score += double{adapter_.skip.routers.at(layer)[i]} *
                 hidden[t * config_.hidden + i];
      }
      sum += 1 / (1 + std::exp(-score));
    }
    expected[layer] = sum / static_cast<double>(prompt_.size());
    dense.ForwardLayer(layer, hidden.data(), prompt_.size(), cache);
  }
  Model routed = Routed({});
  const LayerDecision decision = Decide(routed, prompt_);
  ASSERT_EQ(decision.rho.size(), config_.layers);
  Layers below;
  for (const auto& [layer, rho] : decision.rho) {
    EXPECT_NEAR(rho, expected[layer], 1e-6) << layer;
    EXPECT_GT(std::fabs(rho - 0.5), 1e-4) << "no test of the threshold";
    if (rho < 0.5 && layer > 0 && layer + 1 < config_.layers) {
      below.push_back(layer);
    }
  }
  EXPECT_EQ(decision.skipped, below);
  EXPECT_FALSE(below.empty());
  // In several calls, the last of one token, and on several threads.
  for (const size_t threads : {1, 2, 3}) {
    Model other = Routed({}, threads);
    EXPECT_EQ(Decide(other, prompt_).rho, decision.rho);
    KvCache pieces = other.NewCache(prompt_.size()).value();
    for (const auto& [begin, count] :
         {std::pair{0, 10}, std::pair{10, 12}, std::pair{22, 1}}) {
      ASSERT_TRUE(
          other.Forward(prompt_.subspan(begin, count), pieces, {}).ok());
    }
    ASSERT_TRUE(other.EndPrompt(pieces).ok());
    for (const auto& [layer, rho] : pieces.decision()->rho) {
      EXPECT_NEAR(rho, decision.rho.at(layer), 1e-5);
    }
  }
}

// Of a prompt longer than what goes through the layers at once.
TEST_F(LayerSkipTest, LongPrompts) {
  const std::vector<int> ids = SyntheticIds(config_, 600, 9);
  Model routed = Routed({});
  const LayerDecision all = Decide(routed, ids);
  Model dense = MakeModel(config_, weights_);
  std::vector<float> hidden(ids.size() * config_.hidden);
  ASSERT_TRUE(dense.Embed(ids, hidden.data()).ok());
  double sum = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    double score = 0;
    for (size_t i = 0; i < config_.hidden; ++i) {
      score += double{adapter_.skip.routers.at(0)[i]} *
               hidden[t * config_.hidden + i];
    }
    sum += 1 / (1 + std::exp(-score));
  }
  EXPECT_NEAR(all.rho.at(0), sum / static_cast<double>(ids.size()), 1e-6);
}

// A router of zeros says one half, which is not below one half.
TEST_F(LayerSkipTest, OneHalfRuns) {
  Adapter adapter;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    adapter.skip.routers[layer].assign(config_.hidden, 0.0f);
  }
  Model model = MakeModel(config_, weights_, &adapter);
  EXPECT_EQ(Decide(model, prompt_).skipped, Layers());
  EXPECT_EQ(Decide(model, prompt_).rho.at(3), 0.5);
  Model above = MakeModel(config_, weights_, &adapter,
                          {.skip = {.threshold = std::nextafter(0.5, 1.0)}});
  EXPECT_EQ(Decide(above, prompt_).skipped, Layers({1, 2, 3, 4}));
}

TEST_F(LayerSkipTest, ThresholdLimitAndAlwaysOn) {
  Model all = Routed({.threshold = 1, .always_on = {{0, 0}}});
  const LayerDecision decision = Decide(all, prompt_);
  EXPECT_EQ(decision.skipped, Layers({0, 1, 2, 3, 4, 5}));
  Model inner = Routed({.threshold = 1});
  EXPECT_EQ(Decide(inner, prompt_).skipped, Layers({1, 2, 3, 4}));
  Model ends = Routed({.threshold = 1, .always_on = {{2, 3}}});
  EXPECT_EQ(Decide(ends, prompt_).skipped, Layers({2}));
  EXPECT_EQ(Decide(ends, prompt_).rho, decision.rho);

  std::vector<std::pair<double, size_t>> ranked;
  for (const auto& [layer, rho] : decision.rho) ranked.emplace_back(rho, layer);
  std::ranges::sort(ranked);
  for (size_t most = 0; most <= ranked.size() + 1; ++most) {
    Model model = Routed({.threshold = 1, .most = most, .always_on = {{0, 0}}});
    Layers expected;
    for (size_t i = 0; i < std::min(most, ranked.size()); ++i) {
      expected.push_back(ranked[i].second);
    }
    std::ranges::sort(expected);
    EXPECT_EQ(Decide(model, prompt_).skipped, expected);
  }
  // The adapter's threshold, and another one.
  Adapter strict = adapter_;
  strict.skip.threshold = ranked[2].first;
  Model model =
      MakeModel(config_, weights_, &strict, {.skip = {.always_on = {{0, 0}}}});
  EXPECT_EQ(Decide(model, prompt_).skipped.size(), 2u);
  Model other = Routed({.threshold = ranked[4].first, .always_on = {{0, 0}}});
  EXPECT_EQ(Decide(other, prompt_).skipped.size(), 4u);
}

TEST_F(LayerSkipTest, ListsInPlaceOfRouters) {
  Model given = Routed({.layers = {3}});
  EXPECT_EQ(Decide(given, prompt_).skipped, Layers({3}));
  EXPECT_TRUE(Decide(given, prompt_).rho.empty());
  Adapter fixed;
  fixed.skip.layers = {2, 4};
  Model model = MakeModel(config_, weights_, &fixed);
  EXPECT_EQ(Decide(model, prompt_).skipped, Layers({2, 4}));
}

TEST_F(LayerSkipTest, SequencesOfABatchShareADecision) {
  const std::span<const int> other = std::span(ids_).subspan(25, 9);
  Model model = Routed({});
  const LayerDecision first = Decide(model, prompt_);
  const LayerDecision second = Decide(model, other);
  EXPECT_NE(first.skipped, second.skipped) << "no test of a batch";
  KvCache a = model.NewCache(64).value(), b = model.NewCache(32).value();
  ASSERT_TRUE(model.Forward(prompt_, a, {}).ok());
  ASSERT_TRUE(model.Forward(other, b, {}).ok());
  KvCache* const both[] = {&a, &b};
  ASSERT_TRUE(model.EndPrompts(both).ok());
  Layers expected;
  for (const auto& [layer, rho] : a.decision()->rho) {
    // Of the prompts, whatever their lengths.
    const double mean = (first.rho.at(layer) + second.rho.at(layer)) / 2;
    EXPECT_NEAR(rho, mean, 1e-12);
    if (mean < 0.5 && layer > 0 && layer + 1 < config_.layers) {
      expected.push_back(layer);
    }
  }
  EXPECT_EQ(a.decision()->skipped, expected);
  EXPECT_EQ(b.decision()->skipped, expected);
  std::vector<float> logits(config_.vocab);
  EXPECT_TRUE(model.Forward(prompt_.first(1), a, logits).ok());
  EXPECT_EQ(a.length(), prompt_.size() + 1);
  EXPECT_EQ(b.length(), other.size());
}

// How many of the pages between the layers' keys are in memory.
size_t PagesOf(const KvCache& cache, size_t layer) {
  constexpr uintptr_t kPage = 4096;
  const auto address = [&](size_t of) {
    return reinterpret_cast<uintptr_t>(cache.keys(of, 0));
  };
  const uintptr_t begin = (address(layer) + kPage - 1) / kPage * kPage;
  const uintptr_t end = address(layer + 1) / kPage * kPage;
  std::vector<unsigned char> resident((end - begin) / kPage);
  EXPECT_EQ(
      mincore(reinterpret_cast<void*>(begin), end - begin, resident.data()), 0);
  return static_cast<size_t>(std::ranges::count_if(
      resident, [](unsigned char page) { return (page & 1) != 0; }));
}

TEST_F(LayerSkipTest, MemoryOfSkippedLayersGoesBack) {
  Model model = Fixed({2});
  KvCache cache = model.NewCache(1024).value();
  const size_t pages = PagesOf(cache, 2);
  EXPECT_GT(pages, 10u);
  const std::vector<float> first = LogitsAfter(model, ids_, 23, cache);
  EXPECT_EQ(PagesOf(cache, 2), 0u);
  EXPECT_EQ(PagesOf(cache, 1), pages);
  EXPECT_EQ(PagesOf(cache, 3), pages);
  // As many of keys as of values, in whole pages.
  const size_t freed = cache.decision()->freed_bytes;
  EXPECT_GE(freed, 2 * pages * 4096);
  EXPECT_LE(freed, cache.bytes() / config_.layers);
  // The same cache runs another sequence, and the same one again.
  cache.Clear();
  EXPECT_FALSE(cache.decision().has_value());
  Model dense = MakeModel(config_, weights_);
  const std::vector<int> other = SyntheticIds(config_, 30, 6);
  std::vector<float> logits(other.size() * config_.vocab);
  ASSERT_TRUE(dense.Forward(other, cache, logits, true).ok());
  EXPECT_EQ(logits, PrefillLogits(dense, other));
  cache.Clear();
  EXPECT_EQ(LogitsAfter(model, ids_, 23, cache), first);
}

TEST_F(LayerSkipTest, NothingIsAppendedToSkippedLayers) {
  Model model = Fixed({2});
  KvCache cache = model.NewCache(ids_.size()).value();
  LogitsAfter(model, ids_, 23, cache);
  std::vector<float> keys(ids_.size() * config_.head_dim);
  std::vector<float> values = keys;
  const auto is_zero = [&](size_t layer, size_t position) {
    cache.Widen(layer, 0, ids_.size(), keys.data(), values.data());
    return std::all_of(keys.begin() + position * config_.head_dim,
                       keys.begin() + (position + 1) * config_.head_dim,
                       [](float value) { return value == 0; });
  };
  for (size_t position = 23; position < ids_.size(); ++position) {
    EXPECT_TRUE(is_zero(2, position)) << position;
    EXPECT_FALSE(is_zero(3, position)) << position;
  }
}

TEST_F(LayerSkipTest, AnotherPromptNeedsAllLayers) {
  Model model = Fixed({2});
  KvCache cache = model.NewCache(64).value();
  ASSERT_TRUE(model.Forward(prompt_, cache, {}).ok());
  ASSERT_TRUE(model.EndPrompt(cache).ok());
  const Status more = model.Forward(prompt_.first(2), cache, {});
  EXPECT_NE(more.message().find("another prompt"), std::string::npos);
  EXPECT_EQ(cache.length(), prompt_.size());
  EXPECT_NE(model.EndPrompt(cache).message().find("has ended before"),
            std::string::npos);
  KvCache empty = model.NewCache(4).value();
  EXPECT_NE(model.EndPrompt(empty).message().find("empty"), std::string::npos);
  // Tokens that no router has seen.
  Model dense = MakeModel(config_, weights_);
  Model routed = Routed({});
  KvCache foreign = dense.NewCache(64).value();
  ASSERT_TRUE(dense.Forward(prompt_.first(5), foreign, {}).ok());
  ASSERT_TRUE(routed.Forward(prompt_.subspan(5), foreign, {}).ok());
  EXPECT_NE(routed.EndPrompt(foreign).message().find("no router has judged"),
            std::string::npos);
  const ModelConfig wide = ConfigOf("llama", 7);
  KvCache misfit(wide, WeightType::kF32, 8);
  EXPECT_FALSE(routed.EndPrompt(misfit).ok());
  EXPECT_FALSE(routed.EndPrompts({}).ok());
}

// A conversation: the second turn is what a fresh run of all tokens gives.
TEST_F(LayerSkipTest, ContinuingAfterAnotherPrompt) {
  Model model = Routed({});
  KvCache cache = model.NewCache(128).value();
  const auto turn = [&](const std::vector<int>& sequence, size_t count) {
    Sampler sampler({});
    const auto generation =
        Continue(model, cache, sequence, count, sampler, {});
    EXPECT_TRUE(generation.ok()) << generation.status().message();
    return generation.value();
  };
  std::vector<int> sequence(prompt_.begin(), prompt_.end());
  const Generation first = turn(sequence, 8);
  ASSERT_TRUE(first.layers.has_value());
  EXPECT_FALSE(first.layers->skipped.empty());
  sequence.insert(sequence.end(), first.ids.begin(), first.ids.end());
  sequence.insert(sequence.end(), ids_.begin() + 25, ids_.end());
  const Generation second = turn(sequence, 8);
  const auto fresh = Generate(model, sequence, 8, {}, {});
  ASSERT_TRUE(fresh.ok());
  EXPECT_EQ(second.ids, fresh->ids);
  EXPECT_EQ(second.layers->rho, fresh->layers->rho);
  EXPECT_EQ(second.layers->skipped, fresh->layers->skipped);

  // Token by token, as the Python package asks for them.
  cache.Clear();
  std::vector<int> steps = sequence;
  for (int i = 0; i < 8; ++i) steps.push_back(turn(steps, 1).ids.front());
  EXPECT_TRUE(std::equal(fresh->ids.begin(), fresh->ids.end(),
                         steps.begin() + sequence.size()));
}

TEST_F(LayerSkipTest, InnerSizesOfTheirOwn) {
  ModelConfig config = config_;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    config.layer_dims.push_back(
        {.qk = 16 - 4 * (layer % 2), .vo = 8 + layer, .mlp = 100 + layer});
    for (size_t head = 0; head < config.kv_heads; ++head) {
      std::vector<uint16_t> pairs;
      for (size_t i = 0; i < config.layer_dims[layer].qk / 2; ++i) {
        pairs.push_back(static_cast<uint16_t>(i));
      }
      config.layer_dims[layer].rotary_pairs.emplace_back(pairs.begin(),
                                                         pairs.end());
    }
  }
  const SyntheticWeights weights(config, 3);
  Model dense = MakeModel(config, weights);
  const WithoutLayers zeros(config, weights, {1, 2});
  Model without = MakeModel(config, zeros);
  KvCache cache = dense.NewCache(ids_.size()).value();
  std::vector<float> expected((ids_.size() - 22) * config.vocab);
  ASSERT_TRUE(
      dense.Forward(prompt_, cache, {expected.data(), config.vocab}).ok());
  Decode(without, std::span(ids_).subspan(23), cache,
         expected.data() + config.vocab);
  Model model =
      MakeModel(config, weights, nullptr, {.skip = {.layers = {1, 2}}});
  EXPECT_EQ(LogitsAfter(model, ids_, 23), expected);
}

// With masks of everything, which keep all inputs, beside the routers.
TEST_F(LayerSkipTest, BesideMasksAndRankAdapters) {
  Adapter masked = adapter_;
  AddMasks(config_, 0.05f, masked);
  Adapter masks_alone = masked;
  masks_alone.skip = {};
  Model routed = MakeModel(config_, weights_, &masked);
  const Layers skipped = Decide(routed, prompt_).skipped;
  ASSERT_FALSE(skipped.empty());
  Model dense = MakeModel(config_, weights_, &masks_alone);
  const WithoutLayers zeros(config_, weights_, skipped);
  Model without = MakeModel(config_, zeros, &masks_alone);
  KvCache cache = dense.NewCache(ids_.size()).value();
  std::vector<float> expected((ids_.size() - 22) * config_.vocab);
  ASSERT_TRUE(
      dense.Forward(prompt_, cache, {expected.data(), config_.vocab}).ok());
  Decode(without, std::span(ids_).subspan(23), cache,
         expected.data() + config_.vocab);
  EXPECT_EQ(LogitsAfter(routed, ids_, 23), expected);
}

TEST_F(LayerSkipTest, OptionsThatChangeNothingAreRefused) {
  Adapter fixed;
  fixed.skip.layers = {2};
  const auto expect = [&](const Adapter* adapter, const SkipOptions& skip,
                          const std::string& part) {
    const std::string message = Refusal(adapter, skip);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(nullptr, {.threshold = 0.4}, "skip threshold: nothing judges");
  expect(&fixed, {.most = 3}, "max skip: nothing judges");
  expect(&adapter_, {.threshold = 0.4, .layers = {2}}, "leave one of both");
  expect(&adapter_, {.threshold = 1.5}, "skip threshold: is 1.5");
  expect(&adapter_, {.threshold = NAN}, "skip threshold: is nan");
  expect(nullptr, {.always_on = {{1, 1}}}, "nothing skips them");
  expect(&adapter_, {.always_on = {{3, 3}}}, "leave none to skip");
  expect(&adapter_, {.always_on = {{SIZE_MAX, SIZE_MAX}}}, "leave none");
  expect(nullptr, {.layers = {6}}, "6 is none of this model's");
  expect(nullptr, {.layers = {2, 3, 2}}, "2 is given twice");
  expect(nullptr, {.layers = {0}}, "0 is one of the first 1 and last 1");
  expect(nullptr, {.layers = {5}}, "always run");
  Adapter first = fixed;
  first.skip.layers = {0};
  expect(&first, {}, "always run");
  Model model =
      MakeModel(config_, weights_, &first, {.skip = {.always_on = {{0, 1}}}});
  EXPECT_EQ(Decide(model, prompt_).skipped, Layers({0}));
}

TEST_F(LayerSkipTest, AdaptersOfOtherModelsAreRefused) {
  const auto expect = [&](const Adapter& adapter, const std::string& part) {
    const std::string message = CheckAdapter(config_, adapter).message();
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  Adapter adapter = adapter_;
  adapter.skip.routers[6] = adapter.skip.routers[0];
  expect(adapter, "block 6, the model has 6");
  adapter = adapter_;
  adapter.skip.routers[2].pop_back();
  expect(adapter, "95 values for block 2, expected 96");
  adapter = {};
  adapter.skip.layers = {7};
  expect(adapter, "block 7");
}

class LayerSkipFileTest : public LayerSkipTest {
 protected:
  std::string RefusalOfFile(const Adapter& adapter) {
    EXPECT_TRUE(SaveAdapter(adapter, path_).ok());
    const auto loaded = LoadAdapter(path_, "0123");
    EXPECT_FALSE(loaded.ok());
    if (loaded.ok()) return "";
    EXPECT_NE(loaded.status().message().find(path_), std::string::npos);
    return loaded.status().message();
  }
  // A file of one tensor, with this `layer_skip` (null: none).
  void WriteFile(const std::string& tensor, const std::vector<size_t>& shape,
                 const nlohmann::json& layer_skip) {
    nlohmann::json metadata = {
        {"format", "rankforge-adapter/1"},
        {"method", "first"},
        {"keep", 1},
        {"linear_flops_ratio", 1},
        {"checkpoint", {{"identity", "0123"}, {"full_hash", ""}}},
        {"calibration", {{"hash", ""}, {"tokens", 0}}},
        {"parameters", nlohmann::json::object()},
        {"left_dense", nlohmann::json::object()},
        {"ranks", nlohmann::json::object()},
        {"masks", nlohmann::json::object()}};
    if (!layer_skip.is_null()) metadata["layer_skip"] = layer_skip;
    const SafetensorsWriter::Tensor only{tensor, "F32", shape};
    auto writer = SafetensorsWriter::Create(path_, {&only, 1},
                                            {{"rankforge", metadata.dump()}});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    size_t values = 1;
    for (const size_t size : shape) values *= size;
    const std::vector<float> zeros(values);
    ASSERT_TRUE(writer->Append(std::as_bytes(std::span(zeros))).ok());
    ASSERT_TRUE(writer->Commit().ok());
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("a.safetensors");
};

TEST_F(LayerSkipFileTest, RoundTrip) {
  Adapter adapter = adapter_;
  adapter.skip.routers.erase(3);
  adapter.skip.threshold = 0.375;
  ASSERT_TRUE(SaveAdapter(adapter, path_).ok());
  for (const AdapterParts parts :
       {AdapterParts::kAll, AdapterParts::kWithoutMatrices}) {
    const auto loaded = LoadAdapter(path_, "0123", parts);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    EXPECT_EQ(loaded->skip.routers, adapter.skip.routers);
    EXPECT_EQ(loaded->skip.threshold, 0.375);
  }
  Adapter fixed;
  fixed.checkpoint_hash = "0123";
  fixed.skip.layers = {1, 4};
  ASSERT_TRUE(SaveAdapter(fixed, path_).ok());
  EXPECT_EQ(LoadAdapter(path_, "0123")->skip.layers, Layers({1, 4}));
}

TEST_F(LayerSkipFileTest, RoutersAloneNeedNoMetadata) {
  WriteFile("router.12.weight", {8}, nullptr);
  const auto loaded = LoadAdapter(path_, "0123");
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->skip.threshold, 0.5);
  ASSERT_EQ(loaded->skip.routers.size(), 1u);
  EXPECT_EQ(loaded->skip.routers.at(12).size(), 8u);
}

TEST_F(LayerSkipFileTest, WrongFiles) {
  const auto expect = [&](const Adapter& adapter, const std::string& part) {
    const std::string message = RefusalOfFile(adapter);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  for (const float value : {NAN, INFINITY}) {
    Adapter adapter = adapter_;
    adapter.skip.routers[2][7] = value;
    expect(adapter, "tensor 'router.2.weight' has");
  }
  Adapter adapter = adapter_;
  adapter.skip.layers = {1};
  expect(adapter, "both routers and a list of layers");
  adapter = adapter_;
  adapter.skip.threshold = 1.5;
  expect(adapter, "threshold 1.5");
  adapter = adapter_;
  adapter.skip.routers[2].resize(5);
  expect(adapter, "router of 5 values for block 2");
  adapter = adapter_;
  adapter.skip.routers = {{1, {}}};
  expect(adapter, "router of 0 values");
  adapter = {};
  adapter.checkpoint_hash = "0123";
  for (const Layers& layers : {Layers{2, 1}, Layers{2, 2}}) {
    adapter.skip.layers = layers;
    expect(adapter, "expected ascending ones");
  }
}

TEST_F(LayerSkipFileTest, WrongTensorsAndFields) {
  const auto expect = [&](const std::string& part) {
    const auto loaded = LoadAdapter(path_, "0123");
    ASSERT_FALSE(loaded.ok());
    const std::string& message = loaded.status().message();
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find(path_), std::string::npos) << message;
  };
  for (const char* name :
       {"router.x.weight", "router.07.weight", "router.-1.weight",
        "router.1.weight.weight", "router..weight",
        "router.99999999999999999999999.weight"}) {
    WriteFile(name, {8}, nullptr);
    expect("belongs to no module");
  }
  WriteFile("router.1.weight", {2, 4}, nullptr);
  expect("router.1.weight");
  WriteFile("router.1.weight", {8}, {{"treshold", 0.5}});
  expect("'treshold'");
  WriteFile("router.1.weight", {8}, {{"threshold", "high"}});
  expect("wrong metadata");
  for (const nlohmann::json& block :
       {nlohmann::json(-1), nlohmann::json(1.5), nlohmann::json("1")}) {
    WriteFile("router.1.weight", {8},
              {{"layers", nlohmann::json::array({block})}});
    expect("wrong metadata");
  }
}

class SkipEvaluationTest : public LayerSkipTest {};

// -log p(id) of these logits.
double LossOf(std::span<const float> logits, int id) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  return std::log(sum) - logits[static_cast<size_t>(id)];
}

TEST_F(SkipEvaluationTest, LossOfTheContinuation) {
  const std::vector<int> ids = SyntheticIds(config_, 70, 4);
  Model routed = Routed({});
  const EvaluationOptions options{.window = 30, .decode_from = 12};
  const auto result = Evaluate(routed, ids, options, {});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->tokens, 2 * 18u);
  ASSERT_EQ(result->layers.size(), 2u);

  double loss = 0, macs = 0;
  for (size_t window = 0; window < 2; ++window) {
    const auto text = std::span(ids).subspan(window * 30, 30);
    const LayerDecision decision = Decide(routed, text.first(12));
    EXPECT_EQ(result->layers[window].skipped, decision.skipped);
    const std::vector<float> logits = LogitsAfter(routed, text.first(29), 12);
    for (size_t i = 0; i < 18; ++i) {
      loss +=
          LossOf(std::span(logits).subspan(i * config_.vocab, config_.vocab),
                 text[12 + i]);
    }
    macs += static_cast<double>(config_.layers - decision.skipped.size()) *
            static_cast<double>(config_.BlockMacs(0)) / 2;
  }
  EXPECT_NEAR(result->loss, loss / 36, 1e-9);
  EXPECT_DOUBLE_EQ(result->block_macs, macs);
}

// Without routers it is the loss of the same tokens, and of all windows that of
// the dense model.
TEST_F(SkipEvaluationTest, WithoutRoutersItIsTheBaseline) {
  const std::vector<int> ids = SyntheticIds(config_, 60, 4);
  Model dense = MakeModel(config_, weights_);
  Model reference = MakeModel(config_, weights_);
  const auto all = Evaluate(dense, ids, {.window = 30}, {});
  EvaluationOptions options{.window = 30, .decode_from = 1};
  options.reference = &reference;
  const auto one = Evaluate(dense, ids, options, {});
  ASSERT_TRUE(all.ok() && one.ok());
  EXPECT_EQ(one->tokens, all->tokens);
  EXPECT_NEAR(one->loss, all->loss, 1e-5);
  EXPECT_TRUE(one->layers.empty());
  EXPECT_NEAR(one->difference->divergence.mean, 0, 1e-5);
  EXPECT_NEAR(one->difference->excess_loss.mean, 0, 1e-5);
  EXPECT_DOUBLE_EQ(one->linear_flops_ratio, 1);

  options.decode_from = 10;
  Model fixed = Fixed({1, 3});
  const auto skipped = Evaluate(fixed, ids, options, {});
  options.reference = nullptr;
  const auto baseline = Evaluate(dense, ids, options, {});
  ASSERT_TRUE(skipped.ok() && baseline.ok());
  EXPECT_EQ(skipped->tokens, 2 * 20u);
  EXPECT_NEAR(skipped->difference->excess_loss.mean,
              skipped->loss - baseline->loss, 1e-5);
  EXPECT_GT(skipped->difference->divergence.mean, 1e-6);
  EXPECT_NEAR(skipped->linear_flops_ratio, 4.0 / 6, 1e-12);
}

TEST_F(SkipEvaluationTest, WindowsThatLeaveNothingToDecode) {
  Model dense = MakeModel(config_, weights_);
  for (const size_t from : {size_t{15}, size_t{16}, SIZE_MAX}) {
    const auto result =
        Evaluate(dense, ids_, {.window = 16, .decode_from = from}, {});
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.status().message().find("--decode-from"),
              std::string::npos);
  }
  EXPECT_TRUE(
      Evaluate(dense, ids_, {.window = 16, .decode_from = 14}, {}).ok());
  EXPECT_FALSE(Evaluate(dense, ids_,
                        {.window = 16, .decode = true, .decode_from = 4}, {})
                   .ok());
}

// The context is the prompt of a choice.
TEST_F(SkipEvaluationTest, Choices) {
  const std::vector<int> context = {ids_.begin(), ids_.begin() + 12};
  std::vector<Question> questions = {
      {.context = context,
       .choices = {{{ids_.begin() + 12, ids_.begin() + 16}, 4},
                   {{ids_.begin() + 20, ids_.begin() + 21}, 1},
                   {{ids_.begin() + 22, ids_.begin() + 28}, 6}},
       .answer = 0}};
  Model fixed = Fixed({1, 3});
  const auto result = EvaluateChoices(fixed, questions, {});
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->layers.size(), questions.size());
  EXPECT_EQ(result->layers[0].skipped, (std::vector<size_t>{1, 3}));
  const std::vector<float> logits =
      LogitsAfter(fixed, std::span(ids_).first(15), 12);
  double loss = 0;
  for (size_t i = 0; i < 4; ++i) {
    loss += LossOf(std::span(logits).subspan(i * config_.vocab, config_.vocab),
                   ids_[12 + i]);
  }
  EXPECT_NEAR(result->answer_loss, loss / 4, 1e-9);
  // A choice after others, which used the same positions, is the same.
  questions[0].answer = 2;
  std::swap(questions[0].choices[0], questions[0].choices[2]);
  const auto swapped = EvaluateChoices(fixed, questions, {});
  ASSERT_TRUE(swapped.ok());
  EXPECT_NEAR(swapped->answer_loss, loss / 4, 1e-9);
}

}  // namespace
}  // namespace rankforge
