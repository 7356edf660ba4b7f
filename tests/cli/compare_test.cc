// `bench --compare` against programs that print what a test wants. Their times
// are a million times longer or shorter than those of the program under test,
// so that no test rests on how long anything takes here.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "program.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::json;
using Words = std::vector<std::string>;

constexpr double kLong = 1e6;
constexpr double kShort = 1e-6;

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// Passes every time of a document to `edit`.
void EachTime(Json& node, const std::function<void(Json&)>& edit) {
  if (!node.is_structured()) return;
  for (const auto& [key, value] : node.items()) {
    if (node.is_object() && key.ends_with("ms_per_token")) {
      edit(value);
    } else {
      EachTime(value, edit);
    }
  }
}

Json Scaled(Json document, double factor) {
  EachTime(document, [&](Json& ms) { ms = ms.get<double>() * factor; });
  return document;
}

void SetKind(Json& document, const std::string& kind, double ms) {
  for (const char* stages : {"stages", "dense_stages"}) {
    document[stages][kind]["ms_per_token"] = ms;
  }
}

class CompareTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeCheckpoint(model_);
    // On a loaded machine a roofline above 1 may fail it.
    document_ =
        Json::parse(RunProgram(bench_ + Words{"--json"}).out, nullptr, false);
    ASSERT_TRUE(document_.is_object());
    for (const auto& [kind, stage] : document_["stages"].items()) {
      if (kind != "between") kinds_.push_back(kind);
    }
    ASSERT_GT(kinds_.size(), 2u);
    long_ = Scaled(document_, kLong);
  }

  // A shell script that counts how often it runs, and its path.
  std::string Script(const std::string& body) {
    WriteWhole(other_, "#!/bin/sh\necho \"$@\" >> " + calls_ + "\n" + body);
    fs::permissions(other_, fs::perms::owner_all);
    fs::remove(calls_);
    return other_;
  }

  // One that prints `document`.
  std::string Prints(const Json& document, const std::string& more = "") {
    WriteWhole(folder_.Path("document"), document.dump());
    return Script("echo progress >&2\ncat " + folder_.Path("document") + "\n" +
                  more);
  }

  // One that prints `first` in the first rounds and then `then`.
  std::string PrintsFirst(const Json& first, const Json& then) {
    WriteWhole(folder_.Path("first"), first.dump());
    WriteWhole(folder_.Path("then"), then.dump());
    return Script("if [ $(wc -l < " + calls_ + ") -le 5 ]\nthen cat " +
                  folder_.Path("first") + "\nelse cat " + folder_.Path("then") +
                  "\nfi\n");
  }

  size_t Calls() const {
    const std::string calls = ReadWhole(calls_);
    return static_cast<size_t>(std::ranges::count(calls, '\n'));
  }

  ProgramResult Compare(const std::string& other, const Words& more = {}) {
    return RunProgram(bench_ + Words{"--compare", other} + more);
  }

  // The document of a comparison that ends with `exit_code`.
  Json CompareForJson(const std::string& other, int exit_code,
                      const Words& more = {}) {
    const ProgramResult result = Compare(other, Words{"--json"} + more);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    const Json report = Json::parse(result.out, nullptr, false);
    EXPECT_TRUE(report.is_object()) << result.out;
    return report;
  }

  // Expects a comparison to fail with one message that holds `parts`.
  void ExpectFailure(const std::string& other, const Words& parts) {
    const ProgramResult result = Compare(other);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_EQ(result.out, "");
    const Words messages = result.Messages();
    ASSERT_EQ(messages.size(), 1u) << result.err;
    for (const std::string& part : parts + Words{other_}) {
      EXPECT_NE(messages[0].find(part), std::string::npos)
          << messages[0] << "\n does not mention: " << part;
    }
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
  const std::string other_ = folder_.Path("other");
  const std::string calls_ = folder_.Path("calls");
  const Words bench_ = {"bench", "--model",   model_, "--context", "4,2", "-n",
                        "4",     "--threads", "1",    "--seed",    "3"};
  Json document_;  // of the program under test
  Json long_;      // the same with long times
  Words kinds_;    // of products
};

TEST_F(CompareTest, NamesTheEntryThatFell) {
  SetKind(long_, kinds_[1], kShort);
  const std::string other = Prints(long_);
  const ProgramResult text = Compare(other);
  EXPECT_EQ(text.exit_code, 1);
  const Words messages = text.Messages();
  ASSERT_FALSE(messages.empty()) << text.err;
  EXPECT_NE(messages.back().find("dense " + kinds_[1] + " "), std::string::npos)
      << text.err;
  EXPECT_EQ(messages.back().find("dense " + kinds_[0] + " "), std::string::npos)
      << text.err;
  EXPECT_NE(text.out.find("  slower\n"), std::string::npos) << text.out;
  EXPECT_EQ(Calls(), 10u) << "a loss is confirmed by as many rounds again";

  const Json report = CompareForJson(other, 1);
  EXPECT_EQ(report["slower"], Json({"dense " + kinds_[1]}));
  EXPECT_EQ(report["repeated"], true);
  EXPECT_EQ(report["other"], other_);
  EXPECT_EQ(report["work"]["threads"], 1);
}

TEST_F(CompareTest, EveryEntryHasItsRatio) {
  const Json report = CompareForJson(Prints(long_), 0);
  EXPECT_EQ(Calls(), 5u);
  EXPECT_EQ(report["repeated"], false);
  Words names;
  for (const Json& entry : report["entries"]) {
    names.push_back(entry["name"]);
    EXPECT_EQ(entry["verdict"], "faster") << entry;
    EXPECT_LE(entry["low"], entry["ratio"]) << entry;
    EXPECT_LE(entry["ratio"], entry["high"]) << entry;
    EXPECT_LT(entry["high"], 1) << entry;
    EXPECT_EQ(entry["ratios"].size(), 5u) << entry;
  }
  Words wanted = {"dense token median", "dense token mean",
                  "dense token median at context 2", "dense between"};
  for (const std::string& kind : kinds_) wanted.push_back("dense " + kind);
  std::ranges::sort(names);
  std::ranges::sort(wanted);
  EXPECT_EQ(names, wanted);
  EXPECT_EQ(report["slower"], Json::array());
  EXPECT_EQ(report["unclear"], Json::array());
  EXPECT_EQ(report["only_here"], Json::array());
  EXPECT_EQ(report["only_there"], Json::array());
}

TEST_F(CompareTest, TheMeanIsTheSumOfTheStages) {
  const Json report = CompareForJson(Prints(long_), 0);
  double sum = 0;
  for (const auto& [kind, stage] : long_["dense_stages"].items()) {
    sum += stage["ms_per_token"].get<double>();
  }
  for (const Json& entry : report["entries"]) {
    if (entry["name"] != "dense token mean") continue;
    EXPECT_NEAR(entry["other_ms"].get<double>(), sum, 1e-5 * sum);
  }
}

// The programs get the options of the command line, without those that are for
// the comparison.
TEST_F(CompareTest, BothRunTheSame) {
  CompareForJson(Prints(long_), 0, {"--rounds", "6", "--tolerance", "0.5"});
  const std::string calls = ReadWhole(calls_);
  EXPECT_EQ(Calls(), 6u);
  const std::string call = calls.substr(0, calls.find('\n'));
  EXPECT_TRUE(call.starts_with("bench ")) << call;
  for (const std::string& part :
       {std::string("--context 4,2"), "--model " + model_, std::string("-n 4"),
        std::string("--threads 1"), std::string("--seed 3"),
        std::string("--json")}) {
    EXPECT_NE(call.find(part), std::string::npos) << call;
  }
  for (const char* part : {"--compare", "--rounds", "--tolerance", "--help"}) {
    EXPECT_EQ(call.find(part), std::string::npos) << call;
  }
}

// The adapted model is compared where it is another one.
TEST_F(CompareTest, BothModelsAreCompared) {
  const Words skip = {"--skip-layers", "1", "--always-on", "1,0"};
  const Json document = Json::parse(
      RunProgram(bench_ + skip + Words{"--json"}).out, nullptr, false);
  ASSERT_TRUE(document.is_object());
  Json fell = Scaled(document, kLong);
  fell["decode_ms_per_token"] = kShort;
  fell["by_context"][1]["decode_ms_per_token"] = kShort;
  const Json report = CompareForJson(Prints(fell), 1, skip);
  EXPECT_EQ(report["slower"], Json({"adapted token median",
                                    "adapted token median at context 2"}));
  EXPECT_NE(ReadWhole(calls_).find("--always-on 1,0"), std::string::npos);
}

TEST_F(CompareTest, EntriesOfOneProgramAreListed) {
  for (const char* stages : {"stages", "dense_stages"}) {
    long_[stages].erase(kinds_[0]);
    long_[stages][kinds_[1]]["ms_per_token"] = 0;
    long_[stages]["mlp.extra"] = {{"ms_per_token", 5}};
  }
  const std::string other = Prints(long_);
  const Json report = CompareForJson(other, 0);
  EXPECT_EQ(report["only_here"],
            Json({"dense " + kinds_[0], "dense " + kinds_[1]}));
  EXPECT_EQ(report["only_there"], Json({"dense mlp.extra"}));
  const std::string text = Compare(other).out;
  EXPECT_NE(text.find("only in " + other_ + ": dense mlp.extra\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(": dense " + kinds_[0] + ", dense " + kinds_[1] + "\n"),
            std::string::npos)
      << text;
}

TEST_F(CompareTest, NothingInCommonIsAnError) {
  Json other = Scaled(document_, 0);
  SetKind(other, "mlp.extra", 0);
  const ProgramResult result = Compare(Prints(other));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("has no entry"), std::string::npos) << result.err;
}

// What looks slow once and not again is not named, nor what looks slow only in
// the rounds that were to confirm another.
TEST_F(CompareTest, ALossMustShowTwice) {
  Json first = long_;
  SetKind(first, kinds_[0], kShort);
  Json then = long_;
  SetKind(then, kinds_[1], kShort);
  const Json report = CompareForJson(PrintsFirst(first, then), 0);
  EXPECT_EQ(Calls(), 10u);
  EXPECT_EQ(report["repeated"], true);
  EXPECT_EQ(report["slower"], Json::array());
  EXPECT_EQ(report["unclear"], Json({"dense " + kinds_[1]}));
}

TEST_F(CompareTest, MessagesArePassedOnOnce) {
  const ProgramResult result =
      Compare(Prints(long_, "echo 'rankforge: a note' >&2\n"));
  EXPECT_EQ(result.exit_code, 0);
  const Words messages = result.Messages();
  EXPECT_EQ(std::ranges::count(messages, "rankforge: " + other_ + ": a note"),
            1)
      << result.err;
  EXPECT_EQ(result.err.find("progress"), std::string::npos) << result.err;
}

// A program that found a roofline above 1 has printed times that count.
TEST_F(CompareTest, ARooflineAboveOneIsSaid) {
  long_["by_context"][1]["roofline"] = 1.5;
  const std::string fails =
      "echo 'rankforge: a note' >&2\n"
      "echo 'rankforge: roofline 1.5 is above 1' >&2\nexit 1\n";
  const ProgramResult result = Compare(Prints(long_, fails));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("above 1 in 5 of 5 runs"), std::string::npos)
      << result.err;
  EXPECT_NE(result.err.find(": a note\n"), std::string::npos) << result.err;
  // An exit code of 1 for no such reason.
  for (Json& at : long_["by_context"]) {
    at["roofline"] = at["dense_roofline"] = 0.5;
  }
  long_["roofline"] = long_["dense_roofline"] = 0.5;
  ExpectFailure(Prints(long_, fails), {"exit code 1", "roofline 1.5"});
}

TEST_F(CompareTest, OtherWorkIsAnError) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, Json>>{{"threads", 2},
                                                 {"layers", 1},
                                                 {"dtype", "bf16"},
                                                 {"activations", {{"i8", 1.0}}},
                                                 {"model", "another"}}) {
    Json other = long_;
    other[field] = value;
    ExpectFailure(Prints(other), {"'" + field + "' " + document_[field].dump(),
                                  "with " + value.dump()});
    EXPECT_EQ(Calls(), 1u);
  }
}

// Programs that know no activations have exact inputs.
TEST_F(CompareTest, MissingActivationsAreExact) {
  long_.erase("activations");
  EXPECT_EQ(Compare(Prints(long_)).exit_code, 0);
}

TEST_F(CompareTest, OtherAmountsOfWorkAreSaid) {
  long_["bytes_per_token"] = 1.25 * document_["bytes_per_token"].get<double>();
  long_.erase("tuned");
  const ProgramResult result = Compare(Prints(long_));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_NE(result.err.find("'bytes_per_token'"), std::string::npos);
  EXPECT_EQ(result.err.find("'dense_bytes_per_token'"), std::string::npos);
}

TEST_F(CompareTest, EntriesThatComeAndGoAreAnError) {
  Json then = long_;
  for (const char* stages : {"stages", "dense_stages"}) {
    then[stages].erase(kinds_[0]);
  }
  WriteWhole(folder_.Path("first"), long_.dump());
  WriteWhole(folder_.Path("then"), then.dump());
  ExpectFailure(Script("if [ $(wc -l < " + calls_ + ") -le 2 ]\nthen cat " +
                       folder_.Path("first") + "\nelse cat " +
                       folder_.Path("then") + "\nfi\n"),
                {"'dense " + kinds_[0] + "'", "some runs"});
}

TEST_F(CompareTest, OtherDocumentsAreNamed) {
  const auto without = [&](const char* key) {
    Json document = document_;
    document.erase(key);
    return document.dump();
  };
  const auto with = [&](const char* key, const Json& value) {
    Json document = document_;
    document[key] = value;
    return document.dump();
  };
  Json stage = document_;
  SetKind(stage, kinds_[0], -1);
  Json twice = document_;
  twice["by_context"].push_back(twice["by_context"][1]);
  const std::string whole = document_.dump();
  const std::vector<std::pair<std::string, Words>> cases = {
      {"", {"no JSON"}},
      {"hello", {"no JSON"}},
      {whole.substr(0, whole.size() / 2), {"ends too early"}},
      {whole + whole, {"no JSON"}},
      {"[]", {"an object"}},
      {"{}", {"missing"}},
      {without("dense_ms_per_token"), {"'dense_ms_per_token'", "missing"}},
      {without("dense_stages"), {"dense_stages", "missing"}},
      {without("threads"), {"'threads'", "missing"}},
      {with("dense_ms_per_token", "5"), {"'dense_ms_per_token'", "\"5\""}},
      {with("dense_ms_per_token", -5), {"'dense_ms_per_token'", "-5"}},
      {with("dense_ms_per_token", nullptr), {"'dense_ms_per_token'", "null"}},
      {with("dense_stages", 5), {"'dense_stages'", "5"}},
      {with("read_gbps", 0), {"'read_gbps'", "0"}},
      {with("by_context", Json({5, 5})), {"by_context[0]", "5"}},
      {stage.dump(), {kinds_[0], "ms_per_token", "-1"}},
      {twice.dump(), {"by_context[2].context"}},
  };
  for (const auto& [text, parts] : cases) {
    WriteWhole(folder_.Path("text"), text);
    ExpectFailure(Script("cat " + folder_.Path("text") + "\n"), parts);
  }
}

TEST_F(CompareTest, ProgramsThatFailAreNamed) {
  const std::vector<std::pair<std::string, Words>> cases = {
      {"exit 1", {"exit code 1", "it says nothing"}},
      {"echo a >&2; echo why >&2; exit 7",
       {"exit code 7", "why", "name a rankforge"}},
      {"echo 'rankforge: no option --x' >&2; echo more >&2; exit 2",
       {"exit code 2", "no option --x", "options that both have"}},
      {"kill -9 $$", {"signal 9"}},
      {"cat " + folder_.Path("document") + "; kill -11 $$", {"signal 11"}},
      {"exec yes", {"more than", "bytes"}},
      {"exec yes >&2", {"more than", "bytes"}},
  };
  Prints(long_);
  for (const auto& [body, parts] : cases) {
    ExpectFailure(Script(body + "\n"), parts);
    EXPECT_EQ(Calls(), 1u);
  }
}

TEST_F(CompareTest, FilesThatDoNotRunAreNamed) {
  WriteWhole(other_, "a text");
  ExpectFailure(other_, {"cannot be run", "--compare"});
  fs::permissions(other_, fs::perms::owner_all);
  ExpectFailure(other_, {"cannot run", "--compare"});
}

TEST_F(CompareTest, AProgramThatIsReplacedMeanwhileIsNamed) {
  ExpectFailure(Prints(long_, "touch -d '2 days ago' \"$0\"\n"),
                {"was replaced"});
  EXPECT_EQ(Calls(), 1u);
}

// The signal reaches the program that is running, which would sleep on.
TEST_F(CompareTest, AnInterruptEndsBoth) {
  const std::string ended = folder_.Path("ended");
  const ProgramResult result =
      Compare(Script("trap 'touch " + ended +
                     "; exit 1' TERM\nkill -TERM $PPID\n"
                     "while :; do sleep 0.05; done\n"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("interrupted"), std::string::npos) << result.err;
  EXPECT_TRUE(fs::exists(ended));
  EXPECT_EQ(Calls(), 1u);
}

// The program compared with itself is one program: whatever the times say, the
// entries are the same.
TEST_F(CompareTest, ReadsWhatItPrints) {
  const ProgramResult result = Compare(kTestedProgram, {"--json"});
  const Json report = Json::parse(result.out, nullptr, false);
  ASSERT_TRUE(report.is_object()) << result.err;
  EXPECT_EQ(result.exit_code, report["slower"].empty() ? 0 : 1);
  EXPECT_EQ(report["only_here"], Json::array());
  EXPECT_EQ(report["only_there"], Json::array());
  EXPECT_EQ(report["entries"].size(), kinds_.size() + 4);
}

}  // namespace
}  // namespace rankforge
