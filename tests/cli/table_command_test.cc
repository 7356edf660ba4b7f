// `table show`, `merge` and `diff`, `report`, and what RANKFORGE_LOG prints, on
// tables that are edited copies of a stored one.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "program.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kStored =
    RANKFORGE_SOURCE_DIR "/tests/runtime/data/table_v1.json";

class TableCommandTest : public testing::Test {
 protected:
  TableCommandTest() {
    for (const std::string& path : {a_, b_}) {
      std::filesystem::copy_file(kStored, path);
    }
  }

  Json RunForJson(Words words) {
    words.push_back("--json");
    const ProgramResult result = RunProgram(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(result.Messages().empty()) << result.err;
    return Json::parse(result.out, nullptr, false);
  }

  // Expects exit code `code` and one message with all of `parts`.
  void ExpectRefused(const Words& words, int code, const Words& parts) {
    const ProgramResult result = RunProgram(words);
    EXPECT_EQ(result.exit_code, code) << result.err;
    ASSERT_EQ(result.Messages().size(), 1u) << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    }
  }

  const TemporaryFolder folder_;
  const std::string a_ = folder_.Path("a.json");
  const std::string b_ = folder_.Path("b.json");
  const std::string out_ = folder_.Path("out");
};

// Makes the stored table one of this machine.
void MakeHere(const std::string& path) {
  Result<DispatchTable> table = DispatchTable::LoadUnbound(path);
  ASSERT_TRUE(table.ok());
  table->cpu = CpuInfo::Detect();
  table->entries.clear();
  ASSERT_TRUE(table->Save(path).ok());
}

TEST_F(TableCommandTest, ShowSaysHowWellTheFingerprintFits) {
  const ProgramResult foreign = RunProgram({"table", "show", a_});
  EXPECT_EQ(foreign.exit_code, 0);
  EXPECT_NE(foreign.out.find("fingerprint: foreign"), std::string::npos);
  EXPECT_NE(foreign.out.find("vendor is GoldenCpu, here "), std::string::npos)
      << foreign.out;

  MakeHere(a_);
  const Json here = RunForJson({"table", "show", a_});
  EXPECT_TRUE(here["usable"]);
  EXPECT_EQ(here["fingerprint"]["match"], "compatible");
  std::vector<std::string> fields;
  for (const Json& difference : here["fingerprint"]["differences"]) {
    EXPECT_EQ(difference["breaks"], "exact");
    fields.push_back(difference["field"]);
  }
  // The stored table is of another build than any.
  EXPECT_NE(std::ranges::count(fields, "registry_hash"), 0);
}

TEST_F(TableCommandTest, MergeUnites) {
  EditJson(b_, [](Json& table) {
    table["entries"][0]["problem"]["threads"] = 4;
    table["environment"]["read_gbps"]["4"] = 50;
  });
  const Json merged = RunForJson({"table", "merge", a_, b_, a_, "--out", out_});
  EXPECT_EQ(merged["entries"], 2);
  EXPECT_EQ(merged["same_problem"], 1);
  const Json show = Json::parse(ReadWhole(out_));
  EXPECT_EQ(show["entries"].size(), 2u);
  EXPECT_EQ(show["environment"]["read_gbps"]["4"], 50);
  // A table merged with itself is itself.
  RunForJson({"table", "merge", a_, a_, "--out", out_});
  EXPECT_EQ(ReadWhole(out_), ReadWhole(a_));
}

TEST_F(TableCommandTest, MergeRefuses) {
  EditJson(b_, [](Json& table) { table["fingerprint"]["cpu"]["family"] = 6; });
  ExpectRefused({"table", "merge", a_, b_, "--out", out_}, 1,
                {a_, b_, "family", "generated/tables/"});
  WriteWhole(b_, "{\"schema\": ");
  ExpectRefused({"table", "merge", a_, b_, "--out", out_}, 1, {b_, "JSON"});
  ExpectRefused({"table", "merge", a_, "--out", "/nonexistent/x"}, 1,
                {"/nonexistent"});
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(TableCommandTest, DiffCountsWhatAgrees) {
  const Json same = RunForJson({"table", "diff", a_, b_});
  EXPECT_EQ(same["both"], 1);
  EXPECT_EQ(same["agree"], 1);
  EXPECT_EQ(same["largest_distance"], 0);
  EXPECT_EQ(same["fingerprint"]["match"], "exact");

  EditJson(b_, [](Json& table) {
    Json& bucket = table["entries"][0]["by_density"][1];
    bucket["variant"] = "hwy/AVX2/column_mask_bf16_columns4_list_g1_l2";
    bucket["vs_default"] = 1.1;  // 1.125 in the other
  });
  const Json differs =
      RunForJson({"table", "diff", a_, b_, "--margin", "0.03"});
  EXPECT_EQ(differs["agree"], 0);
  EXPECT_EQ(differs["within_margin"], 1);
  EXPECT_EQ(differs["beyond_margin"], 0);
  EXPECT_NEAR(differs["largest_distance"], 1.125 / 1.1 - 1, 1e-4);
  const Json narrow = RunForJson({"table", "diff", a_, b_, "--margin", "0.01"});
  EXPECT_EQ(narrow["beyond_margin"], 1);
  const ProgramResult text = RunProgram({"table", "diff", a_, b_});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_NE(text.out.find("1 problems in both: 0 agree"), std::string::npos)
      << text.out;

  WriteWhole(b_, "[]");
  ExpectRefused({"table", "diff", a_, b_}, 1, {b_, "object"});
}

TEST_F(TableCommandTest, ReportRefuses) {
  WriteWhole(b_, "[]");
  ExpectRefused({"report", a_, b_, "--out", out_}, 1, {b_, "object"});
  EditJson(a_, [](Json& table) { table["entries"] = Json::array(); });
  ExpectRefused({"report", a_, "--out", out_}, 1, {a_, "entries"});
  ExpectRefused({"report", a_, "--out", "/nonexistent/x"}, 1, {"/nonexistent"});
  EXPECT_FALSE(std::filesystem::exists(out_));
}

// Modules of a user's folder stand in for a missing and a broken matplotlib.
TEST_F(TableCommandTest, ReportNamesWhatIsMissing) {
  const Words report = {"report", a_, "--out", out_};
  const Words environment = {"PYTHONPATH=" + folder_.Path("")};
  const auto expect = [&](int code, const std::string& part) {
    const ProgramResult result = RunProgram(report, environment);
    EXPECT_EQ(result.exit_code, code) << result.err;
    ASSERT_EQ(result.Messages().size(), 1u) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(out_));
  };
  WriteWhole(folder_.Path("matplotlib.py"), "raise ImportError('none')");
  expect(3, "apt-get install python3-matplotlib");
  WriteWhole(folder_.Path("matplotlib.py"), "raise ValueError('broken')");
  expect(1, "ValueError: broken");
}

TEST_F(TableCommandTest, LogLevels) {
  const std::string model = folder_.Path("model");
  MakeCheckpoint(model);
  const auto messages = [&](const std::string& level,
                            const std::string& table) {
    const ProgramResult result =
        RunProgram({"generate", "--model", model, "--prompt-ids", "5", "-n",
                    "2", "--threads", "1", "--table", table},
                   {"RANKFORGE_LOG=" + level});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.Messages();
  };
  // A foreign table is a problem.
  EXPECT_EQ(messages("0", a_).size(), 0u);
  EXPECT_EQ(messages("1", a_).size(), 1u);
  MakeHere(b_);
  EXPECT_EQ(messages("0", b_).size(), 0u);
  EXPECT_EQ(messages("1", b_).size(), 0u);
  const Words summary = messages("2", b_);
  ASSERT_EQ(summary.size(), 2u);
  EXPECT_NE(summary[0].find("fingerprint compatible"), std::string::npos);
  EXPECT_NE(summary[1].find("look-ups: 0 table, 0 nearest, 0 shipped, "),
            std::string::npos)
      << summary[1];
  const Words lookups = messages("3", b_);
  EXPECT_GT(lookups.size(), 4u);
  size_t of_lm_head = 0;
  for (const std::string& line : lookups) {
    of_lm_head += line.find("dense 4096x64 f32") != std::string::npos;
  }
  EXPECT_EQ(of_lm_head, 1u);
  // No such level: said once, and the default level holds.
  const Words mistaken = messages("loud", b_);
  ASSERT_EQ(mistaken.size(), 1u);
  EXPECT_NE(mistaken[0].find("RANKFORGE_LOG=loud"), std::string::npos);
}

}  // namespace
}  // namespace rankforge
