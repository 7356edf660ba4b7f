// Statistics leave out massive activations: tokens of matrices, and what
// methods make of a model with an attention sink.
#include "adapt/calibrate/ordinary_tokens.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "adapt/adapt.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/weights/synthetic.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

TEST(OrdinaryTokens, ArePositionsAfterTheFirstOfUsualSize) {
  Matrix<float> x = RandomMatrix(12, 8, 1), other = RandomMatrix(12, 3, 2);
  for (size_t j = 0; j < 8; ++j) x.row(6)[j] = 100;
  for (size_t j = 0; j < 3; ++j) other.row(9)[j] = 100;
  EXPECT_EQ(OrdinaryTokens({&x}, 4),
            (std::vector<size_t>{1, 2, 3, 5, 7, 9, 10, 11}));
  EXPECT_EQ(OrdinaryTokens({&x, &other}, 4),
            (std::vector<size_t>{1, 2, 3, 5, 7, 10, 11}));
  EXPECT_EQ(OrdinaryTokens({&x}, 4, false).size(), 12u);
  // Windows of one token have no other positions.
  EXPECT_EQ(OrdinaryTokens({&x}, 1).size(), 12u);
}

TEST(OrdinaryTokens, RowsThatThereAreAreCopied) {
  const Matrix<float> x = RandomMatrix(6, 4, 1);
  const Matrix<float> some = RowsOf(x, {1, 4, 7});
  ASSERT_EQ(some.rows, 2u);
  EXPECT_EQ(std::vector<float>(some.row(1), some.row(2)),
            std::vector<float>(x.row(4), x.row(5)));
}

// A checkpoint in which token 0 makes one neuron of block kLayer huge and no
// other token does: element 0 of the hidden values is that token's alone.
class SinkTest : public testing::Test {
 protected:
  static constexpr size_t kLayer = 1, kNeuron = 3, kWindow = 16;

  SinkTest() {
    const ModelConfig config = TinyConfig();
    EXPECT_TRUE(
        WriteSyntheticCheckpoint(config, 1, folder_.File("model")).ok());
    path_ = folder_.File("model") + "/model.safetensors";
    contents_ = ReadAll(path_);
    {
      const SafetensorsFile file = SafetensorsFile::Open(path_).value();
      const size_t data = contents_.size() - file.data().size();
      for (size_t id = 0; id < config.vocab; ++id) {
        Set(file, data, "model.embed_tokens.weight", id, 0, id == 0 ? 8 : 0);
      }
      for (size_t layer = 0; layer < config.layers; ++layer) {
        const std::string name = "model.layers." + std::to_string(layer);
        Fill(file, data, name + ".self_attn.o_proj.weight", 0, 0);
        Fill(file, data, name + ".mlp.down_proj.weight", 0, 0);
      }
      for (const char* module : {"gate_proj", "up_proj"}) {
        const std::string name = "model.layers." + std::to_string(kLayer) +
                                 ".mlp." + module + ".weight";
        Fill(file, data, name, kNeuron, 0);
        Set(file, data, name, kNeuron, 0, 30);
      }
    }
    WriteAll(path_, contents_);
    checkpoint_.emplace(Checkpoint::Open(folder_.File("model")).value());
    ids_ = SyntheticIds(config, 64 * kWindow, 2);
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (i % kWindow == 0) {
        ids_[i] = 0;
      } else if (ids_[i] == 0) {
        ids_[i] = 1;
      }
    }
  }

  // Sets an element of a BF16 matrix to a value that BF16 has.
  void Set(const SafetensorsFile& file, size_t data, const std::string& name,
           size_t row, size_t col, float value) {
    const TensorInfo& info = file.tensors().at(name);
    const auto bits =
        static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    std::memcpy(
        contents_.data() + data + info.begin + 2 * (row * info.shape[1] + col),
        &bits, sizeof(bits));
  }
  void Fill(const SafetensorsFile& file, size_t data, const std::string& name,
            size_t row, float value) {
    for (size_t col = 0; col < file.tensors().at(name).shape[1]; ++col) {
      Set(file, data, name, row, col, value);
    }
  }

  Adapter Adapted(const std::string& method, std::set<Refinement> without) {
    AdaptOptions options;
    options.method = method;
    options.keep = 0.6;
    options.window = kWindow;
    options.calibration_tokens = ids_.size();
    options.split_tokens = ids_.size();
    options.without = std::move(without);
    Result<Adapter> adapter = Adapt(*checkpoint_, ids_, options);
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    return std::move(adapter).value();
  }
  static const InputMask& Down(const Adapter& adapter, size_t layer) {
    return adapter.masks.at("model.layers." + std::to_string(layer) +
                            ".mlp.down_proj");
  }

  TemporaryFolder folder_;
  std::string path_, contents_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<int> ids_;
};

TEST_F(SinkTest, ErrorsDescribeTheOtherTokens) {
  for (const char* method : {"teal", "wina", "teal-greedy"}) {
    SCOPED_TRACE(method);
    const Adapter adapter = Adapted(method, {});
    EXPECT_GT(Down(adapter, kLayer).error, 0.1 * Down(adapter, 0).error);
    // Of all tokens, one hides what the others lose.
    const Adapter ruled = Adapted(method, {Refinement::kSinks});
    EXPECT_LT(Down(ruled, kLayer).error, 1e-3 * Down(ruled, 0).error);
  }
}

TEST_F(SinkTest, DensitiesDoNotCollapse) {
  const Adapter adapter = Adapted("rana", {Refinement::kSearch});
  const auto density = [&](size_t layer) {
    const std::string name =
        "model.layers." + std::to_string(layer) + ".mlp.down_proj";
    const auto mask = adapter.masks.find(name);
    return mask == adapter.masks.end() ? 1.0 : mask->second.density;
  };
  EXPECT_GT(density(kLayer), 0.5 * density(0));
  EXPECT_GT(density(kLayer), 0.5 * density(2));
}

}  // namespace
}  // namespace rankforge
