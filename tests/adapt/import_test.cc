// Adapters from states: what becomes of matrices and thresholds, what is
// measured, and which states are refused.
#include "adapt/import.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/model/format/safetensors.h"
#include "runtime/model/weights/modules.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

const std::string kUp = "model.layers.1.mlp.up_proj";
const std::string kGateUp = "model.layers.0.mlp.gate_up";
const std::string kDown = "model.layers.0.mlp.down_proj";

struct Tensor {
  std::vector<size_t> shape;
  std::vector<float> values;
};
using State = std::map<std::string, Tensor>;

class ImportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const Status written =
        WriteSyntheticCheckpoint(TinyConfig(), 7, folder_->File("model"));
    ASSERT_TRUE(written.ok()) << written.message();
  }
  static void TearDownTestSuite() { delete folder_; }

  // The state as a file, all in F32.
  std::string Write(const State& state,
                    const std::map<std::string, std::string>& metadata) const {
    const std::string path = folder_->File("state.safetensors");
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const auto& [name, tensor] : state) {
      tensors.push_back({name, "F32", tensor.shape});
    }
    auto writer = SafetensorsWriter::Create(path, tensors, metadata);
    EXPECT_TRUE(writer.ok()) << writer.status().message();
    for (const auto& [name, tensor] : state) {
      EXPECT_TRUE(writer->Append(std::as_bytes(std::span(tensor.values))).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    return path;
  }
  Result<Adapter> Import(
      const State& state,
      const std::map<std::string, std::string>& metadata = {}) const {
    return ImportAdapter(checkpoint_, Write(state, metadata), ids_,
                         {.window = 32, .tokens = 256});
  }
  Adapter Imported(
      const State& state,
      const std::map<std::string, std::string>& metadata = {}) const {
    Result<Adapter> adapter = Import(state, metadata);
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    return std::move(adapter).value();
  }

  // A = W, B = 1: the ranks of up are its inputs.
  State UpByItsInputs(float t) const {
    const size_t rows = config_.mlp, cols = config_.hidden;
    const std::vector<std::string> names = {kUp + ".weight"};
    const std::vector<size_t> heights = {rows};
    const auto w = checkpoint_.Pack(names, heights, cols, WeightType::kF32,
                                    Layout::kOutIn);
    EXPECT_TRUE(w.ok());
    State state = {{kUp + ".rank.A", {{rows, cols}, {}}},
                   {kUp + ".rank.B", {{cols, cols}, {}}},
                   {kUp + ".rank.t", {{1}, {t}}}};
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < cols; ++j) {
        state[kUp + ".rank.A"].values.push_back(w->At(i, j));
      }
    }
    for (size_t i = 0; i < cols * cols; ++i) {
      state[kUp + ".rank.B"].values.push_back(i % (cols + 1) == 0 ? 1 : 0);
    }
    return state;
  }

  static TemporaryFolder* folder_;
  const ModelConfig config_ = TinyConfig();
  const Checkpoint checkpoint_ =
      Checkpoint::Open(folder_->File("model")).value();
  const std::vector<int> ids_ = SyntheticIds(config_, 300, 3);
};
TemporaryFolder* ImportTest::folder_ = nullptr;

TEST_F(ImportTest, RanksThatAreInputsEqualAnInputMask) {
  constexpr float kT = 0.49f;
  const Adapter ranks = Imported(UpByItsInputs(kT), {{"method", "rana"}});
  EXPECT_EQ(ranks.method, "rana");
  const RankAdapter& up = ranks.ranks.at(kUp);
  EXPECT_EQ(up.tau, std::vector<float>(config_.hidden, std::sqrt(kT)));
  const auto file = UpByItsInputs(kT);
  const Tensor& a = file.at(kUp + ".rank.A");
  EXPECT_EQ(up.a[3 * config_.mlp + 5], a.values[5 * config_.hidden + 3]);

  // The same threshold on the inputs of gate and up together.
  const std::string module = "model.layers.1.mlp.gate_up";
  const Adapter masks =
      Imported({{module + ".mask.t", {{1}, {std::sqrt(kT)}}}});
  EXPECT_EQ(masks.method, "imported");
  const InputMask& mask = masks.masks.at(module);
  EXPECT_EQ(mask.keep_frequency, up.keep_frequency);
  EXPECT_DOUBLE_EQ(mask.density, up.density);
  EXPECT_EQ(mask.density_quantiles, up.density_quantiles);
  EXPECT_GT(up.density, 0.05);
  EXPECT_LT(up.density, 0.95);
  // Of up alone, and of gate and up: alike, since both are random.
  EXPECT_NEAR(mask.error / up.error, 1, 0.2);

  const double all = static_cast<double>(config_.LinearMacs());
  const double w = static_cast<double>(config_.mlp * config_.hidden);
  EXPECT_NEAR(ranks.linear_flops_ratio,
              1 + (static_cast<double>(config_.hidden * config_.hidden) +
                   (up.density - 1) * w) /
                      all,
              1e-6);
  EXPECT_NEAR(masks.linear_flops_ratio, 1 + (mask.density - 1) * 2 * w / all,
              1e-6);
  EXPECT_EQ(ranks.left_dense.size(), config_.layers * 4 - 1);
  EXPECT_EQ(ranks.calibration_tokens, 256);

  // What was imported is an adapter like any other.
  const std::string path = folder_->File("adapter.safetensors");
  ASSERT_TRUE(SaveAdapter(ranks, path).ok());
  const auto loaded = LoadAdapter(path, checkpoint_.Identity());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->ranks.at(kUp).a, up.a);
}

TEST_F(ImportTest, ThresholdsThatKeepAllOrNothing) {
  const State keep_all = UpByItsInputs(0);
  const RankAdapter all = Imported(keep_all).ranks.at(kUp);
  EXPECT_EQ(all.density, 1);
  EXPECT_LT(all.error, 1e-10);
  const InputMask none =
      Imported({{kDown + ".mask.t", {{1}, {1e9f}}}}).masks.at(kDown);
  EXPECT_EQ(none.density, 0);
  EXPECT_NEAR(none.error, 1, 1e-6);
}

TEST_F(ImportTest, GatesDecideByTheirThreshold) {
  const std::string gate_up = "model.layers.1.mlp.gate_up";
  const Adapter adapter = Imported({{gate_up + ".gate.t", {{1}, {0.1f}}}});
  const GateMask& gate = adapter.gates.at(gate_up);
  EXPECT_EQ(gate.tau, std::vector<float>(config_.mlp, 0.1f));
  ASSERT_EQ(gate.keep_frequency.size(), config_.mlp);
  EXPECT_NEAR(std::accumulate(gate.keep_frequency.begin(),
                              gate.keep_frequency.end(), 0.0) /
                  static_cast<double>(config_.mlp),
              gate.density, 1e-6);
  EXPECT_GT(gate.density, 0.05);
  EXPECT_LT(gate.density, 0.95);
  EXPECT_GT(gate.error, 0);
  EXPECT_LT(gate.error, 1);
  // Rows of up and columns of down are left out alike.
  EXPECT_NEAR(adapter.linear_flops_ratio,
              1 + (gate.density - 1) * 2 *
                      static_cast<double>(config_.mlp * config_.hidden) /
                      static_cast<double>(config_.LinearMacs()),
              1e-6);
  EXPECT_EQ(adapter.left_dense.size(), config_.layers * 4 - 2);
  const Adapter none = Imported({{gate_up + ".gate.t", {{1}, {1e9f}}}});
  EXPECT_EQ(none.gates.at(gate_up).density, 0);
  EXPECT_NEAR(none.gates.at(gate_up).error, 1, 1e-6);
}

TEST_F(ImportTest, NormsAreFoldedIntoThresholds) {
  Tensor norms{{config_.mlp}, {}};
  for (size_t i = 0; i < config_.mlp; ++i) {
    norms.values.push_back(static_cast<float>(i % 4));
  }
  const InputMask mask = Imported({{kDown + ".mask.t", {{1}, {0.3f}}},
                                   {kDown + ".mask.norms", norms}})
                             .masks.at(kDown);
  EXPECT_EQ(mask.tau[0], std::numeric_limits<float>::infinity());
  EXPECT_EQ(mask.tau[1], 0.3f);
  EXPECT_EQ(mask.tau[7], 0.3f / 3);
  EXPECT_EQ(mask.keep_frequency[0], 0);
}

TEST_F(ImportTest, StatesThatAreNoneAreRefused) {
  const State good = UpByItsInputs(0.5f);
  const auto refused = [&](auto spoil, const std::string& part) {
    State state = good;
    spoil(state);
    const Result<Adapter> adapter = Import(state);
    ASSERT_FALSE(adapter.ok()) << part;
    EXPECT_NE(adapter.status().message().find(part), std::string::npos)
        << adapter.status().message();
    EXPECT_NE(adapter.status().message().find("state.safetensors"),
              std::string::npos)
        << adapter.status().message();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  refused([](State& s) { s.clear(); }, "has none of");
  refused([](State& s) { s.erase(kUp + ".rank.B"); }, "rank.B' is missing");
  refused([](State& s) { s.erase(kUp + ".rank.t"); }, "rank.t' is missing");
  refused([](State& s) { s.erase(kUp + ".rank.A"); }, "has none of");
  refused([](State& s) { s[kUp + ".rank.C"] = {{1}, {1}}; }, "rank.C");
  refused(
      [](State& s) {
        s["model.layers.1.mlp.side.mask.t"] = {{1}, {1}};
      },
      "cannot have an input mask");
  refused(
      [](State& s) {
        s["model.layers.1.mlp.gate_up.mask.t"] = {{1}, {1}};
      },
      "both");
  refused(
      [](State& s) {
        s[kUp + ".rank.A"] = {{2, 3}, {1, 2, 3, 4, 5, 6}};
      },
      "has shape (2, 96)");
  refused(
      [](State& s) {
        s[kUp + ".rank.A"].shape = {TinyConfig().mlp, 96, 1};
      },
      "not a matrix");
  refused(
      [](State& s) {
        s[kUp + ".rank.A"] = {{TinyConfig().mlp, 0}, {}};
      },
      "not a matrix");
  refused(
      [](State& s) {
        s[kUp + ".rank.B"] = {{95, 96}, std::vector<float>(95 * 96)};
      },
      "rank.B");
  refused([](State& s) { s[kUp + ".rank.t"] = {{2}, {1, 2}}; }, "rank.t");
  refused(
      [](State& s) {
        s[kDown + ".gate.t"] = {{1}, {1}};
      },
      "cannot decide by a gate");
  refused(
      [](State& s) {
        s["model.layers.0.mlp.gate_up.gate.t"] = {{2}, {1, 1}};
      },
      "gate.t");
  for (const float wrong : {nan, infinity, -1.0f}) {
    refused([&](State& s) { s[kUp + ".rank.t"].values = {wrong}; },
            "rank.t' holds");
    refused(
        [&](State& s) {
          s[kDown + ".mask.t"] = {{1}, {wrong}};
        },
        "mask.t' holds");
  }
  refused([&](State& s) { s[kUp + ".rank.B"].values[7] = nan; },
          "rank.B' holds");
  refused(
      [](State& s) {
        s[kDown + ".mask.t"] = {{1}, {1}};
        s[kDown + ".mask.norms"] = {{3}, {1, 2, 3}};
      },
      "mask.norms");
  refused(
      [](State& s) {
        s[kDown + ".mask.norms"] = {{1}, {1}};
      },
      "mask.norms");
  EXPECT_FALSE(
      ImportAdapter(checkpoint_, Write(good, {}), {}, {.window = 32}).ok());
}

}  // namespace
}  // namespace rankforge
