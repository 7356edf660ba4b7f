// Layers that a prompt leaves out, on the command line: the methods of `adapt`
// that choose them, and the commands that decode without them.
#include <gtest/gtest.h>

#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "program.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class LayerSkipCommandTest : public testing::Test {
 protected:
  static Json Run(const Words& arguments) {
    const ProgramResult result = RunProgram(arguments + Words{"--json"});
    // A loaded machine may read slower than a small model decodes; `bench` says
    // so, and nothing else may fail.
    if (result.err.find("above 1") == std::string::npos) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
    }
    return Json::parse(result.out, nullptr, false);
  }
  static void ExpectRefusal(const Words& arguments, int code,
                            const std::string& part) {
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }
  Json Adapt(const std::string& method, size_t skip, const Words& more = {}) {
    return Run(Words{"adapt", "--model", model_, "--method", method, "--skip",
                     std::to_string(skip), "--out", out_} +
               more);
  }
  // An adapter with a router of each layer.
  void WriteRouters() {
    const auto checkpoint = Checkpoint::Open(model_);
    ASSERT_TRUE(checkpoint.ok());
    Adapter adapter;
    adapter.method = "first";
    adapter.checkpoint_hash = checkpoint->Identity();
    adapter.checkpoint_full_hash = checkpoint->FullHash();
    const ModelConfig& config = checkpoint->config();
    for (size_t layer = 0; layer < config.layers; ++layer) {
      std::vector<float>& router = adapter.skip.routers[layer];
      router.resize(config.hidden);
      for (size_t i = 0; i < config.hidden; ++i) {
        router[i] = static_cast<float>((i * 7 + layer * 3) % 11) - 5;
      }
    }
    ASSERT_TRUE(SaveAdapter(adapter, out_).ok());
  }

  const TemporaryFolder folder_;
  const std::string model_ =
      RANKFORGE_SOURCE_DIR "/examples/models/llama-gqa-7m";
  const std::string text_ =
      RANKFORGE_SOURCE_DIR "/examples/models/text/calibration.txt";
  const std::string out_ = folder_.Path("skip.safetensors");
  const size_t layers_ = Checkpoint::Open(model_)->config().layers;
};

TEST_F(LayerSkipCommandTest, UnifiedSkipping) {
  // Kept are the first and the last layer, and multiples of
  // int(L / (kept - 1)) up to as many as are wanted.
  for (size_t skip = 1; skip + 2 <= layers_; ++skip) {
    const size_t wanted = layers_ - skip;
    const size_t interval = layers_ / (wanted - 1);
    std::set<size_t> kept = {0, layers_ - 1};
    for (size_t i = 1; i + 1 < layers_; ++i) {
      if (i % interval == 0 && kept.size() < wanted) kept.insert(i);
    }
    const Json document = Adapt("unified-skip", skip);
    const auto skipped = document["skipped_layers"].get<std::set<size_t>>();
    EXPECT_EQ(skipped.size(), skip);
    for (const size_t layer : skipped) EXPECT_FALSE(kept.contains(layer));
    EXPECT_NEAR(document["linear_flops_ratio"].get<double>(),
                static_cast<double>(wanted) / static_cast<double>(layers_),
                1e-4);
  }
}

TEST_F(LayerSkipCommandTest, RandomLayersFollowTheSeed) {
  std::set<Json> drawn;
  for (const char* seed : {"1", "2", "3", "4", "5", "6"}) {
    const Json layers =
        Adapt("random-skip", 2, {"--seed", seed})["skipped_layers"];
    EXPECT_EQ(layers,
              Adapt("random-skip", 2, {"--seed", seed})["skipped_layers"]);
    ASSERT_EQ(layers.size(), 2u);
    EXPECT_LT(layers[0], layers[1]);
    EXPECT_GT(layers[0], 0);
    EXPECT_LT(layers[1], layers_ - 1);
    drawn.insert(layers);
  }
  EXPECT_GT(drawn.size(), 1u);
}

TEST_F(LayerSkipCommandTest, AngularLayersTurnTheStreamLeast) {
  const Words calibration = {"--calibration", text_, "--tokens", "1024"};
  const Json two = Adapt("angular-skip", 2, calibration);
  EXPECT_EQ(two["calibration_tokens"], 1024);
  const auto checkpoint = Checkpoint::Open(model_);
  const auto adapter = LoadAdapterOf(*checkpoint, out_, AdapterParts::kAll);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  std::istringstream words(adapter->parameters.at("angular_distances"));
  std::vector<double> distances;
  for (double distance; words >> distance;) distances.push_back(distance);
  ASSERT_EQ(distances.size(), layers_);
  const std::set<size_t> chosen(adapter->skip.layers.begin(),
                                adapter->skip.layers.end());
  EXPECT_EQ(chosen.size(), 2u);
  for (size_t layer = 1; layer + 1 < layers_; ++layer) {
    EXPECT_GT(distances[layer], 0);
    EXPECT_LT(distances[layer], 1);
    for (const size_t other : chosen) {
      if (chosen.contains(layer)) continue;
      EXPECT_GE(distances[layer], distances[other]);
    }
  }
}

TEST_F(LayerSkipCommandTest, WhatAdaptRefuses) {
  const Words adapt = {"adapt", "--model", model_, "--out", out_, "--method"};
  ExpectRefusal(adapt + Words{"unified-skip"}, 2, "skip 0: ask for 1 to");
  ExpectRefusal(
      adapt + Words{"random-skip", "--skip", std::to_string(layers_ - 1)}, 2,
      "first and the last");
  ExpectRefusal(adapt + Words{"unified-skip", "--skip", "1", "--keep", "0.5"},
                2, "--keep: method unified-skip has no use");
  ExpectRefusal(adapt + Words{"unified-skip", "--skip", "1", "--window", "64"},
                2, "--window: method unified-skip has no use");
  ExpectRefusal(adapt + Words{"unified-skip", "--skip", "1", "--seed", "1"}, 2,
                "--seed: method unified-skip has no use");
  ExpectRefusal(adapt + Words{"random-skip", "--skip", "1", "--state", "s"}, 2,
                "--state: method random-skip has no use");
  ExpectRefusal(
      adapt + Words{"random-skip", "--skip", "1", "--calibration", text_}, 2,
      "has no use for them");
  ExpectRefusal(adapt + Words{"angular-skip", "--skip", "1"}, 2,
                "give --calibration");
  ExpectRefusal(adapt + Words{"teal", "--skip", "1", "--calibration", text_}, 2,
                "--skip: method teal has no use");
  EXPECT_EQ(folder_.Files(), Words());
}

TEST_F(LayerSkipCommandTest, GenerateSaysWhatItLeavesOut) {
  const Words generate = {"generate", "--model", model_, "--prompt-ids",
                          "1,45,12",  "-n",      "6"};
  const Json dense = Run(generate);
  EXPECT_FALSE(dense.contains("skipped_layers"));
  const Json listed = Run(generate + Words{"--skip-layers", "2,1"});
  EXPECT_EQ(listed["skipped_layers"], Json({1, 2}));
  EXPECT_FALSE(listed.contains("rho"));
  EXPECT_TRUE(listed.contains("kv_bytes_freed"));
  Adapt("random-skip", 2, {"--seed", "3"});
  const Json fixed = Run(generate + Words{"--adapter", out_});
  EXPECT_EQ(fixed["skipped_layers"].size(), 2u);
  const ProgramResult text = RunProgram(generate + Words{"--skip-layers", "1"});
  EXPECT_NE(text.err.find("skipped layers 1 of "), std::string::npos)
      << text.err;

  WriteRouters();
  const Json routed =
      Run(generate + Words{"--adapter", out_, "--skip-threshold", "1"});
  EXPECT_EQ(routed["skipped_layers"].size(), layers_ - 2);
  EXPECT_EQ(routed["rho"].size(), layers_);
  EXPECT_EQ(Run(generate + Words{"--adapter", out_, "--skip-threshold", "1",
                                 "--max-skip", "1", "--always-on",
                                 "2,1"})["skipped_layers"]
                .size(),
            1u);
  // No layer is left out: the same tokens.
  const Json none =
      Run(generate + Words{"--adapter", out_, "--skip-threshold", "0"});
  EXPECT_EQ(none["skipped_layers"], Json::array());
  EXPECT_EQ(none["ids"], dense["ids"]);
}

TEST_F(LayerSkipCommandTest, WhatOptionsRefuse) {
  const Words generate = {"generate", "--model",      model_, "-n",
                          "2",        "--prompt-ids", "1,2"};
  ExpectRefusal(generate + Words{"--skip-layers", "0"}, 2, "always run");
  ExpectRefusal(generate + Words{"--skip-layers", "99"}, 2, "none of this");
  ExpectRefusal(generate + Words{"--skip-layers", "-1"}, 2, "--skip-layers");
  ExpectRefusal(generate + Words{"--skip-threshold", "0.3"}, 2,
                "nothing judges");
  ExpectRefusal(generate + Words{"--max-skip", "2"}, 2, "nothing judges");
  ExpectRefusal(generate + Words{"--skip-threshold", "nan"}, 2,
                "--skip-threshold");
  ExpectRefusal(generate + Words{"--skip-layers", "1", "--max-skip", "2"}, 2,
                "--max-skip");
  for (const char* ends : {"1", "1,", "a,b", "1,2,3", "-1,2"}) {
    ExpectRefusal(generate + Words{"--always-on", ends}, 2, "--always-on");
  }
  ExpectRefusal(generate + Words{"--always-on", "0,0"}, 2, "nothing skips");
  const Words eval = {"eval", "--model",   model_, "--text",
                      text_,  "--windows", "2"};
  ExpectRefusal(eval + Words{"--skip-layers", "1"}, 2, "--decode-from");
  ExpectRefusal(eval + Words{"--decode-from", "4", "--decode"}, 2, "--decode");
  ExpectRefusal(eval + Words{"--decode-from", "255"}, 2, "--decode-from 255");
}

TEST_F(LayerSkipCommandTest, EvalDecodesAfterAPrefix) {
  const Words eval = {"eval",     "--model", model_,      "--text", text_,
                      "--window", "40",      "--windows", "3"};
  const Words from = {"--decode-from", "30"};
  const Json dense = Run(eval + from);
  EXPECT_EQ(dense["tokens"], 30);
  EXPECT_EQ(dense["decode_from"], 30);
  EXPECT_FALSE(dense.contains("layer_skip"));
  const Json skipped = Run(eval + from + Words{"--skip-layers", "1,2"});
  EXPECT_GT(skipped["loss"], dense["loss"]);
  EXPECT_LT(skipped["linear_flops_ratio"], 1);
  EXPECT_EQ(skipped["layer_skip"]["mean_skipped_layers"], 2);
  EXPECT_EQ(skipped["layer_skip"]["skip_shares"], Json({{"1", 1}, {"2", 1}}));
  ASSERT_EQ(skipped["layer_skip"]["windows"].size(), 3u);
  EXPECT_EQ(skipped["layer_skip"]["windows"][2]["skipped_layers"],
            Json({1, 2}));
  const ProgramResult text =
      RunProgram(eval + from + Words{"--skip-layers", "1,2"});
  EXPECT_NE(text.out.find("skipped_layers      2.00 of "), std::string::npos)
      << text.out;

  // Without a prompt nothing is left out, and a line says so.
  WriteRouters();
  const ProgramResult whole = RunProgram(eval + Words{"--adapter", out_});
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  ASSERT_EQ(whole.Messages().size(), 1u);
  EXPECT_NE(whole.Messages()[0].find("--decode-from"), std::string::npos);
}

TEST_F(LayerSkipCommandTest, BenchSaysWhatIsSaved) {
  const Words bench = {"bench", "--model", model_, "--context",
                       "8,12",  "-n",      "6"};
  const Json document = Run(bench + Words{"--skip-layers", "1,3"});
  EXPECT_EQ(document["skipped_layers"], Json({1, 3}));
  EXPECT_TRUE(document.contains("time_saved"));
  EXPECT_GT(document["bytes_saved"], 0);
  EXPECT_LT(document["bytes_saved"], 2.0 / static_cast<double>(layers_));
  EXPECT_LT(document["bytes_per_token"], document["dense_bytes_per_token"]);
  for (const Json& at : document["by_context"]) {
    EXPECT_EQ(at["skipped_layers"], Json({1, 3}));
  }
  const ProgramResult text = RunProgram(bench + Words{"--skip-layers", "1"});
  EXPECT_NE(text.out.find("of the time saved"), std::string::npos) << text.out;
}

// An adapter with routers is one adapter more for packs and tables.
TEST_F(LayerSkipCommandTest, PacksKeepTheRouters) {
  WriteRouters();
  const std::string pack = folder_.Path("pack");
  Run({"pack", "--model", model_, "--adapter", out_, "--dtype", "i8", "--out",
       pack});
  const Words generate = {
      "generate",     "--model",          model_, "--dtype",    "i8",
      "--prompt-ids", "1,45,12",          "-n",   "6",          "--adapter",
      out_,           "--skip-threshold", "1",    "--max-skip", "2"};
  const Json plain = Run(generate);
  const Json packed = Run(generate + Words{"--pack", pack});
  EXPECT_EQ(packed["ids"], plain["ids"]);
  EXPECT_EQ(packed["rho"], plain["rho"]);
  EXPECT_EQ(packed["skipped_layers"].size(), 2u);
}

}  // namespace
}  // namespace rankforge
