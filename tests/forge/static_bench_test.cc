// static_bench refuses what it cannot measure, and has a line for each entry
// and density.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cli/program.h"

namespace rankforge {
namespace {

TEST(StaticBenchTest, RefusesWhatItCannotDo) {
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{}, 2},
      {{"--plugin", TEST_PLUGIN, "--filter", "("}, 2},
      {{"--plugin", TEST_SHAPES}, 1},
  };
  for (const auto& [command, exit_code] : cases) {
    const ProgramResult result = RunProgram(command);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_TRUE(result.err.starts_with("static_bench: ")) << result.err;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
}

TEST(StaticBenchTest, WritesALineForEachEntryAndDensity) {
  const TemporaryFolder folder;
  const std::string csv = folder.Path("static.csv");
  const ProgramResult result = RunProgram(
      {"--plugin", TEST_PLUGIN, "--cached", "--rounds", "1", "--kept", ".5,1",
       "--threads", "1", "--filter", "_(300x211|129x72)$", "--csv", csv});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string written = ReadWhole(csv);
  for (const char* line :
       {"\nhwy/" TEST_TARGET
        "/column_mask_bf16_columns8_list_g1_ahead_300x211,0.5,1,cache,",
        "\nhwy/" TEST_TARGET "/dense_bf16_rows4_ahead_129x72,1,1,cache,"}) {
    EXPECT_NE(written.find(line), std::string::npos) << written;
  }
  // Dense products have no densities.
  EXPECT_EQ(written.find("129x72,0.5"), std::string::npos);
}

}  // namespace
}  // namespace rankforge
