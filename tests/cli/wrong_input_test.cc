// What users get for wrong input: one line that names the file or option and
// what to do, the agreed exit code, and no file that was not there before.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "program.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

constexpr int kFailed = 1;
constexpr int kUsage = 2;

class WrongInputTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeCheckpoint(model_);
    WriteWhole(text_, "Once upon a time there was a little girl.\n");
  }

  // Runs, and expects `exit_code` with one message that holds all of `parts`.
  void ExpectRefusal(const Words& arguments, int exit_code,
                     const Words& parts) {
    const std::vector<std::string> before = folder_.Files();
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_EQ(result.out, "");
    const std::vector<std::string> messages = result.Messages();
    ASSERT_EQ(messages.size(), 1u) << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(messages[0].find(part), std::string::npos)
          << messages[0] << "\n does not mention: " << part;
    }
    EXPECT_EQ(folder_.Files(), before);
  }

  Words Eval() const { return {"eval", "--model", model_, "--text", text_}; }
  Words Adapt() const {
    return {"adapt",
            "--model",
            model_,
            "--calibration",
            text_,
            "--out",
            folder_.Path("adapter.safetensors")};
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
  const std::string weights_ = model_ + "/model.safetensors";
  const std::string text_ = folder_.Path("text.txt");
};

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_F(WrongInputTest, MissingWeights) {
  std::filesystem::remove(weights_);
  ExpectRefusal(Eval(), kFailed, {"model.safetensors"});
}

TEST_F(WrongInputTest, TruncatedWeights) {
  std::filesystem::resize_file(weights_,
                               std::filesystem::file_size(weights_) / 2);
  ExpectRefusal(Eval(), kFailed, {weights_});
}

TEST_F(WrongInputTest, WeightsShorterThanTheHeaderLength) {
  std::filesystem::resize_file(weights_, 5);
  ExpectRefusal(Eval(), kFailed, {weights_});
}

TEST_F(WrongInputTest, OversizedHeader) {
  std::string file = ReadWhole(weights_);
  file[5] = '\x7f';  // bits 40 and up of the header's length
  WriteWhole(weights_, file);
  ExpectRefusal(Eval(), kFailed, {weights_, "header"});
}

TEST_F(WrongInputTest, HeaderThatIsNoJson) {
  std::string file = ReadWhole(weights_);
  file[8] = '[';
  WriteWhole(weights_, file);
  ExpectRefusal(Eval(), kFailed, {weights_, "header"});
}

TEST_F(WrongInputTest, OverlappingOffsets) {
  EditHeader(weights_, [](Json& header) {
    Json& tensor = header["model.layers.0.mlp.up_proj.weight"];
    tensor["data_offsets"] =
        header["model.layers.0.mlp.gate_proj.weight"]["data_offsets"];
  });
  ExpectRefusal(Eval(), kFailed, {weights_, "mlp"});
}

TEST_F(WrongInputTest, OffsetsBeyondTheFile) {
  EditHeader(weights_, [](Json& header) {
    Json& offsets = header["model.norm.weight"]["data_offsets"];
    offsets = {offsets[0].get<size_t>() + (size_t{1} << 40),
               offsets[1].get<size_t>() + (size_t{1} << 40)};
  });
  ExpectRefusal(Eval(), kFailed, {weights_, "model.norm.weight"});
}

TEST_F(WrongInputTest, WrongDtype) {
  EditHeader(weights_, [](Json& header) {
    header["model.layers.1.mlp.down_proj.weight"]["dtype"] = "I16";
  });
  ExpectRefusal(Eval(), kFailed,
                {weights_, "model.layers.1.mlp.down_proj.weight", "I16"});
}

TEST_F(WrongInputTest, WrongShape) {
  EditHeader(weights_, [](Json& header) {
    Json& shape = header["model.layers.1.mlp.down_proj.weight"]["shape"];
    std::swap(shape[0], shape[1]);
  });
  ExpectRefusal(Eval(), kFailed,
                {weights_, "model.layers.1.mlp.down_proj.weight"});
}

TEST_F(WrongInputTest, MissingTensor) {
  EditHeader(weights_, [](Json& header) {
    header["renamed"] = header["model.layers.1.self_attn.q_proj.weight"];
    header.erase("model.layers.1.self_attn.q_proj.weight");
  });
  ExpectRefusal(Eval(), kFailed, {"model.layers.1.self_attn.q_proj.weight"});
}

TEST_F(WrongInputTest, UnsupportedFamily) {
  EditJson(model_ + "/config.json", [](Json& config) {
    config["model_type"] = "mamba";
    config["architectures"] = {"MambaForCausalLM"};
  });
  ExpectRefusal(Eval(), kFailed, {"config.json", "model_type", "mamba"});
}

TEST_F(WrongInputTest, ConfigWithoutAField) {
  EditJson(model_ + "/config.json",
           [](Json& config) { config.erase("hidden_size"); });
  ExpectRefusal(Eval(), kFailed, {"config.json", "hidden_size"});
}

TEST_F(WrongInputTest, MissingModel) {
  ExpectRefusal({"eval", "--model", folder_.Path("none"), "--text", text_},
                kUsage, {"--model", folder_.Path("none")});
}

TEST_F(WrongInputTest, MissingTokenizer) {
  std::filesystem::remove(model_ + "/tokenizer.model");
  ExpectRefusal(Eval(), kFailed, {"tokenizer.model"});
  ExpectRefusal({"generate", "--model", model_, "--prompt", "Once"}, kFailed,
                {"tokenizer.model", "--prompt-ids"});
}

TEST_F(WrongInputTest, AdapterForAnotherCheckpoint) {
  Adapter adapter;
  adapter.method = "rana-paper";
  adapter.keep = 0.6;
  adapter.checkpoint_hash = "of another model";
  const std::string path = folder_.Path("adapter.safetensors");
  ASSERT_TRUE(SaveAdapter(adapter, path).ok());
  ExpectRefusal(Eval() + Words{"--adapter", path}, kFailed,
                {path, "checkpoint"});
}

TEST_F(WrongInputTest, DamagedAdapter) {
  const std::string path = folder_.Path("adapter.safetensors");
  WriteWhole(path, "no adapter");
  ExpectRefusal(Eval() + Words{"--adapter", path}, kFailed, {path});
}

TEST_F(WrongInputTest, PacksThatDoNotFit) {
  const std::string path = folder_.Path("weights.pack");
  const Words pack = {"pack", "--model", model_, "--out", path};
  ASSERT_EQ(RunProgram(pack).exit_code, 0);
  const Words from_pack = {"--pack", path};
  ExpectRefusal(Eval() + from_pack + Words{"--dtype", "bf16"}, kUsage,
                {path, "type", "f32", "bf16", "--dtype"});
  ExpectRefusal(Eval() + from_pack + Words{"--pack", folder_.Path("none")},
                kUsage, {"--pack"});
  const std::string whole = ReadWhole(path);
  WriteWhole(path, whole.substr(0, whole.size() - 1));
  ExpectRefusal(Eval() + from_pack, kFailed, {path, "file_bytes"});
  WriteWhole(path, "no pack");
  ExpectRefusal(Eval() + from_pack, kFailed, {path, "no pack file"});
  WriteWhole(path, whole);
  std::string weights = ReadWhole(weights_);
  weights.back() = static_cast<char>(weights.back() ^ 1);
  WriteWhole(weights_, weights);
  ExpectRefusal(Eval() + from_pack, kUsage, {path, "'checkpoint'", "--model"});
}

TEST_F(WrongInputTest, PacksThatCannotBeCalibrated) {
  const Words pack = {"pack", "--model", model_, "--out",
                      folder_.Path("weights.pack")};
  const Words text = {"--calibration", text_};
  ExpectRefusal(pack + text + Words{"--dtype", "bf16"}, kUsage,
                {"--calibration", "--dtype bf16", "i4_group32"});
  ExpectRefusal(pack + text + Words{"--dtype", "stored"}, kUsage,
                {"--calibration", "stored", "i4_group32"});
  ExpectRefusal(pack + text + Words{"--dtype", "i4"}, kFailed,
                {"calibration text", "one window of 256", "longer text"});
  ExpectRefusal(pack + Words{"--dtype", "i4", "--tokens", "512"}, kUsage,
                {"--tokens", "--calibration"});
  ExpectRefusal(pack + Words{"--calibration", folder_.Path("none")}, kUsage,
                {"--calibration"});
}

TEST_F(WrongInputTest, AdapterWithAChangedByte) {
  Adapter adapter;
  adapter.method = "none";
  const std::string path = folder_.Path("adapter.safetensors");
  const Result<Checkpoint> checkpoint = Checkpoint::Open(model_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  adapter.checkpoint_hash = checkpoint->Identity();
  ASSERT_TRUE(SaveAdapter(adapter, path).ok());
  std::string bytes = ReadWhole(path);
  const size_t method = bytes.find("none");
  ASSERT_NE(method, std::string::npos);
  bytes.replace(method, 4, "nine");
  WriteWhole(path, bytes);
  ExpectRefusal(Eval() + Words{"--adapter", path}, kFailed,
                {path, "not those that were written"});
}

TEST_F(WrongInputTest, IdsAreNamedByTheirPlace) {
  const Words generate = {"generate", "--model", model_, "--prompt-ids"};
  ExpectRefusal(generate + Words{"1,,2"}, kUsage,
                {"--prompt-ids", "id 2 is ''"});
  ExpectRefusal(generate + Words{"1,2,"}, kUsage, {"id 3 is ''"});
  ExpectRefusal(generate + Words{"5,6x"}, kUsage, {"id 2 is '6x'"});
  ExpectRefusal(generate + Words{"5,-6"}, kUsage, {"id 2 is '-6'"});
  const std::string ids = folder_.Path("ids.json");
  const Words eval = {"eval", "--model", model_, "--ids", ids};
  WriteWhole(ids, "[5, 6,\n 7, \"eight\"]");
  ExpectRefusal(eval, kFailed, {ids, "item 4 is \"eight\""});
  WriteWhole(ids, "[5, 6,\n 7 8]");
  ExpectRefusal(eval, kFailed, {ids, "no JSON from byte"});
  WriteWhole(ids, "{}");
  ExpectRefusal(eval, kFailed, {ids, "JSON list"});
  WriteWhole(ids, "[5, 6, 99999999]");
  ExpectRefusal(eval + Words{"--window", "3"}, kFailed,
                {"token id 99999999, the 3. of all"});
}

TEST_F(WrongInputTest, BosIsForTexts) {
  const std::string ids = folder_.Path("ids.json");
  WriteWhole(ids, "[5, 6, 7]");
  ExpectRefusal({"eval", "--model", model_, "--ids", ids, "--bos", "no"},
                kUsage, {"--bos"});
  WriteWhole(ids, R"({"context": "A", "choices": [" b"], "answer": 0})");
  ExpectRefusal({"eval", "--model", model_, "--choices", ids, "--bos", "no"},
                kUsage, {"--bos"});
}

TEST_F(WrongInputTest, EmptyCalibrationText) {
  WriteWhole(text_, "");
  ExpectRefusal(Adapt(), kFailed, {text_});
}

TEST_F(WrongInputTest, CalibrationTextOfAFewWords) {
  ExpectRefusal(Adapt(), kFailed, {"token"});
}

TEST_F(WrongInputTest, CalibrationIdsThatAreNone) {
  const std::string ids = folder_.Path("ids.json");
  const Words adapt = {"adapt",
                       "--model",
                       model_,
                       "--calibration-ids",
                       ids,
                       "--out",
                       folder_.Path("out.safetensors")};
  WriteWhole(ids, "[1, 2, \"three\"]");
  ExpectRefusal(adapt, kFailed, {ids});
  WriteWhole(ids, "[1, 2, 3]");
  ExpectRefusal(adapt, kFailed, {"token"});
}

TEST_F(WrongInputTest, OnlyTheMixtureHasSomethingToLeaveOut) {
  ExpectRefusal(Adapt() + Words{"--method", "teal", "--without", "refit"},
                kUsage, {"teal", "leave out"});
}

TEST_F(WrongInputTest, KeepOutsideItsRange) {
  for (const char* keep : {"0", "-0.5", "1.5", "nan", "half"}) {
    ExpectRefusal(Adapt() + Words{"--keep", keep}, kUsage, {"--keep", keep});
  }
}

TEST_F(WrongInputTest, UnwritableOutput) {
  const std::string nowhere = folder_.Path("none/out");
  ExpectRefusal(
      {"adapt", "--model", model_, "--calibration", text_, "--out", nowhere},
      kFailed, {nowhere});
  ExpectRefusal({"tune", "--model", model_, "--out", nowhere}, kFailed,
                {nowhere});
  ExpectRefusal({"tune", "--model", model_, "--out", model_}, kFailed,
                {model_});
  ExpectRefusal({"pack", "--model", model_, "--out", nowhere}, kFailed,
                {nowhere});
  // No user, root included, can make a folder below a file.
  const std::string below_a_file = text_ + "/synth";
  ExpectRefusal({"synth", "--preset", "tinyllama-1.1b", "--out", below_a_file},
                kFailed, {below_a_file});
}

TEST_F(WrongInputTest, IdsThatAreNone) {
  const std::string ids = folder_.Path("ids.json");
  for (const char* text : {"", "{}", "[]", "[1, \"two\"]", "[1, 2"}) {
    WriteWhole(ids, text);
    ExpectRefusal({"eval", "--model", model_, "--ids", ids}, kFailed, {ids});
  }
  ExpectRefusal({"eval", "--model", model_, "--ids", weights_}, kFailed,
                {weights_, "tensors"});
}

TEST_F(WrongInputTest, IdsOutsideTheVocabulary) {
  const std::string ids = folder_.Path("ids.json");
  for (const char* id : {"4096", "-1", "4294967297"}) {
    WriteWhole(ids, std::string("[1, 2, 3, ") + id + ", 4, 5, 6, 7]");
    ExpectRefusal({"eval", "--model", model_, "--ids", ids, "--window", "8"},
                  kFailed, {"4096"});
  }
}

TEST_F(WrongInputTest, QuestionsThatAreNone) {
  const std::string questions = folder_.Path("questions.jsonl");
  const std::string good =
      R"({"context": "A", "choices": [" b", " c"], "answer": 1})"
      "\n";
  const std::vector<std::pair<std::string, Words>> cases = {
      {"", {"no questions"}},
      {good + "A or b?\n", {"line 2", "JSON object"}},
      {good + "\n[1]\n", {"line 3", "JSON object"}},
      {R"({"choices": [" b", " c"], "answer": 1})", {"line 1", "'context'"}},
      {R"({"context": "", "choices": [" b", " c"], "answer": 1})",
       {"'context'"}},
      {R"({"context": "A", "choices": [" b"], "answer": 0})", {"'choices'"}},
      {R"({"context": "A", "choices": [" b", 2], "answer": 0})", {"'choices'"}},
      {R"({"context": "A", "choices": [" b", ""], "answer": 0})", {"\"\""}},
      {R"({"context": "A", "choices": [" b", " c"], "answer": 2})",
       {"'answer'", "2"}},
      {R"({"context": "A", "choices": [" b", " c"], "answer": -1})",
       {"'answer'", "-1"}},
      {R"({"context": "A", "choices": [" b", " c"]})", {"'answer'"}},
  };
  for (const auto& [text, parts] : cases) {
    WriteWhole(questions, text);
    ExpectRefusal({"eval", "--model", model_, "--choices", questions}, kFailed,
                  Words{questions} + parts);
  }
}

TEST_F(WrongInputTest, ShapesThatAreNone) {
  const std::string shapes = folder_.Path("shapes.json");
  const std::string table = folder_.Path("table.json");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "JSON"},
      {"{}", "JSON"},
      {R"([{"rows": 8}])", "cols"},
      {R"([{"rows": 0, "cols": 8}])", "rows"},
      {R"([{"rows": 8, "cols": 8, "operation": "fold"}])", "fold"},
      {R"([{"rows": 8, "cols": 8, "dtype": "i3"}])", "i3"},
      {R"([{"rows": 8, "cols": 8, "density": 2}])", "density"},
      {R"([{"rows": 8, "cols": 8, "activations": "i8"}])",
       "activations 'i8': dense in f32 takes f32"},
      {R"([{"rows": 8, "cols": 8, "dtype": "i4", "activations": "i4"}])",
       "activations 'i4': dense in i4 takes f32 or i8"},
      {R"([{"rows": 8, "cols": 8, "dtype": "i4", "activations": 8}])",
       "activations"},
  };
  for (const auto& [text, part] : cases) {
    WriteWhole(shapes, text);
    ExpectRefusal({"tune", "--shapes", shapes, "--out", table}, kFailed,
                  {shapes, part});
  }
  WriteWhole(shapes, R"([{"rows": 8, "cols": 8}])");
  ExpectRefusal(
      {"tune", "--shapes", shapes, "--out", table, "--activations", "i8"},
      kUsage, {"activations i8: are for"});
  // Every entry says its own.
  WriteWhole(shapes, R"([{"rows": 8, "cols": 8, "dtype": "i4",
                          "activations": "f32"}])");
  ExpectRefusal(
      {"tune", "--shapes", shapes, "--out", table, "--activations", "i8"},
      kUsage, {"activations i8: are for"});
}

TEST_F(WrongInputTest, UsageErrors) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{}, "subcommand"},
      {{"fly"}, "fly"},
      {{"env", "--fast"}, "--fast"},
      {{"env", "--threads", "0"}, "--threads"},
      {{"env", "--threads", "100000"}, "--threads"},
      {{"variants", "--filter", "("}, "--filter"},
      {Eval() + Words{"--dtype", "i3"}, "i4_group64"},
      {Eval() + Words{"--dtype", "i3"}, "stored"},
      {{"bench", "--preset", "llama-2-7b", "--dtype", "stored"}, "--model"},
      {{"tune", "--preset", "llama-2-7b", "--out", "t", "--dtype", "stored"},
       "--model"},
      {Eval() + Words{"--kv-dtype", "i4"}, "f32, bf16, f16, i8"},
      {Eval() + Words{"--activations", "i4"}, "f32, bf16, i8"},
      {Eval() + Words{"--activations", "i8"}, "activations i8: are for"},
      {Eval() + Words{"--dtype", "stored", "--activations", "i8"},
       "activations i8: are for"},
      {Eval() + Words{"--dtype", "i8", "--activations", "bf16"},
       "activations bf16: are for"},
      {{"tune", "--preset", "llama-2-7b", "--out", "t", "--activations", "i8"},
       "activations i8: are for"},
      {{"optimize", "--model", model_, "--calibration", text_, "--front",
        "--types", "f16", "--activations", "i8", "--out", "o"},
       "activations i8: are for"},
      {Adapt() + Words{"--activations", "i8"}, "--activations"},
      {Eval() + Words{"--against-exact", "--against-dense"}, "--against"},
      {{"eval", "--model", model_}, "--text"},
      {{"eval", "--model", model_, "--choices", text_, "--window", "8"},
       "--window"},
      {Eval() + Words{"--layers"}, "--adapter"},
      {{"bench", "--model", model_, "--context", "16,0"}, "--context"},
      {{"bench", "--model", model_, "--rounds", "9"}, "--compare"},
      {{"bench", "--model", model_, "--tolerance", "0.1"}, "--compare"},
      {{"bench", "--model", model_, "--compare", "no-such-program"},
       "no-such-program"},
      {{"bench", "--model", model_, "--compare", folder_.Path("")},
       "--compare"},
      {{"bench", "--model", model_, "--compare", text_, "--rounds", "4"},
       "--rounds"},
      {{"bench", "--model", model_, "--compare", text_, "--tolerance", "nan"},
       "--tolerance"},
      {{"bench", "--model", model_, "--compare", text_, "--tolerance", "-1"},
       "--tolerance"},
      {{"report", "--out", "page.html"}, "--models"},
      {{"tune", "--preset", "llama-9", "--out", "t.json"}, "llama-2-7b"},
      {{"tune", "--model", model_, "--keep", "0.5", "--out", "t"}, "--preset"},
      {{"tune", "--preset", "llama-2-7b"}, "--out"},
      {{"table", "show"}, "TABLE"},
      {{"table", "explain"}, "model"},
      {{"table", "merge", "--out", "t.json"}, "TABLES"},
      {{"table", "diff", "only-one.json"}, "only-one.json"},
      {{"report", "--out", "r.html"}, "TABLES"},
      {Adapt() + Words{"--method", "magic"}, "magic"},
      {Adapt() + Words{"--without", "magic"}, "magic"},
      {Adapt() + Words{"--calibration-ids", text_}, "--calibration-ids"},
      {Adapt() + Words{"--objective", "speed"}, "--objective"},
      {Adapt() + Words{"--objective", "time"}, "--table"},
      {Adapt() + Words{"--table", text_}, "--table"},
      {{"adapt", "--model", model_, "--out", "a"}, "--calibration-ids"},
      {{"generate", "--model", model_, "--prompt", "a", "--top-p", "2"},
       "--top-p"},
      {{"generate", "--model", model_, "--prompt", ""}, "--prompt"},
  };
  for (const auto& [arguments, part] : cases) {
    ExpectRefusal(arguments, kUsage, {part});
  }
}

}  // namespace
}  // namespace rankforge
