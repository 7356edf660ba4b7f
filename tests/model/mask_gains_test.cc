// Gains and biases of input masks, folded into the weights that are packed.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/use/packed_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

enum class Gains { kNone, kNeutral, kRandom };

// Masks of all projections that keep what is not small.
Adapter WithMasks(const ModelConfig& config, Gains gains, float tau) {
  Adapter adapter;
  AddMasks(config, tau, adapter);
  if (gains == Gains::kNone) return adapter;
  unsigned seed = 1;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      InputMask& mask = adapter.masks[projection.name];
      mask.gain.assign(projection.cols, 1);
      mask.bias.assign(projection.rows, 0);
      if (gains == Gains::kNeutral) continue;
      const std::vector<float> random = RandomVector(projection.cols, ++seed);
      for (size_t j = 0; j < projection.cols; ++j) {
        mask.gain[j] += 0.2f * random[j];
      }
      mask.bias = RandomVector(projection.rows, ++seed);
    }
  }
  return adapter;
}

class MaskGainsTest : public testing::TestWithParam<std::string> {
 protected:
  Checkpoint checkpoint_ =
      Checkpoint::Open(RANKFORGE_SOURCE_DIR "/tests/model/data/families/" +
                       GetParam())
          .value();
  const ModelConfig& config_ = checkpoint_.config();
  std::vector<int> ids_ = SyntheticIds(config_, 24, 3);
};

TEST_P(MaskGainsTest, GainsOfOneAndBiasesOfZeroChangeNothing) {
  const Adapter without = WithMasks(config_, Gains::kNone, 0.02f);
  const Adapter neutral = WithMasks(config_, Gains::kNeutral, 0.02f);
  Model expected = MakeModel(config_, checkpoint_, &without);
  Model model = MakeModel(config_, checkpoint_, &neutral);
  EXPECT_EQ(DecodeLogits(model, ids_), DecodeLogits(expected, ids_));
}

TEST_P(MaskGainsTest, PrefillIsDecoding) {
  const Adapter adapter = WithMasks(config_, Gains::kRandom, 0);
  Model model = MakeModel(config_, checkpoint_, &adapter, {.threads = 2});
  const std::vector<float> decoded = DecodeLogits(model, ids_);
  EXPECT_LT(LargestDifference(PrefillLogits(model, ids_), decoded), 1e-3f);
  const Adapter neutral = WithMasks(config_, Gains::kNeutral, 0);
  Model other = MakeModel(config_, checkpoint_, &neutral);
  EXPECT_GT(LargestDifference(DecodeLogits(other, ids_), decoded), 1e-2f);
}

TEST_P(MaskGainsTest, WeightsAreScaledByColumnAndBiasesAdded) {
  const Adapter adapter = WithMasks(config_, Gains::kRandom, 0);
  const FoldedWeights folded(config_, checkpoint_, &adapter);
  const BlockSpec dense = DescribeModel(config_, nullptr).blocks.back();
  const BlockSpec masked = DescribeModel(config_, &adapter).blocks.back();
  for (const Site site : kSites) {
    const ProductSpec& product = masked[site].direct.front();
    const InputMask& mask = adapter.masks.at(masked[site].name);
    std::vector<std::string> stored;
    for (const TensorShape& bias : dense[site].direct.front().biases) {
      stored.push_back(bias.name);
    }
    ASSERT_EQ(product.biases.size(), product.tensors.size());
    size_t row = 0;
    for (size_t part = 0; part < product.tensors.size(); ++part) {
      const TensorShape& tensor = product.tensors[part];
      const TensorShape& bias = product.biases[part];
      const auto pack = [&](const WeightSource& source) {
        return source
            .Pack({&tensor.name, 1}, {&tensor.rows, 1}, tensor.cols,
                  WeightType::kF32, Layout::kOutIn)
            .value();
      };
      const PackedMatrix before = pack(checkpoint_), after = pack(folded);
      const std::vector<float> values =
          folded.Vector(bias.name, bias.cols).value();
      std::vector<float> own(bias.cols);
      if (std::ranges::find(stored, bias.name) != stored.end()) {
        own = checkpoint_.Vector(bias.name, bias.cols).value();
      }
      for (size_t i = 0; i < tensor.rows; ++i, ++row) {
        EXPECT_EQ(values[i], own[i] + mask.bias[row]) << bias.name << i;
        for (size_t j = 0; j < tensor.cols; ++j) {
          ASSERT_EQ(after.At(i, j), before.At(i, j) * mask.gain[j])
              << tensor.name << i << ' ' << j;
        }
      }
    }
    EXPECT_EQ(row, mask.bias.size());
  }
}

TEST_P(MaskGainsTest, APackHoldsThem) {
  const TemporaryFolder folder;
  const std::string path = folder.File("gains.pack");
  const Adapter adapter = WithMasks(config_, Gains::kRandom, 0.02f);
  for (const WeightType type : {WeightType::kF32, WeightType::kI8Group32}) {
    const ModelOptions options{.type = type, .threads = 2};
    Model model = MakeModel(config_, checkpoint_, &adapter, options);
    const PackOrigin origin{"checkpoint", "adapter"};
    const auto written =
        WritePack(config_, checkpoint_, &adapter, Dispatcher(nullptr), options,
                  origin, path, [](size_t, size_t) {});
    ASSERT_TRUE(written.ok()) << written.status().message();
    const PackedWeights pack =
        PackedWeights::Open(path, checkpoint_, origin).value();
    Model packed = MakeModel(config_, pack, &adapter, options);
    EXPECT_EQ(DecodeLogits(packed, ids_), DecodeLogits(model, ids_));
  }
}

TEST_P(MaskGainsTest, OtherSizesAreRefused) {
  const std::string module =
      DescribeModel(config_, nullptr).blocks[1][Site::kMlpHidden].name;
  const auto error = [&](auto change) {
    Adapter adapter = WithMasks(config_, Gains::kRandom, 0);
    change(adapter.masks[module]);
    return CheckAdapter(config_, adapter).message();
  };
  for (const std::string& message :
       {error([](InputMask& mask) { mask.gain.pop_back(); }),
        error([](InputMask& mask) { mask.bias.push_back(0); }),
        error([](InputMask& mask) { mask.gain.clear(); }),
        error([](InputMask& mask) { mask.bias.clear(); })}) {
    EXPECT_NE(message.find(module), std::string::npos) << message;
    EXPECT_NE(message.find("gains"), std::string::npos) << message;
  }
}

// Families whose blocks can be rotated.
class RotatedMaskGainsTest : public MaskGainsTest {};

// Gains of what is not the residual stream, and biases, are the same in every
// basis of it.
TEST_P(RotatedMaskGainsTest, RotatedBlocksComputeTheSame) {
  Adapter adapter = WithMasks(config_, Gains::kRandom, 0);
  for (const BlockSpec& block : DescribeModel(config_, nullptr).blocks) {
    for (const Site site : kSites) {
      InputMask& mask = adapter.masks[block[site].name];
      if (!ReadsStream(site)) continue;
      mask.gain.assign(mask.cols, 1);
    }
  }
  Model plain = MakeModel(config_, checkpoint_, &adapter);
  // A permutation with signs is orthogonal.
  const size_t n = config_.hidden;
  RotationGroup group{0, true, std::vector<float>(n * n)};
  for (size_t i = 0; i < n; ++i) {
    group.q[i * n + (i + 3) % n] = i % 2 == 0 ? 1.0f : -1.0f;
  }
  adapter.rotation = {n, {group}};
  Model rotated = MakeModel(config_, checkpoint_, &adapter);
  EXPECT_LT(
      LargestDifference(DecodeLogits(rotated, ids_), DecodeLogits(plain, ids_)),
      1e-3f);
}

INSTANTIATE_TEST_SUITE_P(Families, MaskGainsTest,
                         testing::Values("llama3", "llama_biases", "qwen2",
                                         "qwen3", "gemma", "gemma2", "phi3",
                                         "gpt_neox"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Families, RotatedMaskGainsTest,
                         testing::Values("llama3", "llama_biases", "qwen2",
                                         "phi3", "gpt_neox"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace rankforge
