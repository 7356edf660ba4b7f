// mlp_bench refuses what it cannot measure, and prints a line for each point.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cli/program.h"

namespace rankforge {
namespace {

TEST(MlpBenchTest, RefusesWhatItCannotDo) {
  const std::vector<std::vector<std::string>> commands = {
      {"--hidden", "0"},  {"--mlp", "131073"}, {"--kept", "1.5"},
      {"--kept", "-0.1"}, {"--kept", "nan"},   {"--dtype", "i3"},
      {"--threads", "0"}, {"--unknown"}};
  for (const std::vector<std::string>& command : commands) {
    const ProgramResult result = RunProgram(command);
    EXPECT_EQ(result.exit_code, 2) << command.back();
    EXPECT_EQ(result.out, "") << command.back();
    EXPECT_TRUE(result.err.starts_with("mlp_bench: ")) << result.err;
  }
}

TEST(MlpBenchTest, PrintsBothPlansForEachShare) {
  const ProgramResult result =
      RunProgram({"--cached", "--rounds", "1", "--hidden", "65", "--mlp", "130",
                  "--kept", "0,.5,1", "--threads", "2", "--dtype", "i8"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const std::string line : {"whole       0.00", "gate first  0.00",
                                 "whole       1.00", "gate first  0.50"}) {
    EXPECT_NE(result.out.find(line), std::string::npos) << result.out;
  }
  EXPECT_EQ(std::ranges::count(result.out, '\n'), 2 + 3 * 2);
}

}  // namespace
}  // namespace rankforge
