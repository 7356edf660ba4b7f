// `rankforge generate` as a shell runs it: pipes, closed streams, chats.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "program.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

class GenerateCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeCheckpoint(model_);
    std::filesystem::create_directory(folder_.Path("bin"));
    std::filesystem::create_symlink(kTestedProgram, folder_.Path("bin/rf"));
  }

  // Runs a script in which "rf" is the program and $M the model.
  ChildResult Shell(const std::string& script) const {
    const Result<ChildResult> child =
        RunChild({"sh", "-c",
                  "unset RANKFORGE_TABLE; M=" + model_ +
                      "; PATH=" + folder_.Path("bin") + ":$PATH; cd " +
                      folder_.Path("") + "; " + script});
    EXPECT_TRUE(child.ok());
    return *child;
  }
  std::string Output(const std::string& script) const {
    const ChildResult child = Shell(script);
    EXPECT_EQ(child.exit_code, 0) << script << "\n" << child.output;
    return child.output;
  }
  static Json Parsed(const std::string& text) {
    return Json::parse(text, nullptr, false);
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
};

TEST_F(GenerateCommandTest, ReadsPromptsFromPipesAndFiles) {
  const std::string end = " -n 6 2>/dev/null";
  const std::string expected =
      Output("rf generate --model $M --prompt 'Once upon'" + end);
  EXPECT_EQ(expected.find("Once upon"), 0u) << expected;
  for (const char* source :
       {"printf 'Once upon\\n' | rf generate --model $M",
        "printf 'Once upon' | rf generate --model $M --prompt-file -",
        "echo 'Once upon' >p; rf generate --model $M --prompt-file p"}) {
    EXPECT_EQ(Output(source + end), expected) << source;
  }
  const std::string loss =
      "printf 'Once upon a time there was a dog.' | rf eval --model $M "
      "--window 4 --text ";
  EXPECT_EQ(Output(loss + "- 2>/dev/null"),
            Output(loss + "/dev/stdin 2>/dev/null"));
}

TEST_F(GenerateCommandTest, EndsAtTheContext) {
  const Json all =
      Parsed(Output("rf generate --model $M --prompt-ids 5,6,7 --json -n "
                    "18446744073709551615 2>/dev/null"));
  const Json one = Parsed(Output(
      "rf generate --model $M --prompt-ids 5,6,7 --json -n 1 2>/dev/null"));
  EXPECT_EQ(one["ended"], "length");
  const std::string ended = all["ended"];
  EXPECT_TRUE(ended == "context" || ended == "eos") << ended;
  EXPECT_EQ(all["ids"][0], one["ids"][0]);
}

TEST_F(GenerateCommandTest, StopsAtAText) {
  const std::string command =
      "rf generate --model $M --prompt 'Once upon' --json -n 12 2>/dev/null ";
  const std::string text = Parsed(Output(command))["text"];
  ASSERT_GT(text.size(), 8u);
  const Json stopped = Parsed(Output(command + "--stop '" + text.substr(4, 3) +
                                     "' --stop never-there"));
  EXPECT_EQ(stopped["text"], text.substr(0, text.find(text.substr(4, 3))));
  EXPECT_EQ(stopped["ended"], "stop");
}

// A log that nobody can write to loses messages and nothing else.
TEST_F(GenerateCommandTest, WorksWithoutStderr) {
  const std::string command = "rf generate --model $M --prompt-ids 5 -n 3 ";
  const std::string expected = Output(command + "2>/dev/null");
  for (const char* stderr_to : {"2>&-", "2>/dev/full", "2>closed"}) {
    if (stderr_to == std::string("2>closed")) {
      EXPECT_EQ(Output("{ { " + command + "2>&3; } 3>&1 >&4 | true; } 4>&1"),
                expected);
      continue;
    }
    EXPECT_EQ(Output(command + stderr_to), expected) << stderr_to;
  }
  EXPECT_EQ(Shell(command + ">/dev/full 2>/dev/null").exit_code, 1);
}

TEST_F(GenerateCommandTest, AMissingTableCostsALine) {
  const std::string command = "rf generate --model $M --prompt-ids 5 -n 3 ";
  const std::string expected = Output(command + "2>/dev/null");
  EXPECT_EQ(Output("RANKFORGE_TABLE=none.json " + command + "2>err"), expected);
  EXPECT_NE(Output("cat err").find("none.json"), std::string::npos);
  EXPECT_EQ(Output(command + "--table none.json 2>/dev/null"), expected);
  EXPECT_EQ(Shell("rf table show").exit_code, 2);
}

TEST_F(GenerateCommandTest, AChatAppliesTheTemplate) {
  WriteWhole(folder_.Path("model/tokenizer_config.json"),
             R"({"bos_token": {"content": "<s>"}, "chat_template": )"
             R"("{% for m in messages %}{{ m.role }}: {{ m.content }}\n)"
             R"({% endfor %}{% if add_generation_prompt %}tom:{% endif %}"})");
  const std::string tail = " --json -n 5 2>/dev/null";
  const Json expected =
      Parsed(Output("rf generate --model $M --prompt \"$(printf 'system: "
                    "be\\nuser: hi\\ntom:')\"" +
                    tail));
  ASSERT_FALSE(expected["ids"].empty());
  EXPECT_EQ(Parsed(Output("rf generate --model $M --chat --system be --prompt "
                          "hi" +
                          tail))["prompt_ids"],
            expected["prompt_ids"]);
  WriteWhole(folder_.Path("m.json"),
             R"([{"role": "system", "content": "be"},
                 {"role": "user", "content": "hi"}])");
  EXPECT_EQ(
      Parsed(Output("rf generate --model $M --messages m.json" + tail))["ids"],
      expected["ids"]);
  // The second turn reads what the first one left in the cache.
  const std::string text = expected["text"];
  const std::string turns = Output(
      "printf 'hi\\n' | rf generate --model $M --interactive --system be -n 5 "
      "2>/dev/null");
  EXPECT_EQ(turns, text + "\n");
}

// A trained model, whose stories repeat words, and a prompt that does.
constexpr char kStory[] = RANKFORGE_SOURCE_DIR "/examples/models/llama-gqa-7m";
constexpr char kRepeats[] =
    " --prompt 'Tom has a red ball. Sue has a red ball, too. Tom said, \"I "
    "have a red ball.\" Sue said, \"I have' ";

TEST_F(GenerateCommandTest, LookupGivesTheSameTokens) {
  Output(std::string("rf adapt --model ") + kStory + " --calibration " +
         RANKFORGE_SOURCE_DIR +
         "/examples/models/text/calibration.txt --tokens 256 --method teal "
         "--keep 0.7 --out teal.st 2>/dev/null");
  size_t accepted = 0;
  for (const char* options :
       {"-n 3", "-n 40 --dtype bf16 --threads 1",
        "-n 40 --dtype i8_group32 --kv-dtype i8", "-n 40 --adapter teal.st",
        "-n 40 --skip-layers 1,2", "-n 40 --temperature 0.4 --seed 5",
        "-n 40 --repetition-penalty 1.3", "-n 100000"}) {
    const std::string command = std::string("rf generate --model ") + kStory +
                                kRepeats + "--json 2>/dev/null " + options;
    const Json expected = Parsed(Output(command));
    EXPECT_FALSE(expected.contains("drafted"));
    for (const char* most : {"1", "4", "15"}) {
      const Json drafted = Parsed(Output(command + " --lookup " + most));
      for (const char* key : {"ids", "text", "ended", "prompt_ids"}) {
        EXPECT_EQ(drafted[key], expected[key]) << options << ", " << most;
      }
      EXPECT_LE(drafted["accepted"], drafted["drafted"]);
      EXPECT_GE(drafted["tokens_per_pass"], 1);
      EXPECT_GT(drafted["passes"], 0);
      accepted += drafted["accepted"].get<size_t>();
    }
  }
  EXPECT_GT(accepted, 100u);
  const std::string told =
      Output(std::string("rf generate --model ") + kStory + kRepeats +
             "-n 30 --lookup 7 2>&1 >/dev/null");
  EXPECT_NE(told.find("drafted "), std::string::npos) << told;
  EXPECT_NE(told.find(" tokens each"), std::string::npos) << told;
  // The only token comes of the prompt: no pass, and nothing to say.
  const std::string one = Output(std::string("rf generate --model ") + kStory +
                                 kRepeats + "-n 1 --lookup 7 2>&1 >/dev/null");
  EXPECT_NE(one.find("1 tokens; "), std::string::npos) << one;
  EXPECT_EQ(one.find("drafted "), std::string::npos) << one;
}

TEST_F(GenerateCommandTest, LookupStopsAtTheSameText) {
  const std::string command = std::string("rf generate --model ") + kStory +
                              kRepeats + "-n 40 2>/dev/null ";
  const std::string text = Parsed(Output(command + "--json"))["text"];
  size_t stops = 0;
  for (size_t at = 11; at + 4 <= text.size() && stops < 4; at += 13) {
    const std::string stop = text.substr(at, 4);
    if (stop.find_first_of("'\"\n") != std::string::npos) continue;
    const std::string stopping = command + "--stop '" + stop + "'";
    EXPECT_EQ(Output(stopping + " --lookup 6"), Output(stopping));
    ++stops;
  }
  EXPECT_EQ(stops, 4u);
}

TEST_F(GenerateCommandTest, LookupInAConversation) {
  WriteWhole(folder_.Path("model/chat_template.jinja"),
             "{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
             "{% endfor %}{% if add_generation_prompt %}tom:{% endif %}");
  const std::string turns =
      "printf 'hi hi hi\nhi hi\nhi\n' | rf generate --model $M --interactive "
      "-n 40 2>err";
  EXPECT_EQ(Output(turns + " --lookup 9"), Output(turns));
  Output(turns + " --lookup 9");
  const std::string told = Output("grep -c 'drafted' err");
  EXPECT_EQ(told, "3\n");
}

TEST_F(GenerateCommandTest, WhatAChatNeeds) {
  const auto refusal = [&](const std::string& arguments) {
    const ChildResult child = Shell("rf generate --model $M " + arguments);
    EXPECT_NE(child.exit_code, 0) << arguments;
    return child.output;
  };
  EXPECT_NE(refusal("--chat --prompt hi").find("no chat template"),
            std::string::npos);
  EXPECT_NE(refusal("--system be --prompt hi").find("--chat"),
            std::string::npos);
  WriteWhole(folder_.Path("model/chat_template.jinja"),
             "{% if messages %}\n\n{{ raise_exception('only users') }}"
             "{% endif %}");
  EXPECT_NE(refusal("--chat --prompt hi")
                .find("chat template: line 3: TemplateError: only users"),
            std::string::npos);
  WriteWhole(folder_.Path("model/chat_template.jinja"), "\n{% if %}");
  EXPECT_NE(refusal("--chat --prompt hi")
                .find("chat template: line 2: TemplateSyntaxError"),
            std::string::npos);
  // A template that renders nothing leaves nothing to continue.
  WriteWhole(folder_.Path("model/chat_template.jinja"), "{# nothing #}");
  EXPECT_NE(refusal("--chat --prompt hi").find("has no tokens"),
            std::string::npos);
  EXPECT_NE(refusal("--interactive <<EOF\nhi\nEOF\n").find("makes no tokens"),
            std::string::npos);
  // A module beside the model is not Python's.
  WriteWhole(folder_.Path("json.py"), "open('reached', 'w')\n");
  refusal("--chat --prompt hi");
  EXPECT_FALSE(std::filesystem::exists(folder_.Path("reached")));
  // One that never ends is ended.
  WriteWhole(folder_.Path("model/chat_template.jinja"),
             "{% for i in range(99999) %}{% for j in range(99999) %}"
             "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
             "{% endfor %}{% endfor %}");
  EXPECT_NE(refusal("--chat --prompt hi").find("chat template"),
            std::string::npos);
  // The sandbox keeps a template from reaching Python.
  WriteWhole(folder_.Path("model/chat_template.jinja"),
             "{{ messages.__class__.__mro__[1].__subclasses__() }}");
  EXPECT_NE(refusal("--chat --prompt hi").find("SecurityError"),
            std::string::npos);
  WriteWhole(folder_.Path("m.json"), R"([{"role": "user"}])");
  EXPECT_NE(refusal("--messages m.json").find("message 0 is"),
            std::string::npos);
}

// What a command reads is not what it writes.
TEST_F(GenerateCommandTest, OutputsAreNoInputs) {
  const std::string weights =
      ReadWhole(folder_.Path("model/model.safetensors"));
  WriteWhole(folder_.Path("cal.txt"), "Once upon a time there was a dog.");
  for (const char* command :
       {"rf pack --model $M --out $M/model.safetensors",
        "rf pack --model $M --out $M/config.json",
        "rf adapt --model $M --calibration cal.txt --tokens 8 --method teal "
        "--out $M/model.safetensors",
        "rf adapt --model $M --calibration cal.txt --tokens 8 --method teal "
        "--out ./cal.txt"}) {
    const ChildResult child = Shell(command);
    EXPECT_EQ(child.exit_code, 2) << command << "\n" << child.output;
    EXPECT_NE(child.output.find("name another"), std::string::npos) << command;
  }
  EXPECT_EQ(ReadWhole(folder_.Path("model/model.safetensors")), weights);
  EXPECT_EQ(ReadWhole(folder_.Path("cal.txt")),
            "Once upon a time there was a dog.");
  // A limit of the size of files is an error, and nothing is left.
  const ChildResult limited =
      Shell("ulimit -f 1; rf pack --model $M --out p.rfpack");
  EXPECT_EQ(limited.exit_code, 1) << limited.output;
  EXPECT_FALSE(std::filesystem::exists(folder_.Path("p.rfpack")));
}

TEST_F(GenerateCommandTest, NumbersAreNumbers) {
  for (const char* option :
       {"--temperature nan", "--min-p nan", "--top-p 2", "--top-k -1", "-n 0",
        "-n -1", "--seed -1", "--repetition-penalty 0", "--tau-scale nan",
        "--lookup 16", "--lookup -1", "--lookup x"}) {
    const ChildResult child =
        Shell(std::string("rf generate --model $M --prompt-ids 5 ") + option);
    EXPECT_EQ(child.exit_code, 2) << option << "\n" << child.output;
    EXPECT_LT(child.output.size(), 120u) << child.output;
  }
}

}  // namespace
}  // namespace rankforge
