// The backward pass against differences of the loss, for every family's block.
#include "adapt/calibrate/loss_gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapt/calibrate/load_weights.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/family.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/synthetic.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

constexpr size_t kWindow = 12, kTokens = 2 * kWindow;

struct GradientCase {
  std::string name;
  // Null: the checkpoint of this name in tests/model/data/families, whose norms
  // have random weights.
  ModelConfig (*config)();
};

class LossGradientTest : public testing::TestWithParam<GradientCase> {
 protected:
  LossGradientTest() {
    std::string path =
        RANKFORGE_SOURCE_DIR "/tests/model/data/families/" + GetParam().name;
    if (GetParam().config != nullptr) {
      path = folder_.File("model");
      EXPECT_TRUE(WriteSyntheticCheckpoint(GetParam().config(), 3, path).ok());
    }
    checkpoint_.emplace(Checkpoint::Open(path).value());
    config_ = checkpoint_->config();
    model_.emplace(Model::Create(config_, *checkpoint_, nullptr,
                                 Dispatcher(nullptr), {}, MakeSerialExecutor())
                       .value());
    ids_ = SyntheticIds(config_, kTokens, 4);
    hidden_.push_back(
        Calibration::Start(*model_, ids_, kWindow).value().hidden());
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      hidden_.push_back(hidden_.back());
      RunBlock(*model_, layer, kWindow, hidden_.back());
    }
    labels_ = DrawLabels(*model_, hidden_.back(), 5);
  }

  // The loss when `layer` reads `x` at `site`, with `hidden` beside it.
  double LossFrom(size_t layer, size_t site, Matrix<float> x,
                  Matrix<float> hidden) {
    KvCache cache(config_, WeightType::kF32, kWindow);
    for (size_t begin = 0; begin < kTokens; begin += kWindow) {
      std::vector<float> at(x.row(begin), x.row(begin + kWindow));
      for (size_t s = site; s < kSites.size(); ++s) {
        const bool last = s + 1 == kSites.size();
        std::vector<float> next(
            last ? 0 : kWindow * SiteWidth(config_, layer, kSites[s + 1]));
        cache.Clear();
        model_->ForwardSite(layer, kSites[s], at.data(), kWindow, cache,
                            hidden.row(begin), next.data());
        at = std::move(next);
      }
    }
    return LossBehind(layer + 1, std::move(hidden));
  }
  double LossBehind(size_t layer, Matrix<float> hidden) {
    for (; layer < config_.layers; ++layer) {
      RunBlock(*model_, layer, kWindow, hidden);
    }
    Matrix<float> logits(kTokens, config_.vocab);
    model_->FinalLogits(hidden.values.data(), kTokens, logits.values.data());
    double loss = 0;
    for (size_t t = 0; t < kTokens; ++t) {
      double sum = 0;
      for (const float* l = logits.row(t); l != logits.row(t + 1); ++l) {
        sum += std::exp(static_cast<double>(*l));
      }
      loss +=
          std::log(sum) -
          static_cast<double>(logits.row(t)[static_cast<size_t>(labels_[t])]);
    }
    return loss;
  }

  // What `gradient` says of a step along a random direction, against what
  // `loss(moved)` does. In f32 the difference keeps some four digits.
  template <class Loss>
  void ExpectSlope(const Matrix<float>& x, const Matrix<float>& gradient,
                   uint32_t seed, Loss loss) {
    ASSERT_EQ(gradient.rows, x.rows);
    ASSERT_EQ(gradient.cols, x.cols);
    // Half of it along the gradient, so that there is something to see.
    const Matrix<float> random = RandomMatrix(x.rows, x.cols, seed);
    const double length = std::sqrt(SquaredNorm(gradient));
    ASSERT_GT(length, 0);
    Matrix<float> direction = random;
    const double other = std::sqrt(SquaredNorm(random));
    double predicted = 0;
    for (size_t i = 0; i < x.values.size(); ++i) {
      direction.values[i] = static_cast<float>(gradient.values[i] / length +
                                               random.values[i] / other);
      predicted += static_cast<double>(gradient.values[i]) *
                   static_cast<double>(direction.values[i]);
    }
    const double step = 1e-3 * std::sqrt(SquaredNorm(x));
    const auto at = [&](double share) {
      Matrix<float> moved = x;
      for (size_t i = 0; i < x.values.size(); ++i) {
        moved.values[i] +=
            static_cast<float>(share * step * direction.values[i]);
      }
      return loss(moved);
    };
    // The third order cancels between two steps.
    const double wide = (at(1) - at(-1)) / (2 * step);
    const double narrow = (at(0.5) - at(-0.5)) / step;
    EXPECT_NEAR((4 * narrow - wide) / 3, predicted,
                5e-3 * std::fabs(predicted));
  }

  // Of the last block, with random gains and biases.
  void ExpectSlopesOf(Adapter adapter);

  TemporaryFolder folder_;
  ModelConfig config_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<Model> model_;
  std::vector<int> ids_, labels_;
  std::vector<Matrix<float>> hidden_;  // before every block, and behind all
};

TEST_P(LossGradientTest, IsTheSlopeOfTheLoss) {
  Matrix<float> gradient =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  ExpectSlope(hidden_.back(), gradient, 1, [&](const Matrix<float>& moved) {
    return LossBehind(config_.layers, moved);
  });
  for (size_t layer = config_.layers; layer-- > 0;) {
    SCOPED_TRACE(layer);
    Calibration calibration =
        Calibration::Continue(*model_, hidden_[layer], kWindow, layer);
    // What each site reads, and what stands beside it by then.
    SiteInputs reads;
    BySite<Matrix<float>> beside;
    Matrix<float> x = calibration.First();
    for (const Site site : kSites) {
      reads[site] = x;
      beside[site] = calibration.hidden();
      x = calibration.Next(site, x);
    }
    const SiteGradients sites =
        BackThroughBlock(*model_, *checkpoint_, layer, kWindow, hidden_[layer],
                         reads, gradient)
            .value();
    for (size_t s = 0; s < kSites.size(); ++s) {
      SCOPED_TRACE(s);
      const Site site = kSites[s];
      ExpectSlope(reads[site], sites[site],
                  static_cast<uint32_t>(10 * layer + s),
                  [&](const Matrix<float>& moved) {
                    return LossFrom(layer, s, moved, beside[site]);
                  });
    }
    ExpectSlope(
        hidden_[layer], gradient, static_cast<uint32_t>(layer),
        [&](const Matrix<float>& moved) { return LossBehind(layer, moved); });
  }
}

// Half of the channels of every mask are dropped, whatever they hold: then the
// loss of an adapted model is smooth.
std::vector<float> HalfDropped(size_t n) {
  std::vector<float> tau(n, 0.0f);
  for (size_t i = 0; i < n; i += 2) {
    tau[i] = std::numeric_limits<float>::infinity();
  }
  return tau;
}

// Rank adapters where q, k, v and where gate and up read, else input masks.
Adapter RandomAdapter(const ModelConfig& config) {
  Adapter adapter;
  uint32_t seed = 50;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const Site site : kSites) {
      const ProjectionSpec& projection = block[site];
      if (site == Site::kAttentionOutput || site == Site::kMlpHidden) {
        InputMask& mask = adapter.masks[projection.name];
        mask.module = projection.name;
        mask.cols = projection.cols;
        mask.tau = HalfDropped(mask.cols);
        mask.keep_frequency.assign(mask.cols, 0.5f);
        mask.density = 0.5;
        continue;
      }
      RankAdapter& rank = adapter.ranks[projection.name];
      rank.module = projection.name;
      rank.rows = projection.rows;
      rank.cols = projection.cols;
      rank.d = 16;
      rank.a = RandomMatrix(rank.d, rank.rows, ++seed).values;
      rank.b = RandomMatrix(rank.d, rank.cols, ++seed).values;
      for (float& v : rank.a) v *= 0.3f;
      for (float& v : rank.b) v /= std::sqrt(static_cast<float>(rank.cols));
      rank.tau = HalfDropped(rank.d);
      rank.keep_frequency.assign(rank.d, 0.5f);
      rank.density = 0.5;
    }
  }
  return adapter;
}

TEST_P(LossGradientTest, EffectsAreOfWhatAnAdapterDrops) {
  const Adapter adapter = RandomAdapter(config_);
  const size_t layer = config_.layers - 1;
  const Status adapted = model_->AdaptBlock(layer, *checkpoint_, &adapter);
  ASSERT_TRUE(adapted.ok()) << adapted.message();
  const SiteInputs reads =
      Calibration::Continue(*model_, hidden_[layer], kWindow, layer)
          .NextBlock();
  Matrix<float> gradient =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  SiteEffects effects{};
  const SiteGradients sites =
      BackThroughBlock(*model_, *checkpoint_, layer, kWindow, hidden_[layer],
                       reads, gradient,
                       {.adapter = &adapter, .effects = &effects})
          .value();
  const BlockSpec block = DescribeModel(config_, nullptr).blocks[layer];
  for (const Site site : kSites) {
    SCOPED_TRACE(block[site].name);
    const Matrix<float>& x = reads[site];
    double expected = 0;
    if (adapter.masks.contains(block[site].name)) {
      for (size_t t = 0; t < kTokens; ++t) {
        for (size_t j = 0; j < x.cols; j += 2) {
          expected -= static_cast<double>(sites[site].row(t)[j]) *
                      static_cast<double>(x.row(t)[j]);
        }
      }
      EXPECT_NEAR(effects[site], expected, 1e-3 * std::fabs(expected));
    } else {
      EXPECT_NE(effects[site], 0);
    }
  }
}

// A reflection, which is orthogonal.
std::vector<float> Reflection(size_t n) {
  const Matrix<float> v = RandomMatrix(1, n, 9);
  const double square = SquaredNorm(v);
  std::vector<float> q(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      q[i * n + j] = static_cast<float>((i == j ? 1 : 0) -
                                        2 * v.values[i] * v.values[j] / square);
    }
  }
  return q;
}

TEST_P(LossGradientTest, AnAdaptedBlockHasTheSlopesOfItsLoss) {
  ExpectSlopesOf(RandomAdapter(config_));
}

// The block turns what it reads, and what it hands on.
TEST_P(LossGradientTest, ARotatedBlockHasTheSlopesOfItsLoss) {
  Adapter adapter = RandomAdapter(config_);
  adapter.rotation = {
      config_.hidden,
      {{0, false, {}}, {config_.layers - 1, true, Reflection(config_.hidden)}}};
  ASSERT_GT(config_.layers, 1u);
  if (CanRotate(config_)) {
    ExpectSlopesOf(std::move(adapter));
  } else {
    EXPECT_FALSE(CheckAdapter(config_, adapter).ok());
  }
}

TEST_P(LossGradientTest, ADenseRotatedBlockHasTheSlopesOfTheDenseOne) {
  if (!CanRotate(config_)) return;
  Adapter adapter;
  adapter.rotation = {
      config_.hidden,
      {{0, false, {}}, {config_.layers - 1, true, Reflection(config_.hidden)}}};
  const size_t layer = config_.layers - 1;
  const auto back = [&](const Adapter* rotated, Matrix<float>& gradient) {
    EXPECT_TRUE(model_->AdaptBlock(layer, *checkpoint_, rotated).ok());
    const SiteInputs reads =
        Calibration::Continue(*model_, hidden_[layer], kWindow, layer)
            .NextBlock();
    return BackThroughBlock(*model_, *checkpoint_, layer, kWindow,
                            hidden_[layer], reads, gradient,
                            {.adapter = rotated})
        .value();
  };
  Matrix<float> dense =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  Matrix<float> turned = dense;
  const SiteGradients plain = back(nullptr, dense);
  const SiteGradients rotated = back(&adapter, turned);
  EXPECT_LT(std::sqrt(SquaredDistance(dense, turned)),
            1e-4 * std::sqrt(SquaredNorm(dense)));
  // Elsewhere the stream has another basis.
  for (const Site site : {Site::kAttentionOutput, Site::kMlpHidden}) {
    EXPECT_LT(std::sqrt(SquaredDistance(plain[site], rotated[site])),
              1e-4 * std::sqrt(SquaredNorm(plain[site])));
  }
}

void LossGradientTest::ExpectSlopesOf(Adapter adapter) {
  const size_t layer = config_.layers - 1;
  const BlockSpec block = DescribeModel(config_, nullptr).blocks[layer];
  for (auto& [module, mask] : adapter.masks) {
    const auto rows = static_cast<size_t>(config_.hidden);
    mask.gain = RandomMatrix(1, mask.cols, 7).values;
    for (float& gain : mask.gain) gain = 1 + 0.2f * gain;
    mask.bias = RandomMatrix(1, rows, 8).values;
  }
  const auto loss_of = [&](const Adapter& moved, const Matrix<float>& hidden) {
    EXPECT_TRUE(model_->AdaptBlock(layer, *checkpoint_, &moved).ok());
    return LossBehind(layer, hidden);
  };
  ASSERT_TRUE(model_->AdaptBlock(layer, *checkpoint_, &adapter).ok());
  Matrix<float> output = hidden_[layer];
  RunBlock(*model_, layer, kWindow, output);
  const SiteInputs reads =
      Calibration::Continue(*model_, hidden_[layer], kWindow, layer)
          .NextBlock();
  Matrix<float> gradient =
      OutputGradient(*model_, *checkpoint_, output, labels_).value();
  MaskGradients gradients;
  ASSERT_TRUE(BackThroughBlock(*model_, *checkpoint_, layer, kWindow,
                               hidden_[layer], reads, gradient,
                               {.adapter = &adapter, .gradients = &gradients})
                  .ok());
  ExpectSlope(hidden_[layer], gradient, 3, [&](const Matrix<float>& moved) {
    return loss_of(adapter, moved);
  });
  const auto row = [](const std::vector<float>& values) {
    Matrix<float> matrix(1, values.size());
    matrix.values = values;
    return matrix;
  };
  for (const Site site : kSites) {
    SCOPED_TRACE(block[site].name);
    const auto mask = adapter.masks.find(block[site].name);
    if (mask == adapter.masks.end()) {
      EXPECT_TRUE(gradients[site].gain.empty());
      continue;
    }
    for (const auto learned : {&InputMask::gain, &InputMask::bias}) {
      const bool gain = learned == &InputMask::gain;
      SCOPED_TRACE(gain ? "gain" : "bias");
      ExpectSlope(row(mask->second.*learned),
                  row(gain ? gradients[site].gain : gradients[site].bias), 4,
                  [&](const Matrix<float>& moved) {
                    Adapter other = adapter;
                    other.masks[block[site].name].*learned = moved.values;
                    return loss_of(other, hidden_[layer]);
                  });
    }
  }
}

TEST_P(LossGradientTest, AnExactRankAdapterHasNoEffect) {
  const size_t layer = config_.layers - 1;
  const ProjectionSpec projection =
      DescribeModel(config_, nullptr).blocks[layer][Site::kMlpInput];
  const Matrix<float> w =
      LoadWeights(*checkpoint_, projection.direct.front().tensors).value();
  Adapter adapter;
  RankAdapter& rank = adapter.ranks[projection.name];
  rank.rows = w.rows;
  rank.cols = rank.d = w.cols;
  rank.tau.assign(w.cols, 0.0f);
  rank.b.assign(w.cols * w.cols, 0.0f);
  rank.a.resize(w.values.size());
  for (size_t j = 0; j < w.cols; ++j) {
    rank.b[j * w.cols + j] = 1;
    for (size_t i = 0; i < w.rows; ++i) rank.a[j * w.rows + i] = w.row(i)[j];
  }
  const SiteInputs reads =
      Calibration::Continue(*model_, hidden_[layer], kWindow, layer)
          .NextBlock();
  Matrix<float> dense =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  Matrix<float> adapted = dense;
  const double scale = SquaredNorm(dense);
  SiteEffects effects{};
  ASSERT_TRUE(BackThroughBlock(*model_, *checkpoint_, layer, kWindow,
                               hidden_[layer], reads, adapted,
                               {.adapter = &adapter, .effects = &effects})
                  .ok());
  ASSERT_TRUE(BackThroughBlock(*model_, *checkpoint_, layer, kWindow,
                               hidden_[layer], reads, dense)
                  .ok());
  EXPECT_LT(std::sqrt(SquaredDistance(dense, adapted)),
            1e-4 * std::sqrt(SquaredNorm(dense)));
  EXPECT_NEAR(effects[Site::kMlpInput], 0, 1e-4 * std::sqrt(scale));
}

TEST_P(LossGradientTest, TheDivergenceFromItselfIsFlat) {
  Matrix<float> logs(kTokens, config_.vocab);
  model_->FinalLogits(hidden_.back().values.data(), kTokens,
                      logs.values.data());
  for (size_t t = 0; t < kTokens; ++t) {
    double sum = 0;
    for (const float* l = logs.row(t); l != logs.row(t + 1); ++l) {
      sum += std::exp(static_cast<double>(*l));
    }
    for (float* l = logs.row(t); l != logs.row(t + 1); ++l) {
      *l -= static_cast<float>(std::log(sum));
    }
  }
  const Matrix<float> flat =
      DivergenceGradient(*model_, *checkpoint_, hidden_.back(), logs).value();
  const Matrix<float> slope =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  EXPECT_LT(SquaredNorm(flat), 1e-8 * SquaredNorm(slope));
}

TEST_P(LossGradientTest, ManyWindowsAreEachTheirOwn) {
  // The second window alone has the gradient that it has beside the first.
  Matrix<float> both =
      OutputGradient(*model_, *checkpoint_, hidden_.back(), labels_).value();
  Matrix<float> alone(kWindow, config_.hidden);
  std::copy(both.row(kWindow), both.row(kTokens), alone.values.begin());
  const size_t layer = config_.layers - 1;
  const auto back = [&](Matrix<float> hidden, Matrix<float>& gradient) {
    const SiteInputs inputs =
        Calibration::Continue(*model_, hidden, kWindow, layer).NextBlock();
    return BackThroughBlock(*model_, *checkpoint_, layer, kWindow, hidden,
                            inputs, gradient)
        .ok();
  };
  Matrix<float> second(kWindow, config_.hidden);
  std::copy(hidden_[layer].row(kWindow), hidden_[layer].row(kTokens),
            second.values.begin());
  ASSERT_TRUE(back(hidden_[layer], both));
  ASSERT_TRUE(back(second, alone));
  for (size_t i = 0; i < alone.values.size(); ++i) {
    EXPECT_NEAR(alone.values[i], both.row(kWindow)[i],
                1e-5 * std::sqrt(SquaredNorm(alone)));
  }
}

ModelConfig Grouped() {
  ModelConfig config = TinyConfig();
  config.kv_heads = 2;
  config.window = 5;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  return config;
}
ModelConfig Gemma() {
  ModelConfig config = TinyConfig();
  config.family = "gemma";
  config.kv_heads = 1;
  config.norm_offset = 1;
  config.scaled_embedding = true;
  config.activation = Activation::kGeluTanh;
  config.tied_embeddings = true;
  return config;
}
ModelConfig NeoX(bool parallel) {
  ModelConfig config = TinyConfig();
  config.family = "gpt_neox";
  config.kv_heads = config.heads;
  config.norm = NormKind::kLayer;
  config.rotary_share = 0.5;
  config.parallel_blocks = parallel;
  config.qkv_by_head = true;
  config.activation = Activation::kGelu;
  config.gated_mlp = false;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  return config;
}

ModelConfig OfFamily(const std::string& family) {
  ModelConfig config = FindFamily(family)->defaults;
  const ModelConfig tiny = TinyConfig();
  config.hidden = tiny.hidden;
  config.layers = tiny.layers;
  config.heads = tiny.heads;
  config.kv_heads = 2;
  config.head_dim = tiny.head_dim;
  config.mlp = tiny.mlp;
  config.vocab = tiny.vocab;
  config.max_positions = tiny.max_positions;
  if (config.score_cap > 0) config.score_cap = 0.5;
  if (config.logit_cap > 0) config.logit_cap = 2;
  if (config.window_rope_theta) {
    config.window = 5;
    config.windowed.resize(config.layers);
    config.windowed[0] = true;
  }
  return config;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LossGradientTest,
                         testing::Values(GradientCase{"llama_yarn", nullptr},
                                         GradientCase{"qwen3", nullptr},
                                         GradientCase{"gemma2", nullptr},
                                         GradientCase{"gemma3", nullptr},
                                         GradientCase{"phi3", nullptr},
                                         GradientCase{"olmo2", nullptr},
                                         GradientCase{"gpt_neox", nullptr}),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Families, LossGradientTest,
    testing::Values(
        GradientCase{"llama", TinyConfig}, GradientCase{"grouped", Grouped},
        GradientCase{"gemma", Gemma},
        GradientCase{"qwen3", [] { return OfFamily("qwen3"); }},
        GradientCase{"gemma2", [] { return OfFamily("gemma2"); }},
        GradientCase{"gemma3", [] { return OfFamily("gemma3_text"); }},
        GradientCase{"phi3", [] { return OfFamily("phi3"); }},
        GradientCase{"olmo2", [] { return OfFamily("olmo2"); }},
        GradientCase{"neox", [] { return NeoX(true); }},
        GradientCase{"neox_sequential", [] { return NeoX(false); }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace rankforge
