// Smaller checkpoints of trained models, and of random ones of every family.
#include "adapt/a3/a3.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "adapt/a3/block_shrinker.h"
#include "adapt/a3/shrink.h"
#include "adapt/adapt.h"
#include "adapt/calibrate/block_moments.h"
#include "adapt/calibrate/calibration.h"
#include "adapt/run/method.h"
#include "base/files.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/forward/attention.h"
#include "runtime/model/use/evaluation.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

const std::string kExamples = RANKFORGE_SOURCE_DIR "/examples/models/";
const std::string kGguf = RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/";

// Of the beginning: tokenizing all of it takes longer than the tests.
std::vector<int> TokensOf(const std::string& model, const std::string& text) {
  return Tokenizer::Load(kExamples + model)
      .value()
      .Encode(ReadTextFile(kExamples + "text/" + text, 1 << 24)
                  .value()
                  .substr(0, 60000));
}

double LossOf(const Checkpoint& checkpoint, std::span<const int> ids,
              const Adapter* adapter = nullptr) {
  Model model = MakeModel(checkpoint.config(), checkpoint, adapter);
  return Evaluate(model, ids, {256, 8}, nullptr).value().loss;
}

class A3Test : public testing::TestWithParam<std::string> {
 protected:
  Result<A3Summary> Shrink(const AdaptOptions& options,
                           const std::string& out) {
    return ShrinkToFolder(dense_, calibration_, options, "", out);
  }
  Checkpoint Shrunk(const AdaptOptions& options, const std::string& out) {
    const Result<A3Summary> summary = Shrink(options, out);
    EXPECT_TRUE(summary.ok()) << summary.status().message();
    Result<Checkpoint> small = Checkpoint::Open(out);
    EXPECT_TRUE(small.ok()) << small.status().message();
    EXPECT_EQ(small->config(), summary->config);
    return std::move(small).value();
  }
  static AdaptOptions Options(double keep) {
    AdaptOptions options;
    options.method = "a3";
    options.keep = keep;
    options.calibration_tokens = 2048;
    options.head_multiple = 4;
    options.mlp_multiple = 16;
    return options;
  }

  Checkpoint dense_ = Checkpoint::Open(kExamples + GetParam()).value();
  std::vector<int> calibration_ = TokensOf(GetParam(), "calibration.txt");
  TemporaryFolder folder_;
};

TEST_P(A3Test, KeepingEverythingIsTheDenseModel) {
  const Checkpoint same = Shrunk(Options(1), folder_.File("same"));
  EXPECT_EQ(same.config(), dense_.config());
  const std::vector<int> ids(calibration_.begin(), calibration_.begin() + 40);
  Model expected = MakeModel(dense_.config(), dense_);
  Model model = MakeModel(same.config(), same);
  EXPECT_EQ(DecodeLogits(model, ids), DecodeLogits(expected, ids));
  EXPECT_EQ(PrefillLogits(model, ids), PrefillLogits(expected, ids));
}

// Blocks are widened, rows and norms are those of a folder.
TEST(A3GgufTest, KeepingEverythingIsTheModelOfTheFile) {
  for (const char* name : {"llama3", "llama_biases", "gemma", "gpt_neox"}) {
    const TemporaryFolder folder;
    const Checkpoint dense =
        Checkpoint::Open(std::string(kGguf) + name + ".gguf").value();
    const std::vector<int> ids = SyntheticIds(dense.config(), 512, 1);
    AdaptOptions options;
    options.method = "a3";
    options.keep = 1;
    options.calibration_tokens = ids.size();
    options.window = 32;
    const Result<A3Summary> summary =
        ShrinkToFolder(dense, ids, options, "", folder.File("same"));
    ASSERT_TRUE(summary.ok()) << summary.status().message();
    const Checkpoint same = Checkpoint::Open(folder.File("same")).value();
    EXPECT_EQ(same.config(), dense.config());
    const std::vector<int> some(ids.begin(), ids.begin() + 20);
    Model expected = MakeModel(dense.config(), dense);
    Model model = MakeModel(same.config(), same);
    EXPECT_EQ(PrefillLogits(model, some), PrefillLogits(expected, some))
        << name;
  }
}

TEST_P(A3Test, SmallerModelsKeepBudgetAndQuality) {
  const std::vector<int> evaluation = TokensOf(GetParam(), "evaluation.txt");
  const double dense = LossOf(dense_, evaluation);
  const Checkpoint small = Shrunk(Options(0.8), folder_.File("small"));
  const double ratio = static_cast<double>(small.config().LinearMacs()) /
                       static_cast<double>(dense_.config().LinearMacs());
  EXPECT_LE(ratio, 0.8);
  EXPECT_GT(ratio, 0.75);
  const double loss = LossOf(small, evaluation);
  EXPECT_GT(loss, dense);
  EXPECT_LT(loss, dense + 0.25);
  Model model = MakeModel(small.config(), small);
  const std::vector<int> ids(evaluation.begin(), evaluation.begin() + 60);
  EXPECT_LT(
      LargestDifference(PrefillLogits(model, ids), DecodeLogits(model, ids)),
      1e-3f);
  EXPECT_TRUE(Tokenizer::Load(small.directory()).ok());

  // An adapter on top of it.
  AdaptOptions options;
  options.method = "wina";
  options.keep = 0.9;
  options.calibration_tokens = 1024;
  const Result<Adapter> adapter = Adapt(small, calibration_, options);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  const double adapted = LossOf(small, evaluation, &*adapter);
  EXPECT_LT(adapted, loss + 0.1);
}

// Every component alone, and all sizes alike.
TEST_P(A3Test, ComponentsAreShrunkAlone) {
  const ModelConfig& dense = dense_.config();
  for (const Component component :
       {Component::kQk, Component::kOv, Component::kMlp}) {
    AdaptOptions options = Options(0.75);
    options.components = {component};
    options.uniform = true;
    options.calibration_tokens = 512;
    const std::string name = NameOf(component);
    const Checkpoint small = Shrunk(options, folder_.File(name));
    for (size_t layer = 0; layer < dense.layers; ++layer) {
      const ModelConfig& config = small.config();
      const auto expect = [&](Component one, size_t size, size_t full) {
        EXPECT_EQ(size, one == component ? full * 3 / 4 : full) << name;
      };
      expect(Component::kQk, config.qk_dim(layer), dense.qk_dim(layer));
      expect(Component::kOv, config.vo_dim(layer), dense.vo_dim(layer));
      expect(Component::kMlp, config.mlp_width(layer), dense.mlp_width(layer));
    }
    // Only what has other heads needs a modelling file.
    EXPECT_EQ(FileExists(small.directory() + "/modeling_shrunk.py"),
              component != Component::kMlp);
    EXPECT_EQ(small.config().layer_dims.empty(), component == Component::kMlp);
  }
}

// On what a layer of a trained model computes: the maps reach the error that
// they promise, all of it computed from the activations themselves.
class ValueRecorder : public ActivationObserver {
 public:
  void Observe(size_t, Site site, const float* x, size_t tokens,
               size_t width) override {
    Add(x, tokens, width, values[site]);
  }
  void ObserveOutput(size_t, Site site, const float* y, size_t tokens,
                     size_t width) override {
    Add(y, tokens, width, outputs[site]);
  }
  std::map<Site, Matrix<float>> values;
  std::map<Site, Matrix<float>> outputs;

 private:
  static void Add(const float* x, size_t tokens, size_t width,
                  Matrix<float>& matrix) {
    matrix.cols = width;
    matrix.rows += tokens;
    matrix.values.insert(matrix.values.end(), x, x + tokens * width);
  }
};

Matrix<double> Slice(const Matrix<float>& matrix, size_t begin, size_t count) {
  return BlockOfMatrix(Widen(matrix), 0, begin, matrix.rows, count);
}

double SquaredError(const Matrix<double>& a, const Matrix<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    sum += (a.values[i] - b.values[i]) * (a.values[i] - b.values[i]);
  }
  return sum;
}

TEST_P(A3Test, TrainedLayersReachTheClosedForm) {
  constexpr size_t kLayer = 2, kTokens = 128;
  const ModelConfig config = OneLayerConfig(dense_.config(), kLayer);
  const OneLayerWeights weights(dense_.config(), kLayer, dense_);
  Model model = MakeModel(config, weights);
  Matrix<float> hidden(kTokens, config.hidden);
  ASSERT_TRUE(
      model.Embed(std::span(calibration_).first(kTokens), hidden.values.data())
          .ok());
  Matrix<float> again = hidden;
  BlockMoments moments;
  RunLayer(model, kTokens, true, hidden, moments);
  ValueRecorder recorder;
  model.set_observer(&recorder);
  KvCache cache(config, WeightType::kF32, kTokens);
  model.ForwardLayer(0, again.values.data(), kTokens, cache);
  const Matrix<float>& qkv = recorder.outputs[Site::kAttentionInput];
  const Matrix<float>& z = recorder.values[Site::kAttentionOutput];
  const ProductSpec product = DescribeModel(config, nullptr)
                                  .blocks[0][Site::kAttentionOutput]
                                  .direct.front();
  const Matrix<float> w_o = LoadWeights(weights, product.tensors).value();

  const size_t group = config.heads / config.kv_heads;
  const size_t vo = config.head_dim, rank = vo * 3 / 4;
  const HeadOffsets at(config, 0);
  for (size_t kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
    // Without rotation: the elements as they leave the projection.
    const ShrunkScores scores =
        ShrunkScores::Make(moments.q[kv_head], moments.k[kv_head], 0).value();
    const Matrix<double> k = Slice(qkv, at.k(kv_head), vo);
    const Matrix<double> small_k = Product(k, scores.KeyMap(0, rank));
    double error = 0, outputs_error = 0;
    Matrix<double> outputs(vo, vo), inputs(vo, vo);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const Matrix<double> q = Slice(qkv, at.q(head), vo);
      const Matrix<double> small_q = Product(q, scores.QueryMap(0, rank));
      for (size_t i = 0; i < kTokens; ++i) {
        for (size_t j = 0; j < kTokens; ++j) {
          double difference = 0;
          for (size_t e = 0; e < vo; ++e)
            difference += q.row(i)[e] * k.row(j)[e];
          for (size_t e = 0; e < rank; ++e) {
            difference -= small_q.row(i)[e] * small_k.row(j)[e];
          }
          error += difference * difference;
        }
      }
      const Matrix<double> o = Slice(w_o, head * vo, vo);
      const Matrix<double> square = Product(Transposed(o), o);
      for (size_t i = 0; i < square.values.size(); ++i) {
        outputs.values[i] += square.values[i];
        inputs.values[i] += moments.z[head].values[i];
      }
    }
    EXPECT_NEAR(error, scores.Loss(0, rank), 1e-6 * error);
    if (group > 1) continue;  // heads differ in what they attend to
    const SharedSpace space = SharedSpace::Make(inputs, outputs).value();
    const Matrix<double> values = Slice(z, kv_head * vo, vo);
    const Matrix<double> o = Slice(w_o, kv_head * vo, vo);
    const Matrix<double> small_o = Product(o, space.Right(rank));
    const Matrix<double> small = Product(values, space.Left(rank));
    Matrix<double> exact(kTokens, config.hidden), approximate = exact;
    const auto multiply = [&](const Matrix<double>& x, const Matrix<double>& w,
                              Matrix<double>& y) {
      Multiply(x, Transposed(w), y);
    };
    multiply(values, o, exact);
    multiply(small, small_o, approximate);
    outputs_error = SquaredError(exact, approximate);
    EXPECT_NEAR(outputs_error, space.Loss(rank), 1e-6 * outputs_error);
  }
}

TEST_P(A3Test, WrongOptions) {
  const auto expect = [&](AdaptOptions options, const std::string& out,
                          const std::string& part) {
    options.calibration_tokens = 512;
    const Result<A3Summary> summary = Shrink(options, out);
    ASSERT_FALSE(summary.ok()) << part;
    EXPECT_EQ(summary.status().code(), StatusCode::kUsage);
    EXPECT_NE(summary.status().message().find(part), std::string::npos)
        << summary.status().message();
  };
  const std::string out = folder_.File("out");
  for (const double keep : {0.0, -1.0, 1.5, std::nan("")}) {
    expect(Options(keep), out, "keep");
  }
  AdaptOptions options = Options(0.9);
  options.component_keep[0] = 0;
  expect(options, out, "keep");
  options = Options(0.9);
  options.components = {Component::kMlp};
  options.component_keep[0] = 0.5;
  expect(options, out, "qk");
  options = Options(0.9);
  options.components = {};
  expect(options, out, "components");
  options = Options(0.9);
  options.head_multiple = 3;
  expect(options, out, "multiple 3");
  WriteAll(folder_.File("taken"), "a file");
  expect(Options(0.9), folder_.File("taken"), "taken");
  expect(Options(0.9), folder_.path(), "already there");
  EXPECT_EQ(folder_.Files(), std::vector<std::string>{"taken"});
}

// An error on the way leaves nothing.
TEST_P(A3Test, NoPartialFolderIsLeft) {
  for (size_t i = 0; i < calibration_.size(); i += 256) calibration_[i] = -5;
  const Result<A3Summary> summary = Shrink(Options(0.9), folder_.File("out"));
  ASSERT_FALSE(summary.ok());
  EXPECT_NE(summary.status().message().find("token id"), std::string::npos);
  EXPECT_TRUE(folder_.Files().empty());
}

TEST_P(A3Test, StopsWhenAskedAndLeavesNothing) {
  AdaptOptions options = Options(0.9);
  size_t layers = 0;
  options.cancelled = [&] { return ++layers > 2; };
  const Result<A3Summary> summary = Shrink(options, folder_.File("out"));
  ASSERT_FALSE(summary.ok());
  EXPECT_NE(summary.status().message().find("layer 2"), std::string::npos);
  EXPECT_TRUE(folder_.Files().empty());
}

// A layer of any sizes, and the same one with zeros for what it lacks.
TEST_P(A3Test, PaddedLayersComputeTheSame) {
  constexpr size_t kLayer = 1, kTokens = 96;
  const ModelConfig config = OneLayerConfig(dense_.config(), kLayer);
  const OneLayerWeights weights(dense_.config(), kLayer, dense_);
  const std::vector<int> ids(calibration_.begin(),
                             calibration_.begin() + kTokens);
  Model dense = MakeModel(config, weights);
  Matrix<float> hidden(kTokens, config.hidden);
  ASSERT_TRUE(dense.Embed(ids, hidden.values.data()).ok());
  BlockMoments moments;
  RunLayer(dense, kTokens, true, hidden, moments);
  const BlockSpec names = DescribeModel(config, nullptr).blocks[0];
  const BlockWeights block = LoadBlock(weights, names).value();
  const LayerSolutions solutions =
      LayerSolutions::Make(config, block, moments, true).value();
  const std::set<Refinement> without;
  const std::unique_ptr<Executor> executor = MakeDefaultExecutor(2);
  const BlockShrinker shrinker(config, block, moments, solutions, without,
                               *executor);
  // Behind the layer, of inputs beside which it matters.
  const auto behind = [&](Model& model) {
    Matrix<float> x = RandomMatrix(kTokens, config.hidden, 5);
    RunBlock(model, 0, kTokens, x);
    return x.values;
  };
  const std::vector<float> before = behind(dense);
  const size_t dim = config.head_dim;
  for (const Sizes& sizes :
       {Sizes{dim / 2, dim, config.mlp}, Sizes{dim, dim - 6, config.mlp},
        Sizes{dim, dim, 100}, Sizes{dim - 4, 10, config.mlp - 3}}) {
    const ShrunkBlock small = shrinker.Shrink(sizes).value();
    ModelConfig shrunk = config;
    shrunk.layer_dims = {small.dims};
    EXPECT_EQ(SizesOf(shrunk, 0), sizes);
    const TensorsOver cut(
        weights,
        TensorsOf(DescribeModel(shrunk, nullptr).blocks[0], small.weights));
    const TensorsOver padded(weights, TensorsOf(names, shrinker.Padded(small)));
    Model cut_model = MakeModel(shrunk, cut);
    Model padded_model = MakeModel(config, padded);
    const std::vector<float> after = behind(cut_model);
    const float moved = LargestDifference(before, after);
    EXPECT_GT(moved, 1e-3f);
    EXPECT_LT(LargestDifference(behind(padded_model), after), 0.02f * moved);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, A3Test,
                         testing::Values("llama-gqa-7m", "gemma-6m", "neox-7m"),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find('-'));
                         });

}  // namespace
}  // namespace rankforge
