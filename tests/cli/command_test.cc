// The subcommands end to end on a small checkpoint: what they print, and that
// what one writes the next one reads.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "meta/build.h"
#include "program.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

Json RunForJson(Words arguments, const Words& environment = {}) {
  arguments.push_back("--json");
  const ProgramResult result = RunProgram(arguments, environment);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const Json document = Json::parse(result.out, nullptr, false);
  EXPECT_TRUE(document.is_object()) << result.out;
  return document;
}

void ExpectKeys(const Json& document, const Words& keys) {
  for (const std::string& key : keys) {
    EXPECT_TRUE(document.contains(key)) << key << " in " << document;
  }
}

class CommandTest : public testing::Test {
 protected:
  void SetUp() override { MakeCheckpoint(model_); }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
};

// The subcommands that `rankforge PARENT --help` lists.
Words Subcommands(const Words& parent) {
  Words arguments = parent;
  arguments.push_back("--help");
  const ProgramResult help = RunProgram(arguments);
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  const size_t begin = help.out.find("Subcommands:");
  Words names;
  if (begin == std::string::npos) return names;
  std::istringstream lines(help.out.substr(begin));
  const std::regex row("  ([a-z]+) .*");
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_match(line, match, row)) names.push_back(match[1]);
  }
  return names;
}

// Every command that does something: "env", "table show", ...
std::set<std::string> AllCommands() {
  std::set<std::string> commands;
  for (const std::string& name : Subcommands({})) {
    const Words below = Subcommands({name});
    if (below.empty()) commands.insert(name);
    for (const std::string& sub : below) commands.insert(name + " " + sub);
  }
  return commands;
}

TEST(HelpTest, ShowsDefaults) {
  EXPECT_GT(AllCommands().size(), 10u);
  const ProgramResult tune = RunProgram({"tune", "--help"});
  EXPECT_NE(tune.out.find("measure"), std::string::npos) << "a default";
}

// docs/cli.md has a row with the keys of --json for each command and no other.
TEST(HelpTest, TheDocumentListsTheCommands) {
  std::set<std::string> documented;
  std::istringstream lines(ReadWhole(RANKFORGE_SOURCE_DIR "/docs/cli.md"));
  const std::regex row("\\| `([a-z ]+)( --[a-z0-9 -]+)?` \\|.*");
  std::smatch match;
  bool keys = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("## ")) keys = line == "## Keys of `--json`";
    if (keys && std::regex_match(line, match, row)) documented.insert(match[1]);
  }
  EXPECT_EQ(documented, AllCommands());
}

TEST(EnvTest, PrintsWhatTheMachineIs) {
  const Json document = RunForJson({"env", "--threads", "1"});
  ExpectKeys(document, {"cpu", "targets", "backends", "read_gbps"});
  EXPECT_GT(document["read_gbps"]["1"], 0);
  EXPECT_NE(std::ranges::count(document["backends"], "scalar"), 0);
}

TEST(VariantsTest, FilterSelects) {
  const Json all = RunForJson({"variants"})["variants"];
  const Json some =
      RunForJson({"variants", "--filter", "^hwy/.*/dense_bf16_"})["variants"];
  EXPECT_GT(some.size(), 0u);
  EXPECT_LT(some.size(), all.size());
  for (const Json& variant : some) {
    EXPECT_EQ(variant["operation"], "dense");
    EXPECT_EQ(variant["dtype"], "bf16");
  }
}

// Where entries differ in their backend alone, Highway's runs untuned.
TEST(VariantsTest, DefaultsAreHighwayEntries) {
  const Json variants = RunForJson({"variants"})["variants"];
  size_t defaults = 0;
  for (const Json& variant : variants) {
    if (variant["default"] == false) continue;
    const std::string name = variant["name"];
    EXPECT_TRUE(name.starts_with("hwy/")) << name;
    ++defaults;
  }
  EXPECT_GT(defaults, 0u);
}

TEST(VariantsTest, TheLimitOfTargetsHoldsForAllBackends) {
  if (kOneTarget) GTEST_SKIP() << "one target alone";
  const Words others = {"variants", "--filter", "^(hwy|xsimd)/AVX"};
  EXPECT_EQ(RunForJson(others, {"RANKFORGE_MAX_TARGET=SSE4"})["variants"],
            Json::array());
}

TEST(VariantsTest, ALimitThatIsNoTargetIsNamed) {
  const Words variants = {"variants", "--filter", "none"};
  const ProgramResult wrong =
      RunProgram(variants, {"RANKFORGE_MAX_TARGET=bogus"});
  EXPECT_EQ(wrong.exit_code, 0);
  ASSERT_EQ(wrong.Messages().size(), 1u) << wrong.err;
  EXPECT_NE(wrong.err.find("RANKFORGE_MAX_TARGET=bogus"), std::string::npos);
  const std::string best = RunForJson({"env", "--threads", "1"})["targets"][0];
  EXPECT_NE(wrong.err.find(best), std::string::npos) << wrong.err;
  EXPECT_EQ(RunProgram(variants, {"RANKFORGE_MAX_TARGET=" + best}).err, "");
}

TEST(VariantsTest, TheGeneratedListIsUpToDate) {
  const ProgramResult result = RunProgram({"variants", "--declared"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out,
            ReadWhole(RANKFORGE_SOURCE_DIR "/generated/variants.json"))
      << "run `rankforge variants --declared > generated/variants.json`";
}

TEST(VariantsTest, TheGeneratedListIsTheSameWithFewerTargets) {
  const Words declared = {"variants", "--declared"};
  EXPECT_EQ(RunProgram(declared).out,
            RunProgram(declared, {"RANKFORGE_MAX_TARGET=SSE4"}).out);
}

// 0 is a whole number that only some options take.
TEST_F(CommandTest, AdaptMayBeToldNotToRefine) {
  const std::string file = folder_.Path("text");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "Once upon a time there was a girl. ";
  WriteWhole(file, text);
  const auto words = [&](const Words& more) {
    Words all = {"adapt",         "--model",  model_,
                 "--calibration", file,       "--tokens",
                 "128",           "--window", "32",
                 "--threads",     "1",        "--keep",
                 "0.8",           "--out",    folder_.Path("adapter.st")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  RunForJson(words({"--method", "rana", "--effort", "0"}));
  const ProgramResult refused =
      RunProgram(words({"--method", "rotated", "--group-blocks", "0"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("--group-blocks: 0"), std::string::npos)
      << refused.err;
}

TEST_F(CommandTest, AdaptersSayHowTheirTextBegan) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "Once upon a time there was a girl. ";
  const std::string file = folder_.Path("text");
  WriteWhole(file, text);
  const auto adapt = [&](const std::string& name, const Words& more) {
    Words words = {
        "adapt",  "--model",   model_,     "--method", "teal",
        "--keep", "0.8",       "--tokens", "128",      "--window",
        "32",     "--threads", "1",        "--out",    folder_.Path(name)};
    words.insert(words.end(), more.begin(), more.end());
    RunForJson(words);
  };
  const auto messages = [&](const std::string& adapter, Words words) {
    words.insert(words.end(), {"--model", model_, "--threads", "1", "--adapter",
                               folder_.Path(adapter), "--json"});
    const ProgramResult result = RunProgram(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.Messages();
  };
  adapt("auto.st", {"--calibration", file});
  adapt("no.st", {"--calibration", file, "--bos", "no"});
  const Words eval = {"eval", "--text", file, "--window", "32"};
  const Words generate = {"generate", "--prompt", "Once", "-n", "1"};
  Words eval_no = eval, generate_no = generate;
  eval_no.insert(eval_no.end(), {"--bos", "no"});
  generate_no.insert(generate_no.end(), {"--bos", "no"});
  EXPECT_EQ(messages("auto.st", eval), Words());
  EXPECT_EQ(messages("no.st", eval_no), Words());
  EXPECT_EQ(messages("auto.st", generate), Words());
  EXPECT_EQ(messages("no.st", generate_no), Words());
  const auto expected = [&](const std::string& adapter, const char* made,
                            const char* read) {
    return Words{"rankforge: " + folder_.Path(adapter) +
                 ": was made from a text with --bos " + made +
                 ", this one is read with --bos " + read};
  };
  EXPECT_EQ(messages("auto.st", eval_no), expected("auto.st", "auto", "no"));
  EXPECT_EQ(messages("no.st", eval), expected("no.st", "no", "auto"));
  EXPECT_EQ(messages("no.st", generate), expected("no.st", "no", "auto"));
  EXPECT_EQ(messages("auto.st", generate_no),
            expected("auto.st", "auto", "no"));
  // Ids are given whole: nothing is recorded, and nothing compared.
  const std::string ids = folder_.Path("ids.json");
  std::string list = "[5";
  for (int i = 0; i < 200; ++i) list += "," + std::to_string(3 + i % 50);
  WriteWhole(ids, list + "]");
  adapt("ids.st", {"--calibration-ids", ids});
  EXPECT_EQ(messages("ids.st", eval_no), Words());
  EXPECT_EQ(messages("no.st", {"eval", "--ids", ids, "--window", "32"}),
            Words());
}

TEST_F(CommandTest, EvalReadsTextAndIds) {
  WriteWhole(folder_.Path("ids.json"), [] {
    Json ids = Json::array();
    for (int i = 0; i < 40; ++i) ids.push_back(i * 97 % 4096);
    return ids.dump();
  }());
  const Json document = RunForJson({"eval", "--model", model_, "--ids",
                                    folder_.Path("ids.json"), "--window", "8"});
  EXPECT_EQ(document["activations"], Json({{"f32", 1.0}}));
  ExpectKeys(document, {"perplexity", "loss", "tokens", "linear_flops_ratio",
                        "bytes_per_token"});
  EXPECT_EQ(document["tokens"], 5 * 7);
  EXPECT_EQ(document["linear_flops_ratio"], 1);

  WriteWhole(folder_.Path("text"), "Once upon a time there was a little girl.");
  const Json text =
      RunForJson({"eval", "--model", model_, "--text", folder_.Path("text"),
                  "--window", "4", "--windows", "1"});
  EXPECT_EQ(text["tokens"], 3);
}

// A table of other arithmetic costs speed, and one line says so.
TEST_F(CommandTest, TablesOfOtherActivationsAreSaid) {
  const std::string table = folder_.Path("table.json");
  ASSERT_EQ(
      RunProgram({"tune", "--model", model_, "--dtype", "i8", "--activations",
                  "f32", "--rigor", "estimate", "--budget", "60s",
                  "--allow-noise", "--threads", "1", "--out", table})
          .exit_code,
      0);
  const std::string said = table + ": has dense ";
  for (const char* activations : {"f32", "i8"}) {
    const ProgramResult result =
        RunProgram({"generate", "--model", model_, "--dtype", "i8",
                    "--activations", activations, "--table", table, "--threads",
                    "1", "--prompt-ids", "1,2,3", "-n", "1", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const bool other =
        result.err.find(said) != std::string::npos &&
        result.err.find("with f32 activations alone") != std::string::npos;
    EXPECT_EQ(other, std::string(activations) == "i8") << result.err;
  }
}

// The cost of rounded inputs is that of the same weights with exact ones.
TEST_F(CommandTest, EvalSaysWhatRoundedInputsCost) {
  const std::string ids = folder_.Path("ids.json");
  std::string list;
  for (int i = 0; i < 200; ++i) {
    list += (i == 0 ? "[" : ",") + std::to_string(3 + i * 7919 % 61);
  }
  WriteWhole(ids, list + "]");
  const Words eval = {"eval",     "--model", model_,    "--ids", ids,
                      "--window", "32",      "--dtype", "i4"};
  const auto with = [&](const Words& more) {
    Words words = eval;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Json exact = RunForJson(with({"--activations", "f32"}));
  EXPECT_EQ(exact["activations"], Json({{"f32", 1.0}}));
  const Json rounded = RunForJson(with({"--against-exact"}));
  EXPECT_EQ(rounded["activations"], Json({{"i8", 1.0}}));
  EXPECT_EQ(rounded["perplexity"], RunForJson(eval)["perplexity"]);
  EXPECT_NE(rounded["perplexity"], exact["perplexity"]);
  EXPECT_GT(rounded["divergence"], 0);
  EXPECT_NEAR(rounded["exact_perplexity"].get<double>() /
                  exact["perplexity"].get<double>(),
              1, 1e-5);
  const ProgramResult printed = RunProgram(with({"--against-exact"}));
  EXPECT_NE(printed.out.find("perplexity_cost"), std::string::npos);
  EXPECT_NE(printed.out.find("activations         i8      1.0000 of the"),
            std::string::npos)
      << printed.out;
  const ProgramResult refused =
      RunProgram(with({"--activations", "f32", "--against-exact"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("--against-exact: the inputs of this model"),
            std::string::npos)
      << refused.err;
}

TEST_F(CommandTest, EvalReadsChoices) {
  WriteWhole(folder_.Path("choices.jsonl"),
             R"({"context": "Once upon a", "choices": [" time", " dog ran"],
 "answer": 0})"
             "\n");
  const Words eval = {"eval", "--model", model_, "--choices",
                      folder_.Path("choices.jsonl")};
  // An object that spans two lines is refused.
  EXPECT_NE(RunProgram(eval).exit_code, 0);
  WriteWhole(
      folder_.Path("choices.jsonl"),
      R"({"context": "Once upon a", "choices": [" time", " dog"], "answer": 0})"
      "\n\n"
      R"({"context": "Once upon a", "choices": [" time", " dog"], "answer": 1})"
      "\n");
  const Json document = RunForJson(eval);
  EXPECT_EQ(document["questions"], 2);
  EXPECT_EQ(document["accuracy"], 0.5);  // the same question, both answers
  ExpectKeys(document, {"accuracy_per_byte", "answer_loss",
                        "linear_flops_ratio", "bytes_per_token"});
}

TEST_F(CommandTest, GenerateIsReproducible) {
  const Words sample = {"generate",  "--model", model_, "--prompt",
                        "Once upon", "-n",      "12",   "--temperature",
                        "0.9",       "--top-p", "0.95", "--seed"};
  Words first = sample;
  first.push_back("1");
  Words second = sample;
  second.push_back("2");
  const Json document = RunForJson(first);
  ExpectKeys(document,
             {"ids", "text", "prefill_tokens_per_s", "decode_tokens_per_s"});
  EXPECT_EQ(document["ids"], RunForJson(first)["ids"]);
  EXPECT_NE(document["ids"], RunForJson(second)["ids"]);
}

TEST_F(CommandTest, GenerateTakesAndGivesIdsWithoutATokenizer) {
  std::remove((model_ + "/tokenizer.model").c_str());
  const Json document = RunForJson(
      {"generate", "--model", model_, "--prompt-ids", "5,6,7", "-n", "4"});
  EXPECT_EQ(document["prompt_ids"], Json({5, 6, 7}));
  EXPECT_TRUE(document["text"].is_null());
  const ProgramResult plain = RunProgram(
      {"generate", "--model", model_, "--prompt-ids", "5,6,7", "-n", "4"});
  std::string expected;
  for (const Json& id : document["ids"]) expected += id.dump() + " ";
  EXPECT_EQ(plain.out, expected + "\n");
}

// A model that runs from a pack gives the same results.
TEST_F(CommandTest, PackIsMappedByTheOthers) {
  const std::string pack = folder_.Path("weights.pack");
  const Words model = {"--model", model_, "--dtype", "i8", "--threads", "1"};
  const auto command = [&](Words words, const Words& more) {
    words.insert(words.end(), model.begin(), model.end());
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Json written = RunForJson(command({"pack"}, {"--out", pack}));
  ExpectKeys(written, {"pack", "model", "matrices", "bytes", "seconds"});
  EXPECT_EQ(written["matrices"], 1 + 2 * 4);
  const Words prompt = {"--prompt", "Once upon", "-n", "12"};
  const Words packed = {"--pack", pack};
  const Json expected = RunForJson(command({"generate"}, prompt));
  Words from_pack = prompt;
  from_pack.insert(from_pack.end(), packed.begin(), packed.end());
  const Json document = RunForJson(command({"generate"}, from_pack));
  EXPECT_EQ(document["ids"], expected["ids"]);
  ExpectKeys(document, {"load_seconds"});

  WriteWhole(folder_.Path("ids.json"), "[5, 6, 7, 8, 9, 10, 11, 12]");
  const Words ids = {"--ids", folder_.Path("ids.json"), "--window", "8"};
  Words ids_from_pack = ids;
  ids_from_pack.insert(ids_from_pack.end(), packed.begin(), packed.end());
  const Json evaluated = RunForJson(command({"eval"}, ids_from_pack));
  EXPECT_EQ(evaluated, RunForJson(command({"eval"}, ids)));
  EXPECT_GT(evaluated["quantization_error"], 0);
}

// A calibrated pack starts as any other, and has other weights.
TEST_F(CommandTest, PackIsCalibrated) {
  const std::string pack = folder_.Path("calibrated.pack");
  const std::string ids = folder_.Path("many_ids.json");
  std::string list;
  for (int i = 0; i < 600; ++i) {
    list += (i == 0 ? "[" : ",") + std::to_string(3 + i * 7919 % 61);
  }
  WriteWhole(ids, list + "]");
  const auto of_model = [&](Words words) {
    words.insert(words.end(),
                 {"--model", model_, "--dtype", "i4", "--threads", "1"});
    return words;
  };
  const Json written =
      RunForJson(of_model({"pack", "--calibration-ids", ids, "--tokens", "512",
                           "--window", "32", "--out", pack}));
  ExpectKeys(written, {"pack", "model", "matrices", "bytes", "seconds",
                       "calibration_tokens"});
  EXPECT_EQ(written["calibration_tokens"], 512);
  Words eval =
      of_model({"eval", "--ids", ids, "--window", "32", "--against-dense"});
  const Json nearest = RunForJson(eval);
  eval.insert(eval.end(), {"--pack", pack});
  const Json calibrated = RunForJson(eval);
  EXPECT_LT(calibrated["divergence"], nearest["divergence"]);
  EXPECT_NE(calibrated["quantization_error"], nearest["quantization_error"]);
}

// What takes the folder of a checkpoint takes a GGUF file.
TEST_F(CommandTest, GgufFilesAreModels) {
  const std::string file = folder_.Path("model.gguf");
  std::filesystem::copy_file(
      RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/llama3.gguf", file);
  const std::string ids = folder_.Path("ids.json");
  std::string list;
  for (int i = 0; i < 600; ++i) {
    list += (i == 0 ? "[" : ",") + std::to_string(3 + i * 7919 % 61);
  }
  WriteWhole(ids, list + "]");
  const auto command = [&](Words words, const Words& more) {
    words.insert(words.end(), {"--model", file, "--threads", "1"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Words prompt = {"--prompt-ids", "5,6,7", "-n", "4"};
  const Json generated = RunForJson(command({"generate"}, prompt));
  EXPECT_EQ(generated["ids"].size(), 4u);
  EXPECT_TRUE(generated["text"].is_null());
  const Json evaluated =
      RunForJson(command({"eval"}, {"--ids", ids, "--window", "32"}));
  EXPECT_EQ(evaluated["model"], "model.gguf");

  const std::string adapter = folder_.Path("gguf_adapter.safetensors");
  RunForJson(command(
      {"adapt"}, {"--calibration-ids", ids, "--method", "teal", "--keep", "0.8",
                  "--tokens", "512", "--window", "32", "--out", adapter}));
  const std::string table = folder_.Path("gguf_table.json");
  RunForJson(
      command({"tune"}, {"--allow-noise", "--adapter", adapter, "--rigor",
                         "estimate", "--budget", "60s", "--out", table}));
  RunForJson(command(
      {"bench"}, {"--adapter", adapter, "--table", table, "--context", "8"}));
  const std::string pack = folder_.Path("gguf.pack");
  RunForJson(command({"pack"}, {"--out", pack}));
  Words packed = prompt;
  packed.insert(packed.end(), {"--pack", pack});
  EXPECT_EQ(RunForJson(command({"generate"}, packed))["ids"], generated["ids"]);
}

TEST_F(CommandTest, FilesThatAreNoModelsAreNamed) {
  const std::string file = folder_.Path("model.gguf");
  WriteWhole(file, "GGUF");
  for (const char* part : {"ends before its version", "does not begin with"}) {
    const ProgramResult result = RunProgram(
        {"generate", "--model", file, "--prompt-ids", "5", "-n", "1"});
    EXPECT_EQ(result.exit_code, 1);
    ASSERT_FALSE(result.Messages().empty());
    const std::string message = result.Messages().back();
    EXPECT_NE(message.find(file), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    WriteWhole(file, "text");
  }
}

// Overwrites what was measured for the table `path` with a stated cost model,
// 500 ns + 0.05 ns per byte of weights read, so that no test rests on how long
// anything took here.
void StateTimes(const std::string& path) {
  constexpr double kFixedNs = 500;
  constexpr double kNsPerByte = 0.05;
  EditJson(path, [&](Json& table) {
    for (Json& entry : table["entries"]) {
      const Json& problem = entry["problem"];
      ASSERT_EQ(problem["type"], "f32");
      const double all_bytes = sizeof(float) * problem["rows"].get<double>() *
                               problem["cols"].get<double>();
      for (Json& bucket : entry["by_density"]) {
        const double bytes = bucket["max"].get<double>() * all_bytes;
        const double ns = kFixedNs + kNsPerByte * bytes;
        bucket["ns"] = {{"median", ns}, {"mad", 0}, {"min", ns}, {"n", 1}};
        bucket["useful_gbps"] = bytes / ns;
        bucket.erase("runner_up");
      }
    }
  });
}

// Adapter and table made by one run serve the next.
TEST_F(CommandTest, AdaptTuneEvalBench) {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    text += "Once upon a time there was a girl number " +
            std::to_string(i * 7919 % 1000) + " who liked to play outside. ";
  }
  WriteWhole(folder_.Path("text"), text);
  const std::string adapter = folder_.Path("adapter.safetensors");
  const Json adapted =
      RunForJson({"adapt", "--model", model_, "--calibration",
                  folder_.Path("text"), "--keep", "0.8", "--tokens", "2000",
                  "--window", "64", "--out", adapter});
  EXPECT_GT(adapted["modules"].size(), 0u);

  const std::string table = folder_.Path("table.json");
  const Json tuned =
      RunForJson({"tune", "--allow-noise", "--model", model_, "--adapter",
                  adapter, "--threads", "1", "--rigor", "estimate", "--budget",
                  "60s", "--out", table});
  ExpectKeys(tuned, {"layers", "entries", "seconds", "table"});
  EXPECT_GT(tuned["entries"], 0);
  EXPECT_EQ(RunForJson({"table", "show", table})["entries"].size(),
            tuned["entries"]);
  // The same with the masks of a real run.
  RunForJson({"tune", "--allow-noise", "--model", model_, "--adapter", adapter,
              "--trace", folder_.Path("text"), "--threads", "1", "--rigor",
              "estimate", "--budget", "60s", "--out", folder_.Path("traced")});
  const Json traced = Json::parse(ReadWhole(folder_.Path("traced")));
  size_t masked = 0;
  for (const Json& entry : traced["entries"]) {
    if (entry["problem"]["operation"] == "dense") continue;
    EXPECT_EQ(entry["masks"], "trace") << entry["layers"];
    ++masked;
  }
  EXPECT_GT(masked, 0u);
  // The table serves the next adapter.
  StateTimes(table);
  const Json timed = RunForJson({"adapt",
                                 "--model",
                                 model_,
                                 "--calibration",
                                 folder_.Path("text"),
                                 "--method",
                                 "teal",
                                 "--objective",
                                 "time",
                                 "--table",
                                 table,
                                 "--threads",
                                 "1",
                                 "--keep",
                                 "0.8",
                                 "--tokens",
                                 "2000",
                                 "--window",
                                 "64",
                                 "--out",
                                 folder_.Path("timed")});
  EXPECT_EQ(timed["objective"], "time");
  EXPECT_NEAR(timed["predicted_time_ratio"], 0.8, 0.005);
  const Json explained =
      RunForJson({"table", "explain", "--model", model_, "--adapter", adapter,
                  "--threads", "1", "--table", table});
  for (const Json& workload : explained["workloads"]) {
    EXPECT_EQ(workload["source"], "table") << workload;
  }

  const Words eval = {
      "eval",     "--model", model_,      "--text", folder_.Path("text"),
      "--window", "64",      "--windows", "2",      "--threads",
      "1"};
  Words eval_adapted = eval;
  eval_adapted.insert(eval_adapted.end(),
                      {"--adapter", adapter, "--table", table});
  eval_adapted.insert(eval_adapted.end(), {"--layers", "--against-dense"});
  const Json evaluated = RunForJson(eval_adapted);
  EXPECT_GT(evaluated["divergence"], evaluated["divergence_error"]);
  EXPECT_NEAR(
      evaluated["excess_loss"].get<double>(),
      evaluated["loss"].get<double>() - RunForJson(eval)["loss"].get<double>(),
      1e-4);
  const Json ratio = evaluated["linear_flops_ratio"];
  EXPECT_GT(ratio, 0.5);
  EXPECT_LT(ratio, 1);
  EXPECT_EQ(evaluated["model"], "model");
  EXPECT_EQ(evaluated["adapter"], adapter);
  EXPECT_EQ(evaluated["keep"], 0.8);
  EXPECT_NEAR(evaluated["linear_flops_per_token"].get<double>(),
              ratio.get<double>() *
                  evaluated["dense_linear_flops_per_token"].get<double>(),
              10);
  for (const auto& [type, bytes] : evaluated["block_bytes_per_token"].items()) {
    EXPECT_NEAR(bytes["adapted"].get<double>() / bytes["dense"].get<double>(),
                ratio.get<double>(), 1e-5)
        << type;
  }
  for (const auto& [module, kind] : adapted["modules"].items()) {
    const Json quantiles = evaluated["density_quantiles"][module];
    EXPECT_LE(quantiles["0.05"], quantiles["0.95"]) << module;
    EXPECT_LE(quantiles["0.05"], evaluated["density"][module]) << module;
    // The same layer on another text than that of calibration.
    const double error = evaluated["layers"][module]["error"];
    EXPECT_GE(error, 0) << module;
    EXPECT_LT(error, 0.5) << module;
  }
  const std::string printed = RunProgram(eval_adapted).out;
  EXPECT_NE(printed.find("95 %    error\n"), std::string::npos) << printed;

  const ProgramResult bench = RunProgram(
      {"bench", "--model", model_, "--adapter", adapter, "--context", "16,1",
       "-n", "8", "--threads", "1", "--table", table, "--json"});
  // A loaded machine may read slower than this model decodes; nothing else may
  // fail here.
  if (bench.exit_code != 0) {
    EXPECT_NE(bench.err.find("above 1"), std::string::npos) << bench.err;
  }
  const Json report = Json::parse(bench.out, nullptr, false);
  ExpectKeys(report,
             {"decode_ms_per_token", "dense_ms_per_token", "speedup", "ceiling",
              "read_gbps", "useful_gbps", "roofline", "dense_roofline"});
  EXPECT_GT(report["ceiling"], 1);
  // Bytes and times of the stages add up to those of the token.
  double bytes = 0;
  double ms = 0;
  for (const auto& [name, stage] : report["stages"].items()) {
    if (name != "between") bytes += stage["bytes_per_token"].get<double>();
    ms += stage["ms_per_token"].get<double>();
    EXPECT_GT(stage["ms_per_token"], 0) << name;
  }
  const double total = report["bytes_per_token"];
  EXPECT_NEAR(bytes, total, 1e-3 * total);
  EXPECT_GT(ms, 0);
  EXPECT_EQ(report["context"], 16);
  ASSERT_EQ(report["by_context"].size(), 2);
  EXPECT_EQ(report["by_context"][0]["decode_ms_per_token"],
            report["decode_ms_per_token"]);
  EXPECT_EQ(report["by_context"][1]["context"], 1);

  // The table is for both models; one that is not says so.
  const std::string untuned = "dense model that runs untuned";
  EXPECT_EQ(report["tuned"], 1);
  EXPECT_EQ(report["dense_tuned"], 1);
  EXPECT_EQ(bench.err.find(untuned), std::string::npos) << bench.err;
  EditJson(table, [](Json& document) {
    std::erase_if(document["entries"].get_ref<Json::array_t&>(),
                  [](const Json& entry) {
                    return entry["problem"]["operation"] == "dense";
                  });
  });
  const ProgramResult half = RunProgram(
      {"bench", "--model", model_, "--adapter", adapter, "--context", "1", "-n",
       "4", "--threads", "1", "--table", table, "--json"});
  const Json half_report = Json::parse(half.out, nullptr, false);
  EXPECT_GT(half_report["tuned"], 0);
  EXPECT_EQ(half_report["dense_tuned"], 0);
  EXPECT_NE(half.err.find(untuned), std::string::npos) << half.err;

  // A page of models takes both as they are printed.
  WriteWhole(folder_.Path("results"), evaluated.dump(2) + "\n" + bench.out);
  const Json page = RunForJson({"report", "--models", folder_.Path("results"),
                                "--out", folder_.Path("page.html")});
  const std::set<std::string> plots = page["plots"];
  for (const char* plot : {"context", "densities", "errors", "flops", "time"}) {
    EXPECT_TRUE(plots.contains(std::string(plot) + ".svg")) << plot;
  }
}

// What a checkpoint says one way and is the other way is used, and said.
TEST(NotesTest, OfACheckpoint) {
  const TemporaryFolder folder;
  const std::string model = folder.Path("model");
  MakeCheckpoint(model);
  const Words generate = {"generate", "--model", model, "--prompt-ids",
                          "1,2,3",    "-n",      "4",   "--json"};
  const ProgramResult untied = RunProgram(generate);
  EXPECT_TRUE(untied.Messages().empty()) << untied.err;
  EditJson(model + "/config.json",
           [](Json& config) { config["tie_word_embeddings"] = true; });
  const ProgramResult tied = RunProgram(generate);
  EXPECT_EQ(tied.exit_code, 0);
  EXPECT_EQ(Json::parse(tied.out)["ids"], Json::parse(untied.out)["ids"]);
  ASSERT_EQ(tied.Messages().size(), 1u) << tied.err;
  EXPECT_NE(tied.Messages()[0].find("'tie_word_embeddings'"),
            std::string::npos);
}

}  // namespace
}  // namespace rankforge
