// `adapt --method a3`, and the other subcommands on its checkpoint.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "program.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class ShrinkCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeCheckpoint(model_);
    std::string text;
    for (int i = 0; i < 300; ++i) {
      text += "Once upon a time there was a girl number " +
              std::to_string(i * 7919 % 1000) + " who played outside. ";
    }
    WriteWhole(text_, text);
  }
  Words Adapt(const std::string& model, const Words& more) const {
    Words words = {"adapt", "--model",  model,  "--calibration",
                   text_,   "--tokens", "1024", "--window",
                   "64",    "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static Json RunForJson(const Words& words) {
    const ProgramResult result = RunProgram(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const Json document = Json::parse(result.out, nullptr, false);
    EXPECT_TRUE(document.is_object()) << result.out;
    return document;
  }
  Json Eval(const std::string& model, const Words& more = {}) const {
    Words words = {"eval",     "--model", model,       "--text", text_,
                   "--window", "64",      "--windows", "2",      "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return RunForJson(words);
  }
  void ExpectRefusal(const Words& more, int exit_code,
                     const std::string& part) {
    const std::vector<std::string> before = folder_.Files();
    const ProgramResult result = RunProgram(Adapt(model_, more));
    EXPECT_EQ(result.exit_code, exit_code) << result.out;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(folder_.Files(), before);
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
  const std::string text_ = folder_.Path("text");
  const std::string small_ = folder_.Path("small");
};

TEST_F(ShrinkCommandTest, ItsCheckpointIsOneLikeAnyOther) {
  const Json made = RunForJson(
      Adapt(model_, {"--method", "a3", "--keep", "0.7", "--out", small_}));
  EXPECT_EQ(made["method"], "a3");
  EXPECT_EQ(made["model"], small_);
  EXPECT_EQ(made["layers"].size(), 2);
  EXPECT_LE(made["linear_flops_ratio"], 0.7);
  EXPECT_GT(made["linear_flops_ratio"], 0.5);

  const Json dense = Eval(model_), small = Eval(small_);
  EXPECT_LT(small["bytes_per_token"], dense["bytes_per_token"]);
  EXPECT_EQ(small["linear_flops_ratio"], 1);
  EXPECT_GT(Eval(small_, {"--dtype", "i4"})["quantization_error"], 0);

  const std::string adapter = folder_.Path("adapter");
  RunForJson(Adapt(
      small_, {"--method", "rana-paper", "--keep", "0.9", "--out", adapter}));
  EXPECT_LT(Eval(small_, {"--adapter", adapter})["linear_flops_ratio"], 0.95);
  const std::string table = folder_.Path("table");
  RunForJson({"tune", "--allow-noise", "--model", small_, "--threads", "1",
              "--rigor", "estimate", "--budget", "3s", "--json", "--out",
              table});
  const Json tokens =
      RunForJson({"generate", "--model", small_, "--table", table, "--prompt",
                  "Once", "-n", "5", "--json"});
  EXPECT_FALSE(tokens["ids"].empty());
  const ProgramResult bench =
      RunProgram({"bench", "--model", small_, "--context", "16", "-n", "4",
                  "--threads", "1", "--json"});
  // Fails where a loaded machine reads slower than this model decodes.
  const Json report = Json::parse(bench.out, nullptr, false);
  ASSERT_TRUE(report.contains("kv_bytes_per_position")) << bench.err;
  // Heads of 16 elements are not padded less.
  EXPECT_EQ(report["kv_bytes_per_position"], 2 * 2 * (16 + 16) * 4);
}

TEST_F(ShrinkCommandTest, OneComponentAlikeInAllLayersIsAnOrdinaryModel) {
  RunForJson(
      Adapt(model_, {"--method", "a3", "--keep-mlp", "0.8", "--components",
                     "mlp", "--uniform", "--out", small_}));
  const Json config = Json::parse(ReadWhole(small_ + "/config.json"));
  EXPECT_EQ(config["intermediate_size"], 128);
  EXPECT_FALSE(config.contains("layer_dims"));
  EXPECT_FALSE(config.contains("auto_map"));
}

TEST_F(ShrinkCommandTest, WrongOptions) {
  const Words a3 = {"--method", "a3", "--out", small_};
  const auto with = [&](Words more) {
    more.insert(more.end(), a3.begin(), a3.end());
    return more;
  };
  ExpectRefusal(with({"--components", "qk,norm"}), 2, "norm");
  ExpectRefusal(with({"--keep-ov", "0"}), 2, "keep 0");
  ExpectRefusal(with({"--without", "refit"}), 2, "refit-down");
  ExpectRefusal(with({"--head-multiple", "3"}), 2, "multiple 3");
  ExpectRefusal(with({"--objective", "time"}), 2, "--objective");
  ExpectRefusal(with({"--dtype", "bf16"}), 2, "--dtype");
  ExpectRefusal(with({"--exact-d"}), 2, "--exact-d");
  ExpectRefusal(with({"--probe-tokens", "64"}), 2, "--probe-tokens");
  ExpectRefusal({"--method", "teal", "--components", "mlp", "--out", small_}, 2,
                "only a3");
  ExpectRefusal({"--method", "teal", "--probe-blocks", "2", "--out", small_}, 2,
                "only rana");
  ExpectRefusal({"--method", "rana", "--without", "refit-o", "--out", small_},
                2, "refit-o");
  ExpectRefusal({"--method", "a3", "--out", model_}, 2, "already there");
  ExpectRefusal({"--method", "a3", "--out", text_ + "/small"}, 1, "small");
}

}  // namespace
}  // namespace rankforge
