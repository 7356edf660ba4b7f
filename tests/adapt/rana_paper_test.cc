// RaNA on a trained checkpoint: what must hold whatever the quality.
#include "adapt/methods/rana_paper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>

#include "adapt/adapt.h"
#include "adapt/calibrate/calibration.h"
#include "adapt/forms/ranked_layer.h"
#include "adapt/run/method.h"
#include "kernels/layer/elementwise.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/weights/synthetic.h"
#include "runtime/plan/plan.h"
#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

constexpr char kExamples[] = RANKFORGE_SOURCE_DIR "/examples/models/";
constexpr size_t kTokens = 4096;
constexpr size_t kLayer = 3;

std::vector<int> TokensOf(const std::string& file) {
  static const Tokenizer tokenizer =
      Tokenizer::Load(std::string(kExamples) + "llama-gqa-7m").value();
  std::ifstream stream(std::string(kExamples) + "text/" + file);
  EXPECT_TRUE(stream.good()) << file;
  return tokenizer.Encode(
      std::string(std::istreambuf_iterator<char>(stream), {}));
}

Model MakeModel(const Checkpoint& checkpoint, const Adapter* adapter) {
  Result<Model> model =
      Model::Create(checkpoint.config(), checkpoint, adapter,
                    Dispatcher(nullptr), {}, MakeSerialExecutor());
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

AdaptOptions TestOptions() {
  AdaptOptions options;
  options.method = "rana-paper";
  options.keep = 0.6;
  options.calibration_tokens = kTokens;
  options.split_tokens = 1024;
  return options;
}

// Everything that is expensive, once: an adapter of the checkpoint, and the
// inputs of one of its layers.
struct Setting {
  Checkpoint checkpoint =
      Checkpoint::Open(std::string(kExamples) + "llama-gqa-7m").value();
  std::vector<int> ids = TokensOf("calibration.txt");
  ModelSpec spec = DescribeModel(checkpoint.config(), nullptr);
  std::unique_ptr<Executor> executor = MakeSerialExecutor();
  Adapter adapter;
  SiteInputs inputs;  // of kLayer
};

const Setting& Shared() {
  static const Setting* setting = [] {
    auto* made = new Setting;
    const AdaptOptions options = TestOptions();
    Result<Adapter> adapter = Adapt(made->checkpoint, made->ids, options);
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    made->adapter = std::move(adapter).value();
    Model model = MakeModel(made->checkpoint, nullptr);
    const std::vector<int> sample =
        SampleWindows(made->ids, options.window, kTokens, options.seed).value();
    Calibration calibration =
        Calibration::Start(model, sample, options.window).value();
    for (size_t layer = 0; layer <= kLayer; ++layer) {
      EXPECT_TRUE(model.AdaptBlock(layer, made->checkpoint, nullptr).ok());
      made->inputs = calibration.NextBlock();
    }
    return made;
  }();
  return *setting;
}

// The three projections of kLayer that get rank adapters.
struct RankCase {
  const char* module;
  const Matrix<float>* x;
  std::vector<TensorShape> tensors;
};
std::vector<RankCase> RankCases() {
  const Setting& shared = Shared();
  const BlockSpec& block = shared.spec.blocks[kLayer];
  const std::vector<TensorShape>& gate_up =
      block[Site::kMlpInput].direct[0].tensors;
  return {
      {"model.layers.3.self_attn.qkv", &shared.inputs[Site::kAttentionInput],
       block[Site::kAttentionInput].direct[0].tensors},
      {"model.layers.3.mlp.gate_proj",
       &shared.inputs[Site::kMlpInput],
       {gate_up[0]}},
      {"model.layers.3.mlp.up_proj",
       &shared.inputs[Site::kMlpInput],
       {gate_up[1]}}};
}

// Z (tokens, d) = x B^T with what |z| < tau sets to zero.
Matrix<float> MaskedRanks(const RankAdapter& rank, const Matrix<float>& x) {
  Matrix<float> b(rank.d, rank.cols);
  b.values = rank.b;
  Matrix<float> z = TimesTransposed(x, b);
  for (size_t t = 0; t < z.rows; ++t) {
    for (size_t k = 0; k < rank.d; ++k) {
      if (!(std::fabs(z.row(t)[k]) >= rank.tau[k])) z.row(t)[k] = 0;
    }
  }
  return z;
}

Matrix<float> OutputOf(const RankAdapter& rank, const Matrix<float>& z) {
  Matrix<float> y(z.rows, rank.rows);
  Multiply(MatrixView(z).Columns(0, rank.d),
           MatrixView(rank.a.data(), rank.d, rank.rows), y);
  return y;
}

TEST(RanaPaper, EveryRankAndNoMaskIsTheDenseLayer) {
  for (const RankCase& rank_case : RankCases()) {
    const Matrix<float> w =
        LoadWeights(Shared().checkpoint, rank_case.tensors).value();
    std::vector<Matrix<float>> weights{w};
    const auto layers = RankLayers({"layer"}, std::move(weights), *rank_case.x,
                                   {}, *Shared().executor);
    ASSERT_TRUE(layers.ok()) << layers.status().message();
    const RankedLayer& layer = layers->front();
    const LayerForm form{&layer, layer.basis.rank(), 0};
    const size_t tokens = rank_case.x->rows;
    Matrix<float> y(tokens, w.rows);
    form.Run(0, tokens, y.values.data());
    const Matrix<float> dense = TimesTransposed(*rank_case.x, w);
    EXPECT_LT(SquaredDistance(y, dense), 1e-10 * SquaredNorm(dense))
        << rank_case.module;
  }
}

TEST(RanaPaper, PooledErrorIsOneMinusCoverage) {
  for (const RankCase& rank_case : RankCases()) {
    const RankAdapter& rank = Shared().adapter.ranks.at(rank_case.module);
    const Matrix<float> w =
        LoadWeights(Shared().checkpoint, rank_case.tensors).value();
    const Matrix<float> dense = TimesTransposed(*rank_case.x, w);
    const Matrix<float> y = OutputOf(rank, MaskedRanks(rank, *rank_case.x));
    EXPECT_NEAR(SquaredDistance(y, dense) / SquaredNorm(dense), rank.error,
                1e-3 * rank.error)
        << rank_case.module;
    EXPECT_GT(rank.error, 0);
    EXPECT_LT(rank.error, 0.2);
  }
}

TEST(RanaPaper, MeanKeptRanksAreAsPlanned) {
  const ModelConfig& config = Shared().checkpoint.config();
  const double planned =
      std::stod(Shared().adapter.parameters.at("planned_keep"));
  const double total = static_cast<double>(config.BlockMacs(0));
  const double o = static_cast<double>(config.hidden * config.q_rows(0));
  const double share = (planned * total - o) / (total - o);
  for (const RankCase& rank_case : RankCases()) {
    const RankAdapter& rank = Shared().adapter.ranks.at(rank_case.module);
    const Matrix<float> z = MaskedRanks(rank, *rank_case.x);
    const double kept =
        static_cast<double>(z.values.size() -
                            static_cast<size_t>(std::count(
                                z.values.begin(), z.values.end(), 0.0f))) /
        static_cast<double>(z.rows);
    EXPECT_NEAR(kept, rank.density * static_cast<double>(rank.d), 0.01)
        << rank_case.module;
    EXPECT_NEAR(std::accumulate(rank.keep_frequency.begin(),
                                rank.keep_frequency.end(), 0.0),
                kept, 0.01);
    // qkv alone has the block's own share; up and gate have that of the split.
    if (rank_case.x == &Shared().inputs[Site::kAttentionInput]) {
      EXPECT_NEAR(RankCost(rank.rows, rank.cols, rank.d, kept), share, 1e-4);
    }
  }
}

TEST(RanaPaper, EveryBlockHasItsShareOfTheWork) {
  const Adapter& adapter = Shared().adapter;
  const ModelConfig& config = Shared().checkpoint.config();
  const double planned = std::stod(adapter.parameters.at("planned_keep"));
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = "model.layers." + std::to_string(layer);
    double macs = static_cast<double>(config.hidden * config.q_rows(0));
    for (const char* module :
         {".self_attn.qkv", ".mlp.gate_proj", ".mlp.up_proj"}) {
      const RankAdapter& rank = adapter.ranks.at(name + module);
      macs += static_cast<double>(rank.rows * rank.cols) *
              RankCost(rank.rows, rank.cols, rank.d,
                       rank.density * static_cast<double>(rank.d));
      EXPECT_TRUE(rank.d % 16 == 0) << rank.d;
    }
    const InputMask& mask = adapter.masks.at(name + ".mlp.down_proj");
    macs += mask.density * static_cast<double>(config.hidden * config.mlp);
    EXPECT_NEAR(macs / static_cast<double>(config.BlockMacs(0)), planned, 1e-4)
        << name;
    EXPECT_TRUE(adapter.left_dense.contains(name + ".self_attn.o_proj"));
  }
}

// On a text that calibration has not seen, through the runtime.
TEST(RanaPaper, EffectiveFlopsMeetTheTarget) {
  const Adapter& adapter = Shared().adapter;
  EXPECT_NEAR(adapter.linear_flops_ratio, 0.6, 0.01 * 0.6);
  Model dense = MakeModel(Shared().checkpoint, nullptr);
  Model adapted = MakeModel(Shared().checkpoint, &adapter);
  const std::vector<int> ids = TokensOf("evaluation.txt");
  const auto evaluate = [&](Model& model) {
    return Evaluate(model, ids, {256, 8}, [](size_t, size_t) {}).value();
  };
  const Evaluation result = evaluate(adapted);
  EXPECT_NEAR(result.linear_flops_ratio, 0.6, 0.03 * 0.6);
  // Cutting 40 % of the work costs something, and far less than a broken layer.
  const double excess = result.loss - evaluate(dense).loss;
  EXPECT_GT(excess, 0.005);
  EXPECT_LT(excess, 0.2);
}

// Proposition 1: a neuron adapter is a rank adapter. down with masked inputs,
// W (m(h) * h), is A (m(z) * z) with A = W and B the identity.
TEST(RanaPaper, NeuronAdapterRewrittenAsRankAdapter) {
  const ModelConfig& config = Shared().checkpoint.config();
  Adapter neurons;
  neurons.masks = Shared().adapter.masks;
  Adapter ranks;
  for (const auto& [module, mask] : neurons.masks) {
    const Matrix<float> w =
        LoadWeights(Shared().checkpoint,
                    {{module + ".weight", config.hidden, config.mlp}})
            .value();
    RankAdapter rank;
    rank.module = module;
    rank.rows = config.hidden;
    rank.cols = config.mlp;
    rank.d = config.mlp;
    rank.tau = mask.tau;
    rank.keep_frequency = mask.keep_frequency;
    rank.density = mask.density;
    rank.b.resize(config.mlp * config.mlp);
    for (size_t j = 0; j < config.mlp; ++j) {
      rank.b[j * config.mlp + j] = 1;
      for (size_t i = 0; i < config.hidden; ++i) {
        rank.a.push_back(w.row(i)[j]);
      }
    }
    ranks.ranks[module] = std::move(rank);
  }
  const std::vector<int> ids = TokensOf("evaluation.txt");
  const auto logits = [&](const Adapter& adapter) {
    Model model = MakeModel(Shared().checkpoint, &adapter);
    std::vector<float> out(40 * config.vocab);
    KvCache cache(config, WeightType::kF32, 40);
    EXPECT_TRUE(model
                    .Forward(std::span(ids).first(32), cache,
                             std::span(out).first(32 * config.vocab), true)
                    .ok());
    for (size_t i = 32; i < 40; ++i) {  // decode
      EXPECT_TRUE(
          model
              .Forward({&ids[i], 1}, cache,
                       std::span(out).subspan(i * config.vocab, config.vocab))
              .ok());
    }
    return out;
  };
  EXPECT_EQ(logits(neurons), logits(ranks));
}

TEST(RanaPaper, MaskedKernelIsTheDenseKernelOnZeroedInput) {
  const RankCase rank_case = RankCases()[1];
  const RankAdapter& rank = Shared().adapter.ranks.at(rank_case.module);
  const SourceMatrix source{rank.a.data(), SourceMatrix::Type::kF32, rank.rows,
                            rank.d, true};
  for (const WeightType type : kWeightTypes) {
    const PackedMatrix a =
        PackedMatrix::Pack({&source, 1}, type, Layout::kInOut).value();
    Problem problem{.operation = Operation::kColumnMask,
                    .rows = rank.rows,
                    .cols = rank.d,
                    .type = type};
    const auto plan_of = [&] {
      return GemvPlan::Bind(a, problem,
                            ChoiceOf(*DefaultKernel(problem, Layout::kInOut),
                                     Layout::kInOut, problem.threads));
    };
    const GemvPlan masked = plan_of();
    problem.operation = Operation::kDense;
    const GemvPlan dense = plan_of();
    MaskScratch scratch(rank.d);
    const Matrix<float> zeroed = MaskedRanks(rank, *rank_case.x);
    for (size_t t = 0; t < 16; ++t) {
      const MaskView mask = MakeMask(
          zeroed.row(t), rank.d, {.tau = rank.tau.data()}, scratch.storage());
      EXPECT_LT(mask.kept, rank.d);
      std::vector<float> y(rank.rows), expected(rank.rows);
      const GemvCall calls[] = {
          masked.ColumnMask(mask, {.y = y.data()}),
          dense.Dense(zeroed.row(t), {.y = expected.data()})};
      RunCalls(calls, *Shared().executor);
      EXPECT_EQ(y, expected);
    }
  }
}

// GQA with few key and value heads: q, k and v together have hardly more
// outputs than inputs, and a rank adapter would lose more there than the MLP
// loses when it is cut deeper instead.
TEST(RanaPaper, QkvStaysDenseWhereARankAdapterDoesNotPay) {
  ModelConfig config;
  config.family = "llama";
  config.hidden = 64;
  config.layers = 1;
  config.heads = 4;
  config.head_dim = 16;
  config.mlp = 256;
  config.vocab = 32;
  config.max_positions = 64;
  const Matrix<float> x = RandomInputs(500, config.hidden, config.hidden, 40);
  for (const bool grouped : {true, false}) {
    config.kv_heads = grouped ? 1 : 4;
    const SyntheticWeights weights(config, 41);
    const ModelSpec spec = DescribeModel(config, nullptr);
    Adapter adapter;
    const Status status = AdaptBlockRanaPaper(
        {config, 0, weights, spec.blocks[0], x, x, *Shared().executor},
        TestOptions(), 0.5, adapter);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::string qkv = "model.layers.0.self_attn.qkv";
    EXPECT_EQ(adapter.left_dense.contains(qkv), grouped);
    EXPECT_EQ(adapter.ranks.contains(qkv), !grouped);
    // The block's work is as asked for all the same.
    double macs = static_cast<double>(config.hidden * config.q_rows(0));
    if (grouped) {
      macs += static_cast<double>(config.hidden * config.qkv_rows(0));
    }
    for (const auto& [module, rank] : adapter.ranks) {
      macs += static_cast<double>(rank.rows * rank.cols) *
              RankCost(rank.rows, rank.cols, rank.d,
                       rank.density * static_cast<double>(rank.d));
    }
    for (const auto& [module, mask] : adapter.masks) {
      macs += mask.density * static_cast<double>(config.hidden * config.mlp);
    }
    EXPECT_NEAR(macs / static_cast<double>(config.BlockMacs(0)), 0.5, 2e-3);
  }
}

TEST(RanaPaper, RecordsWhereItComesFrom) {
  const Adapter& adapter = Shared().adapter;
  EXPECT_EQ(adapter.method, "rana-paper");
  EXPECT_EQ(adapter.keep, 0.6);
  EXPECT_EQ(adapter.checkpoint_hash, Shared().checkpoint.Identity());
  EXPECT_EQ(adapter.calibration_tokens, kTokens);
  EXPECT_FALSE(adapter.calibration_hash.empty());
  for (const auto& [module, rank] : adapter.ranks) {
    EXPECT_TRUE(adapter.parameters.contains(module + ".searched_d"));
    EXPECT_TRUE(adapter.parameters.contains(module + ".rounding_loss"));
    EXPECT_EQ(rank.density_quantiles.size(), 5u);
    EXPECT_LE(rank.density_quantiles.at("0.05"), rank.density);
    EXPECT_GE(rank.density_quantiles.at("0.95"), rank.density);
  }
}

TEST(RanaPaper, SameAdapterForAnyThreads) {
  AdaptOptions options = TestOptions();
  options.calibration_tokens = 512;
  options.split_tokens = 256;
  const auto adapt = [&](size_t threads) {
    options.threads = threads;
    return Adapt(Shared().checkpoint, Shared().ids, options).value();
  };
  const Adapter one = adapt(1);
  const Adapter two = adapt(2);
  ASSERT_EQ(one.ranks.size(), two.ranks.size());
  for (const auto& [module, rank] : one.ranks) {
    EXPECT_EQ(rank.a, two.ranks.at(module).a);
    EXPECT_EQ(rank.b, two.ranks.at(module).b);
    EXPECT_EQ(rank.tau, two.ranks.at(module).tau);
  }
  for (const auto& [module, mask] : one.masks) {
    EXPECT_EQ(mask.tau, two.masks.at(module).tau);
  }
}

TEST(RanaPaper, KeepOneLeavesEverythingDense) {
  AdaptOptions options = TestOptions();
  options.keep = 1;
  options.calibration_tokens = 512;
  options.split_tokens = 256;
  const Result<Adapter> adapter =
      Adapt(Shared().checkpoint, Shared().ids, options);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_TRUE(adapter->ranks.empty());
  EXPECT_TRUE(adapter->masks.empty());
  EXPECT_EQ(adapter->left_dense.size(),
            5 * Shared().checkpoint.config().layers);
  EXPECT_DOUBLE_EQ(adapter->linear_flops_ratio, 1);
}

TEST(RanaPaper, TheSmallestKeepCanBeReached) {
  AdaptOptions options = TestOptions();
  options.keep = 0.01;
  options.calibration_tokens = 1024;
  options.split_tokens = 256;
  const Result<Adapter> refused =
      Adapt(Shared().checkpoint, Shared().ids, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kUsage);
  const std::string& message = refused.status().message();
  const size_t at = message.find("below ");
  ASSERT_NE(at, std::string::npos) << message;
  options.keep = std::stod(message.substr(at + 6));
  EXPECT_GT(options.keep, 0.05);
  EXPECT_LT(options.keep, 0.2);
  const Result<Adapter> adapter =
      Adapt(Shared().checkpoint, Shared().ids, options);
  EXPECT_TRUE(adapter.ok()) << adapter.status().message();
}

struct BadInput {
  const char* name;
  void (*change)(AdaptOptions& options, std::span<const int>& ids);
  const char* message;
  StatusCode code;
};

class BadInputs : public testing::TestWithParam<BadInput> {};

INSTANTIATE_TEST_SUITE_P(
    All, BadInputs,
    testing::Values(
        BadInput{"keep_zero",
                 [](AdaptOptions& o, std::span<const int>&) { o.keep = 0; },
                 "keep 0", StatusCode::kUsage},
        BadInput{"keep_above_one",
                 [](AdaptOptions& o, std::span<const int>&) { o.keep = 1.01; },
                 "keep 1.01", StatusCode::kUsage},
        BadInput{"keep_nan",
                 [](AdaptOptions& o, std::span<const int>&) {
                   o.keep = std::nan("");
                 },
                 "keep nan", StatusCode::kUsage},
        BadInput{
            "method",
            [](AdaptOptions& o, std::span<const int>&) { o.method = "magic"; },
            "magic", StatusCode::kUsage},
        BadInput{"window_zero",
                 [](AdaptOptions& o, std::span<const int>&) { o.window = 0; },
                 "windows of 0", StatusCode::kUsage},
        BadInput{
            "window_too_long",
            [](AdaptOptions& o, std::span<const int>&) { o.window = 1024; },
            "1024", StatusCode::kUsage},
        BadInput{"fewer_tokens_than_a_window",
                 [](AdaptOptions& o, std::span<const int>&) {
                   o.calibration_tokens = 100;
                 },
                 "100", StatusCode::kUsage},
        BadInput{"no_threads",
                 [](AdaptOptions& o, std::span<const int>&) { o.threads = 0; },
                 "threads 0", StatusCode::kUsage},
        BadInput{"empty_text",
                 [](AdaptOptions&, std::span<const int>& ids) { ids = {}; },
                 "0 tokens", StatusCode::kFailed},
        BadInput{"short_text",
                 [](AdaptOptions&, std::span<const int>& ids) {
                   ids = ids.first(255);
                 },
                 "255 tokens", StatusCode::kFailed},
        BadInput{"id_out_of_vocabulary",
                 [](AdaptOptions&, std::span<const int>& ids) {
                   static const std::vector<int> kBad(256, 1 << 20);
                   ids = kBad;
                 },
                 "1048576", StatusCode::kFailed}),
    [](const auto& info) { return info.param.name; });

TEST_P(BadInputs, AreRefused) {
  AdaptOptions options = TestOptions();
  std::span<const int> ids = Shared().ids;
  GetParam().change(options, ids);
  const Result<Adapter> adapter = Adapt(Shared().checkpoint, ids, options);
  ASSERT_FALSE(adapter.ok());
  EXPECT_EQ(adapter.status().code(), GetParam().code);
  const std::string& message = adapter.status().message();
  EXPECT_NE(message.find(GetParam().message), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

}  // namespace
}  // namespace rankforge
