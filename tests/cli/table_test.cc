// A table that cannot be used changes no output and is reported once.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "program.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class TableTest : public testing::Test {
 protected:
  // All tests start from one table: tuning takes longer than each of them.
  void SetUp() override {
    MakeCheckpoint(model_);
    static const std::string tuned_once = [&] {
      const ProgramResult tuned = RunProgram(Tune());
      EXPECT_EQ(tuned.exit_code, 0) << tuned.err;
      return ReadWhole(table_);
    }();
    WriteWhole(table_, tuned_once);
  }

  Words Tune() const {
    return {"tune",     "--model",       model_,  "--rigor",
            "estimate", "--budget",      "60s",   "--threads",
            "1",        "--allow-noise", "--out", table_};
  }
  Words Generate() const {
    return {"generate", "--model", model_,      "--prompt", "Once upon a time",
            "-n",       "16",      "--threads", "1"};
  }

  // Expects the output of an untuned run, with one message that holds `part`.
  void ExpectUntuned(const std::string& part) {
    Words with_table = Generate();
    with_table.insert(with_table.end(), {"--table", table_});
    const ProgramResult untuned = RunProgram(Generate());
    for (const ProgramResult& result :
         {RunProgram(with_table),
          RunProgram(Generate(), {"RANKFORGE_TABLE=" + table_})}) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.out, untuned.out);
      const std::vector<std::string> messages = result.Messages();
      ASSERT_EQ(messages.size(), 1u) << result.err;
      EXPECT_NE(messages[0].find(table_), std::string::npos) << messages[0];
      EXPECT_NE(messages[0].find(part), std::string::npos) << messages[0];
    }
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.Path("model");
  const std::string table_ = folder_.Path("table.json");
};

TEST_F(TableTest, UsableTablesAreSilent) {
  Words arguments = Generate();
  arguments.insert(arguments.end(), {"--table", table_});
  const ProgramResult result = RunProgram(arguments);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.Messages().size(), 0u) << result.err;
}

TEST_F(TableTest, Truncated) {
  std::filesystem::resize_file(table_, std::filesystem::file_size(table_) / 2);
  ExpectUntuned("JSON");
  const ProgramResult show = RunProgram({"table", "show", table_});
  EXPECT_EQ(show.exit_code, 1);
  EXPECT_EQ(show.Messages().size(), 1u);
}

TEST_F(TableTest, FromAnotherCpu) {
  EditJson(table_, [](Json& table) {
    table["fingerprint"]["cpu"]["vendor"] = "GenuineExample";
  });
  ExpectUntuned("vendor");
}

TEST_F(TableTest, UnknownVariant) {
  EditJson(table_, [](Json& table) {
    for (Json& entry : table["entries"]) {
      // The layout of an untuned run, so that outputs can be compared.
      entry["layout"] = "out_in";
      for (Json& bucket : entry["by_density"]) {
        bucket["variant"] = "hwy/AVX9/dense_f32_rows3_none";
      }
    }
  });
  ExpectUntuned("hwy/AVX9/dense_f32_rows3_none");
}

TEST_F(TableTest, AnotherSchema) {
  EditJson(table_, [](Json& table) { table["schema"] = "rankforge-table/99"; });
  ExpectUntuned("schema");
}

TEST_F(TableTest, UnknownForcedVariant) {
  const ProgramResult forced =
      RunProgram(Generate(), {"RANKFORGE_FORCE=hwy/AVX9/none"});
  EXPECT_EQ(forced.exit_code, 0);
  EXPECT_EQ(forced.out, RunProgram(Generate()).out);
  const std::vector<std::string> messages = forced.Messages();
  ASSERT_EQ(messages.size(), 1u) << forced.err;
  EXPECT_NE(messages[0].find("hwy/AVX9/none"), std::string::npos);
}

// The bound is one that no noise breaks. A missing model or another CPU is an
// error.
TEST_F(TableTest, VerifyMeasuresAgain) {
  const ProgramResult verified =
      RunProgram({"table", "verify", table_, "--model", model_, "--threads",
                  "1", "--rounds", "3", "--sequence", "--max-regret", "100",
                  "--allow-noise", "--json"});
  ASSERT_EQ(verified.exit_code, 0) << verified.err;
  const Json report = Json::parse(verified.out);
  EXPECT_GE(report["regret"]["worst"], report["regret"]["median"]);
  EXPECT_GT(report["least_vs_default"], 0);
  EXPECT_GT(report["sequence"]["products"], 2);
  EXPECT_GT(report["sequence"]["chosen_ms"], 0);
  const ProgramResult shown = RunProgram({"table", "show", table_, "--json"});
  EXPECT_EQ(report["entries"].size(), Json::parse(shown.out)["entries"].size());
  // Against itself nothing differs.
  const ProgramResult same =
      RunProgram({"table", "verify", table_, "--against", table_, "--rounds",
                  "3", "--allow-noise", "--json"});
  ASSERT_EQ(same.exit_code, 0) << same.err;
  EXPECT_EQ(Json::parse(same.out)["entries"].size(), 0u);

  const ProgramResult nothing =
      RunProgram({"table", "verify", table_, "--sequence", "--allow-noise"});
  EXPECT_EQ(nothing.exit_code, 2);
  EditJson(table_, [](Json& table) {
    table["fingerprint"]["cpu"]["vendor"] = "GenuineExample";
  });
  EXPECT_EQ(RunProgram({"table", "verify", table_}).exit_code, 1);
}

// Tuning repeats nothing that its journal holds, and forgets it unless asked.
TEST_F(TableTest, ResumesFromTheJournal) {
  ASSERT_EQ(RunProgram(Tune()).exit_code, 0);
  const std::string journal = table_ + ".journal.jsonl";
  const auto before = std::filesystem::file_size(journal);
  Words resume = Tune();
  resume.push_back("--resume");
  const ProgramResult resumed = RunProgram(resume);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_GE(std::filesystem::file_size(journal), before);
}

}  // namespace
}  // namespace rankforge
