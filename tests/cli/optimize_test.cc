// `rankforge optimize` end to end on a small checkpoint: the files that it
// writes, that other commands take them, and what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "program.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

class OptimizeTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeCheckpoint(model_);
    Json ids = Json::array();
    for (int i = 0; i < 640; ++i) ids.push_back(3 + i * 37 % 4000);
    WriteWhole(ids_, ids.dump());
  }

  // With options that keep a run short, but for those that `more` names.
  ProgramResult Optimize(const Words& more) const {
    Words words = {"optimize", "--allow-noise", "--json"};
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, std::string>>{
             {"--model", model_},
             {"--calibration-ids", ids_},
             {"--out", out_},
             {"--window", "32"},
             {"--held", "96"},
             {"--probe-tokens", "64"},
             {"--tokens", "256"},
             {"--effort", "0"},
             {"--context", "16"},
             {"-n", "8"},
             {"--budget", "1"},
             {"--points", "2"},
             {"--threads", "1"}}) {
      if (std::ranges::count(more, name) > 0) continue;
      words.insert(words.end(), {name, value});
    }
    words.insert(words.end(), more.begin(), more.end());
    return RunProgram(words);
  }
  Json OptimizeForJson(const Words& more) const {
    const ProgramResult result = Optimize(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const Json document = Json::parse(result.out, nullptr, false);
    EXPECT_TRUE(document.is_object()) << result.out;
    return document;
  }
  bool Wrote(const std::string& name) const {
    return fs::exists(out_ + "/" + name);
  }
  // What a command that runs the model prints with --json.
  Json Run(Words words, const Words& more) const {
    words.insert(words.end(), {"--model", model_, "--json", "--threads", "1"});
    words.insert(words.end(), more.begin(), more.end());
    const ProgramResult result = RunProgram(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out, nullptr, false);
  }
  // Every command that runs a model takes the folder.
  void ExpectCommandsTakeIt(const Json& chosen) const {
    const Words optimized = {"--optimized", out_};
    const Json eval =
        Run({"eval", "--ids", ids_, "--window", "32", "--against-dense"},
            optimized);
    EXPECT_EQ(eval["dtype"], "optimized");
    EXPECT_EQ(eval["method"], chosen["form"] == "dense" ? "dense" : "rana");
    EXPECT_NEAR(eval["bytes_per_token"].get<double>() /
                    chosen["bytes_per_token"].get<double>(),
                1, 0.2);
    const Json bench = Run({"bench", "--context", "8", "-n", "6"}, optimized);
    EXPECT_EQ(bench["dtype"], "optimized");
    EXPECT_TRUE(bench.contains("tuned"));
    const Words prompt = {"generate", "--prompt-ids",  "5,6,7", "-n",
                          "4",        "--temperature", "0"};
    const Json text = Run(prompt, optimized);
    const std::string pack = folder_.Path("weights.pack");
    EXPECT_GT(Run({"pack", "--out", pack}, optimized)["matrices"], 0);
    Words with_pack = prompt;
    with_pack.insert(with_pack.end(), {"--pack", pack});
    EXPECT_EQ(Run(with_pack, optimized)["ids"], text["ids"]);
    // A pack of other types is refused.
    Words other = {"generate",     "--model", model_,
                   "--prompt-ids", "5",       "--dtype",
                   "f32",          "--pack",  pack};
    if (fs::exists(out_ + "/adapter.safetensors")) {
      other.insert(other.end(), {"--adapter", out_ + "/adapter.safetensors"});
    }
    const ProgramResult refused = RunProgram(other);
    EXPECT_NE(refused.exit_code, 0);
    EXPECT_NE(refused.err.find("'type'"), std::string::npos) << refused.err;
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
  const std::string ids_ = folder_.Path("ids.json");
  const std::string out_ = folder_.Path("best");
};

const Json* Chosen(const Json& document) {
  const Json* found = nullptr;
  for (const Json& point : document["points"]) {
    if (point["chosen"] == true) found = &point;
  }
  return found;
}

TEST_F(OptimizeTest, ChoosesAmongDenseTypes) {
  const Json document =
      OptimizeForJson({"--keeps", "none", "--max-loss", "0.01"});
  const Json* const chosen = Chosen(document);
  ASSERT_NE(chosen, nullptr) << document;
  EXPECT_LE((*chosen)["excess_loss"], 0.01);
  EXPECT_EQ((*chosen)["form"], "dense");
  const std::string answer = document["answer"];
  EXPECT_NE(answer.find("best answer; no adapter was asked for"),
            std::string::npos)
      << answer;
  for (const char* uniform : {"dense, bf16", "dense, i8_group32",
                              "dense, i4m_group32", "dense, i4_group32"}) {
    EXPECT_TRUE(std::ranges::any_of(document["points"], [&](const Json& p) {
      return p["description"] == uniform;
    })) << uniform;
  }
  EXPECT_LE(document["points"].size(), 4u + 2u);
  // No measured point that loses as little is quicker.
  for (const Json& point : document["points"]) {
    if (point["excess_loss"] <= 0.01) {
      EXPECT_GE(point["time_ratio"], (*chosen)["time_ratio"]);
    }
  }
  EXPECT_FALSE(Wrote("adapter.safetensors"));
  for (const char* name : {"types.json", "table.json", "front.json"}) {
    EXPECT_TRUE(Wrote(name)) << name;
  }
  EXPECT_EQ(Json::parse(ReadWhole(out_ + "/front.json"))["points"],
            document["points"]);
  if (Wrote("front.html")) {
    EXPECT_NE(ReadWhole(out_ + "/front.html").find("best answer"),
              std::string::npos);
  }
  EXPECT_FALSE(fs::exists(out_ + ".state"));
  EXPECT_FALSE(fs::exists(out_ + ".lock"));
  ExpectCommandsTakeIt(*chosen);

  // A folder with files in it stays as it is.
  const ProgramResult again = Optimize({"--keeps", "none", "--front"});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("not an empty folder"), std::string::npos);

  // What the folder stands for is not named again, and belongs to its model.
  for (const Words& more :
       {Words{"--dtype", "bf16"}, Words{"--table", out_ + "/table.json"},
        Words{"--lm-head-dtype", "bf16"}, Words{"--activations", "f32"}}) {
    Words words = {"generate", "--model",     model_, "--prompt-ids",
                   "5",        "--optimized", out_};
    words.insert(words.end(), more.begin(), more.end());
    EXPECT_EQ(RunProgram(words).exit_code, 2) << more.front();
  }
  EditJson(out_ + "/types.json",
           [](Json& types) { types["checkpoint"] = "another"; });
  const ProgramResult other =
      RunProgram({"generate", "--model", model_, "--prompt-ids", "5",
                  "--optimized", out_});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("'checkpoint' is another"), std::string::npos);
}

// With all times allowed the point that diverges least is the answer.
TEST_F(OptimizeTest, MeasuresAnAdapterBesideTypes) {
  const Json document = OptimizeForJson(
      {"--keeps", "0.6", "--types", "i8_group32", "--time-ratio", "100"});
  size_t adapted = 0;
  for (const Json& point : document["points"]) {
    adapted += point["form"] == "keep 0.6" ? 1 : 0;
    EXPECT_GT(point["ms_per_token"], 0);
    EXPECT_GT(point["mean_ms_per_token"], 0);
    EXPECT_GT(point["bytes_per_token"], 0);
  }
  EXPECT_GE(adapted, 1u);
  const Json* const chosen = Chosen(document);
  ASSERT_NE(chosen, nullptr);
  EXPECT_EQ(Wrote("adapter.safetensors"), (*chosen)["form"] != "dense");
  for (const Json& group : document["groups"]) {
    EXPECT_EQ(group["divergences"].size(), 2u);
  }
}

// The chosen point has the adapter: nothing dense is as small.
TEST_F(OptimizeTest, WritesTheAdapterThatItChooses) {
  const Json document = OptimizeForJson({"--keeps", "0.5", "--types", "bf16",
                                         "--points", "0", "--max-loss", "100"});
  ASSERT_EQ(document["points"].size(), 2u);
  const Json* const chosen = Chosen(document);
  ASSERT_NE(chosen, nullptr);
  if ((*chosen)["form"] == "dense")
    GTEST_SKIP() << "the dense model is quicker";
  EXPECT_TRUE(Wrote("adapter.safetensors"));
  ExpectCommandsTakeIt(*chosen);
  fs::remove(out_ + "/adapter.safetensors");
  const ProgramResult lacking =
      RunProgram({"generate", "--model", model_, "--prompt-ids", "5",
                  "--optimized", out_});
  EXPECT_EQ(lacking.exit_code, 2);
  EXPECT_NE(lacking.err.find("field 'adapter'"), std::string::npos)
      << lacking.err;
}

TEST_F(OptimizeTest, WrongOptionsAreUsageErrors) {
  const std::vector<Words> wrong = {
      {},                                // no budget
      {"--front", "--max-loss", "0.1"},  // two
      {"--max-loss", "-1"},
      {"--max-loss", "nan"},
      {"--time-ratio", "x"},
      {"--front", "--keeps", "1.5"},
      {"--front", "--keeps", "none,0.5"},
      {"--front", "--types", "i5"},
      {"--front", "--window", "1"},
      {"--front", "-n", "2"},
  };
  for (const Words& words : wrong) {
    const ProgramResult result = Optimize(words);
    EXPECT_EQ(result.exit_code, 2) << (words.empty() ? "" : words.back());
    EXPECT_FALSE(fs::exists(out_));
  }
}

TEST_F(OptimizeTest, WhatNothingReachesIsAnErrorWithoutFiles) {
  const ProgramResult result =
      Optimize({"--keeps", "none", "--types", "bf16", "--points", "0",
                "--time-ratio", "0.001"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("no measured point is as quick"), std::string::npos)
      << result.err;
  EXPECT_FALSE(fs::exists(out_));
}

// Said at once, not when adapters are made and tuned.
TEST_F(OptimizeTest, LongContextsAreErrors) {
  const ProgramResult result = Optimize({"--front", "--context", "100000"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("fewer than a context of 100000"),
            std::string::npos)
      << result.err;
  EXPECT_EQ(result.err.find("adapt to"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(OptimizeTest, ShortTextsAreErrors) {
  WriteWhole(ids_, "[1, 2, 3]");
  const ProgramResult result = Optimize({"--front"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("less than two windows"), std::string::npos);
  EXPECT_FALSE(fs::exists(out_ + ".state"));
}

}  // namespace
}  // namespace rankforge
