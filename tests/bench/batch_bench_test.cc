// batch_bench refuses what it cannot measure and prints a line for each case.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cli/program.h"

namespace rankforge {
namespace {

TEST(BatchBenchTest, RefusesWhatItCannotDo) {
  const std::vector<std::vector<std::string>> commands = {
      {"--rows", "0"},     {"--cols", "131073"}, {"--tokens", "17"},
      {"--tokens", "2,0"}, {"--density", "0"},   {"--density", "nan"},
      {"--dtype", "i3"},   {"--threads", "0"},   {"--rounds", "0"},
      {"--unknown"},
  };
  for (const std::vector<std::string>& command : commands) {
    const ProgramResult result = RunProgram(command);
    EXPECT_EQ(result.exit_code, 2) << command.back();
    EXPECT_EQ(result.out, "") << command.back();
    EXPECT_TRUE(result.err.starts_with("batch_bench: ")) << result.err;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
}

// A line for the case, one for the columns, and of each number of tokens one
// with the same mask for all and one with masks of their own.
TEST(BatchBenchTest, PrintsBothKindsOfMasks) {
  const ProgramResult result =
      RunProgram({"--cached", "--rounds", "1", "--rows", "96", "--cols", "200",
                  "--tokens", "2,5,16", "--threads", "2", "--dtype", "i8"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::ranges::count(result.out, '\n'), 2 + 3 * 2) << result.out;
  EXPECT_NE(result.out.find("i8 96x200"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace rankforge
