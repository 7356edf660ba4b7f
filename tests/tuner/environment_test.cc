// Whether conditions are fit for measuring, and what is said about them.
#include "tuner/measure/environment.h"

#include <gtest/gtest.h>

#include "base/affinity.h"

namespace rankforge {
namespace {

TableEnvironment Quiet() {
  TableEnvironment environment;
  environment.governor = "performance";
  environment.cpus = "0,1";
  environment.cpu_share = 1;
  return environment;
}

TEST(EnvironmentTest, SaysWhatThisMachineIsLike) {
  const TableEnvironment environment = ReadEnvironment();
  EXPECT_FALSE(environment.governor.empty());
  EXPECT_FALSE(environment.boost.empty());
  EXPECT_FALSE(environment.cpus.empty());
  EXPECT_GT(environment.cpu_share, 0);
  EXPECT_LE(environment.cpu_share, 1);
}

TEST(EnvironmentTest, HopelessConditionsAreRefused) {
  TableEnvironment environment = Quiet();
  environment.load_average = 50;  // of work that may have ended
  EXPECT_TRUE(CheckEnvironment(environment, 1).ok());
  environment.cpu_share = 0.3;
  Status status = CheckEnvironment(environment, 1);
  EXPECT_EQ(status.code(), StatusCode::kEnvironment);
  EXPECT_NE(status.message().find("30 %"), std::string::npos);
  EXPECT_NE(status.message().find("--allow-noise"), std::string::npos);
  status = CheckEnvironment(Quiet(), UsableCpus().size() + 1);
  EXPECT_EQ(status.code(), StatusCode::kEnvironment);
  EXPECT_NE(status.message().find("--threads"), std::string::npos);
}

TEST(EnvironmentTest, DoubtsAreNamed) {
  const auto judged = [](TableEnvironment environment, RunQuality quality,
                         uint64_t stolen) {
    JudgeConfidence({.steal = 10, .total = 1000},
                    {.steal = 10 + stolen, .total = 2000}, quality,
                    &environment);
    return environment;
  };
  EXPECT_EQ(judged(Quiet(), {}, 10).confidence, "high");
  TableEnvironment shared = Quiet();
  shared.shared_cores = true;
  shared.cpu_share = 0.8;
  shared.governor = "powersave";
  shared.load_average = 3;
  const TableEnvironment doubted =
      judged(shared, {.spread = 0.1, .unmeasured = 2, .refused = 7}, 125);
  EXPECT_EQ(doubted.confidence, "low");
  EXPECT_EQ(doubted.steal_share, 0.125);
  for (const char* part :
       {"80 % of a CPU", "one core", "powersave", "load average 3", "10.0 %",
        "2 problems", "7 calls", "12.5 % of CPU time stolen"}) {
    EXPECT_NE(doubted.confidence_reason.find(part), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace rankforge
