// Errors and contributions of adapted layers against plain sums in double.
#include "runtime/model/use/layer_comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "runtime/model/use/evaluation.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

using Values = std::vector<double>;

// Inputs and outputs of every projection, by layer and site.
class Recorder : public ActivationObserver {
 public:
  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override {
    inputs[{layer, site}].assign(x, x + tokens * width);
  }
  void ObserveOutput(size_t layer, Site site, const float* y, size_t tokens,
                     size_t width) override {
    outputs[{layer, site}].assign(y, y + tokens * width);
  }

  std::map<std::pair<size_t, Site>, Values> inputs, outputs;
};

class LayerComparisonTest : public testing::Test {
 protected:
  LayerComparisonTest() {
    config_.qkv_bias = true;
    Rank("model.layers.0.self_attn.qkv", config_.qkv_rows(0), 70);
    Rank("model.layers.0.mlp.up_proj", config_.mlp, 80);
    Mask("model.layers.0.mlp.down_proj", config_.mlp, 0.1f);
    Mask("model.layers.1.self_attn.o_proj", config_.q_rows(0), 0.2f);
  }

  void Rank(const std::string& module, size_t rows, size_t d) {
    std::normal_distribution<float> normal(0, 0.1f);
    RankAdapter rank;
    rank.module = module;
    rank.rows = rows;
    rank.cols = config_.hidden;
    rank.d = d;
    for (size_t i = 0; i < d * rows; ++i) rank.a.push_back(normal(random_));
    for (size_t i = 0; i < d * rank.cols; ++i) {
      rank.b.push_back(normal(random_));
    }
    for (size_t i = 0; i < d; ++i) {
      rank.tau.push_back(0.3f + 0.01f * static_cast<float>(i % 50));
    }
    rank.density = 0.5;
    adapter_.ranks[module] = rank;
  }
  void Mask(const std::string& module, size_t cols, float tau) {
    InputMask mask;
    mask.module = module;
    mask.cols = cols;
    mask.tau.assign(cols, tau);
    mask.density = 0.5;
    adapter_.masks[module] = mask;
  }

  // The dense weights of a product, stacked.
  Values Weights(const std::vector<TensorShape>& tensors) const {
    Values stack;
    for (const TensorShape& tensor : tensors) {
      const std::vector<std::string> names = {tensor.name};
      const std::vector<size_t> rows = {tensor.rows};
      const auto packed = weights_.Pack(names, rows, tensor.cols,
                                        WeightType::kF32, Layout::kOutIn);
      EXPECT_TRUE(packed.ok());
      for (size_t row = 0; row < tensor.rows; ++row) {
        for (size_t col = 0; col < tensor.cols; ++col) {
          stack.push_back(packed->At(row, col));
        }
      }
    }
    return stack;
  }
  // y (tokens, rows) = x (tokens, cols) w^T.
  static Values Times(const Values& x, const Values& w, size_t cols) {
    const size_t tokens = x.size() / cols, rows = w.size() / cols;
    Values y(tokens * rows);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < rows; ++i) {
        y[t * rows + i] = std::inner_product(&x[t * cols], &x[t * cols] + cols,
                                             &w[i * cols], 0.0);
      }
    }
    return y;
  }
  // Of outputs [begin, end) of `width`; `bias` is what y has and dense has not.
  static double Error(const Values& y, const Values& dense, size_t width,
                      size_t begin, size_t end, const Values& bias) {
    double error = 0, reference = 0;
    for (size_t at = 0; at < y.size(); at += width) {
      for (size_t i = begin; i < end; ++i) {
        const double difference =
            y[at + i] - dense[at + i] - (bias.empty() ? 0 : bias[i]);
        error += difference * difference;
        reference += dense[at + i] * dense[at + i];
      }
    }
    return error / reference;
  }
  Values Bias(const ProductSpec& product) const {
    Values all;
    for (const TensorShape& tensor : product.biases) {
      const auto bias = weights_.Vector(tensor.name, tensor.cols);
      EXPECT_TRUE(bias.ok());
      all.insert(all.end(), bias->begin(), bias->end());
    }
    return all;
  }

  ModelConfig config_ = TinyConfig();
  const SyntheticWeights weights_{config_, 3};
  const std::vector<int> ids_ = SyntheticIds(config_, 40, 3);
  std::mt19937 random_{5};
  Adapter adapter_;
};

TEST_F(LayerComparisonTest, ErrorsAreThoseOfPlainSums) {
  constexpr double kTauScale = 0.8;
  Model model =
      MakeModel(config_, weights_, &adapter_, {.tau_scale = kTauScale});
  Recorder recorder;
  model.set_observer(&recorder);
  PrefillLogits(model, ids_);
  const auto comparison = LayerComparison::Create(model, weights_, adapter_);
  ASSERT_TRUE(comparison.ok()) << comparison.status().message();
  model.set_observer(comparison->get());
  model.ResetCounters();
  PrefillLogits(model, ids_);
  const auto figures = (*comparison)->Figures();
  ASSERT_EQ(figures.size(), 5);  // four modules and the MLP of block 0

  const ModelSpec spec = DescribeModel(config_, nullptr);
  const size_t hidden = config_.hidden, mlp = config_.mlp;
  const auto near = [&](const std::string& module, double error) {
    EXPECT_NEAR(figures.at(module).error / error, 1, 1e-3) << module;
  };
  const auto& [qkv, o, gate_up, down] =
      std::tie(spec.blocks[0][Site::kAttentionInput].direct[0],
               spec.blocks[1][Site::kAttentionOutput].direct[0],
               spec.blocks[0][Site::kMlpInput].direct[0],
               spec.blocks[0][Site::kMlpHidden].direct[0]);
  const auto dense = [&](const ProductSpec& product, size_t layer, Site site) {
    return Times(recorder.inputs.at({layer, site}), Weights(product.tensors),
                 product.cols());
  };
  ASSERT_EQ(Bias(qkv).size(), config_.qkv_rows(0));
  near("model.layers.0.self_attn.qkv",
       Error(recorder.outputs.at({0, Site::kAttentionInput}),
             dense(qkv, 0, Site::kAttentionInput), qkv.rows(), 0, qkv.rows(),
             Bias(qkv)));
  near("model.layers.1.self_attn.o_proj",
       Error(recorder.outputs.at({1, Site::kAttentionOutput}),
             dense(o, 1, Site::kAttentionOutput), hidden, 0, hidden, {}));
  const Values gate_up_y = dense(gate_up, 0, Site::kMlpInput);
  near("model.layers.0.mlp.up_proj",
       Error(recorder.outputs.at({0, Site::kMlpInput}), gate_up_y, 2 * mlp, mlp,
             2 * mlp, {}));
  const Values& y = recorder.outputs.at({0, Site::kMlpHidden});
  near("model.layers.0.mlp.down_proj",
       Error(y, dense(down, 0, Site::kMlpHidden), hidden, 0, hidden, {}));
  Values inner;
  for (size_t t = 0; t < ids_.size(); ++t) {
    for (size_t i = 0; i < mlp; ++i) {
      const double gate = gate_up_y[t * 2 * mlp + i];
      inner.push_back(gate / (1 + std::exp(-gate)) *
                      gate_up_y[t * 2 * mlp + mlp + i]);
    }
  }
  near("model.layers.0.mlp", Error(y, Times(inner, Weights(down.tensors), mlp),
                                   hidden, 0, hidden, {}));

  // Masks keep what the model's counters say, and by channel what B x says.
  for (const auto& [module, density] : model.counters().density) {
    const auto& frequency = figures.at(module).keep_frequency;
    const double kept =
        std::accumulate(frequency.begin(), frequency.end(), 0.0) *
        static_cast<double>(ids_.size());
    EXPECT_NEAR(kept, density.kept, 2) << module;
    EXPECT_GT(kept, 0) << module;
    EXPECT_LT(kept, density.total) << module;
    EXPECT_EQ(figures.at(module).contributions.has_value(),
              adapter_.ranks.contains(module));
  }
  const RankAdapter& up = adapter_.ranks.at("model.layers.0.mlp.up_proj");
  const Values z = Times(recorder.inputs.at({0, Site::kMlpInput}),
                         Values(up.b.begin(), up.b.end()), hidden);
  RankContributions expected;
  Values frequency(up.d);
  double energy = 0;
  for (const double value : z) energy += value * value;
  for (size_t t = 0; t < ids_.size(); ++t) {
    const double* const row = &z[t * up.d];
    const double sum = std::inner_product(row, row + up.d, row, 0.0);
    for (size_t i = 0; i < up.d; ++i) {
      const bool keep = std::fabs(row[i]) >= kTauScale * up.tau[i];
      frequency[i] += static_cast<double>(keep) / ids_.size();
      const double share = row[i] * row[i] * static_cast<double>(up.d) / sum;
      const auto bin = static_cast<size_t>(
          std::clamp(std::floor((std::log10(share) + 4) / 0.5), 0.0, 13.0));
      expected.ranks[bin] += 1.0 / static_cast<double>(z.size());
      expected.kept[bin] += keep * 1.0 / static_cast<double>(z.size());
      expected.energy[bin] += row[i] * row[i] / energy;
    }
  }
  const LayerFigures& measured = figures.at(up.module);
  for (size_t i = 0; i < up.d; ++i) {
    EXPECT_NEAR(measured.keep_frequency[i], frequency[i], 1.01 / ids_.size());
  }
  for (size_t bin = 0; bin < RankContributions::kBins; ++bin) {
    EXPECT_NEAR(measured.contributions->ranks[bin], expected.ranks[bin], 2e-3);
    EXPECT_NEAR(measured.contributions->kept[bin], expected.kept[bin], 2e-3);
    EXPECT_NEAR(measured.contributions->energy[bin], expected.energy[bin],
                2e-3);
  }
}

// Observing changes nothing, in either path, and both paths say the same.
TEST_F(LayerComparisonTest, OnlyLooks) {
  Model model = MakeModel(config_, weights_, &adapter_);
  const std::vector<float> expected = PrefillLogits(model, ids_);
  const auto error = [&](auto run) {
    auto comparison = LayerComparison::Create(model, weights_, adapter_);
    EXPECT_TRUE(comparison.ok());
    model.set_observer(comparison->get());
    run();
    model.set_observer(nullptr);
    return (*comparison)->Figures().at("model.layers.0.self_attn.qkv").error;
  };
  const double prefill =
      error([&] { EXPECT_EQ(PrefillLogits(model, ids_), expected); });
  const double decode = error([&] { DecodeLogits(model, ids_); });
  EXPECT_GT(prefill, 0.01);
  EXPECT_NEAR(prefill / decode, 1, 0.01);
}

TEST_F(LayerComparisonTest, MasksThatKeepAllLoseNothing) {
  for (auto& [module, mask] : adapter_.masks) mask.tau.assign(mask.cols, 0);
  Model model =
      MakeModel(config_, weights_, &adapter_, {.type = WeightType::kI4Group32});
  const auto comparison = LayerComparison::Create(model, weights_, adapter_);
  ASSERT_TRUE(comparison.ok());
  model.set_observer(comparison->get());
  PrefillLogits(model, ids_);
  const auto figures = (*comparison)->Figures();
  for (const auto& [module, mask] : adapter_.masks) {
    // The two may be packed in layouts that round differently: not to 0.
    EXPECT_LT(figures.at(module).error, 0.02) << module;
    for (const double share : figures.at(module).keep_frequency) {
      EXPECT_EQ(share, 1);
    }
  }
}

TEST_F(LayerComparisonTest, AnAdapterForAnotherModelIsRefused) {
  Model model = MakeModel(config_, weights_, &adapter_);
  Adapter other = adapter_;
  other.masks.begin()->second.cols += 1;
  EXPECT_FALSE(LayerComparison::Create(model, weights_, other).ok());
}

// Quantiles of the evaluation against the tokens one by one.
TEST_F(LayerComparisonTest, DensityQuantiles) {
  Model model = MakeModel(config_, weights_, &adapter_);
  const auto result = Evaluate(model, ids_, {41, 0}, nullptr);
  EXPECT_FALSE(result.ok());
  const auto evaluation = Evaluate(model, ids_, {40, 0}, nullptr);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status().message();
  EXPECT_EQ(evaluation->density_quantiles.size(), evaluation->density.size());

  std::map<std::string, Values> by_token;
  KvCache cache(config_, WeightType::kF32, ids_.size());
  for (size_t i = 0; i + 1 < ids_.size(); ++i) {
    model.ResetCounters();
    ASSERT_TRUE(model.Forward(std::span(ids_).subspan(i, 1), cache, {}).ok());
    for (const auto& [module, density] : model.counters().density) {
      by_token[module].push_back(density.kept / density.total);
    }
  }
  for (auto& [module, shares] : by_token) {
    std::sort(shares.begin(), shares.end());
    for (const auto& [name, value] : evaluation->density_quantiles.at(module)) {
      const auto at = static_cast<size_t>(
          std::stod(name) * static_cast<double>(shares.size() - 1));
      EXPECT_NEAR(value, shares[at], 0.02) << module << " " << name;
    }
    EXPECT_LT(shares.front(), shares.back()) << module;
  }
}

}  // namespace
}  // namespace rankforge
