// rank_bench refuses what it cannot measure, and its CSV is what it printed.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cli/program.h"

namespace rankforge {
namespace {

TEST(RankBenchTest, RefusesWhatItCannotDo) {
  const std::vector<std::vector<std::string>> commands = {
      {"--rows", "0"},    {"--cols", "131073"}, {"--ranks", "x"},
      {"--kept", "1.5"},  {"--kept", "nan"},    {"--dtype", "i3"},
      {"--threads", "0"}, {"--rounds", "0"},    {"--unknown"},
  };
  for (const std::vector<std::string>& command : commands) {
    const ProgramResult result = RunProgram(command);
    EXPECT_EQ(result.exit_code, 2) << command.back();
    EXPECT_EQ(result.out, "") << command.back();
    EXPECT_TRUE(result.err.starts_with("rank_bench: ")) << result.err;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
}

TEST(RankBenchTest, NamesATableThatIsNotThere) {
  const ProgramResult result = RunProgram({"--table", "/nowhere/table.json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("/nowhere/table.json"), std::string::npos);
}

TEST(RankBenchTest, WritesALineForEachPointOfTheGrid) {
  const TemporaryFolder folder;
  const std::string csv = folder.Path("ranks.csv");
  const ProgramResult result =
      RunProgram({"--cached", "--rounds", "1", "--rows", "64,96", "--cols",
                  "128", "--ranks", "16,48", "--kept", "0,.5,1", "--threads",
                  "2", "--dtype", "i8", "--csv", csv});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string written = ReadWhole(csv);
  EXPECT_TRUE(written.starts_with("type,rows,cols,rank,kept,threads,"));
  for (const std::string line : {"\ni8,64,128,16,0,2,", "\ni8,96,128,48,0.5,2,",
                                 "\ni8,96,128,48,1,2,"}) {
    EXPECT_NE(written.find(line), std::string::npos) << written;
  }
  EXPECT_EQ(std::ranges::count(written, '\n'), 1 + 2 * 2 * 3);
}

}  // namespace
}  // namespace rankforge
