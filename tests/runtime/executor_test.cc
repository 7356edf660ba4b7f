// Every executor runs every part once, whatever the number of parts.
#include "runtime/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <vector>

namespace rankforge {
namespace {

std::vector<std::unique_ptr<Executor>> AllExecutors() {
  std::vector<std::unique_ptr<Executor>> executors;
  executors.push_back(MakeSerialExecutor());
  executors.push_back(MakeDefaultExecutor(1));
  for (const size_t threads : {1, 2, 3}) {
    executors.push_back(MakeTbbExecutor(threads));
    executors.push_back(MakeTeamExecutor(threads));
  }
  return executors;
}

TEST(Executor, RunsEveryPartOnceAndWaits) {
  for (const auto& executor : AllExecutors()) {
    for (const size_t parts : {0, 1, 2, 3, 7, 64}) {
      std::vector<std::atomic<int>> runs(parts);
      executor->Run(parts, [&](size_t part) { runs[part].fetch_add(1); });
      for (const auto& count : runs) EXPECT_EQ(count, 1) << executor->name();
    }
  }
}

// What a part writes is visible to the caller without further ordering, many
// times over: a lost wake-up or a missed generation would hang or differ.
TEST(Executor, HandsOverManyTimes) {
  for (const auto& executor : AllExecutors()) {
    std::vector<size_t> totals(executor->threads(), 0);
    constexpr size_t kRounds = 20000;
    for (size_t round = 0; round < kRounds; ++round) {
      executor->Run(totals.size(), [&](size_t part) { totals[part] += part; });
    }
    for (size_t part = 0; part < totals.size(); ++part) {
      EXPECT_EQ(totals[part], part * kRounds) << executor->name();
    }
  }
}

TEST(Executor, SaysHowManyThreads) {
  EXPECT_EQ(MakeSerialExecutor()->threads(), 1u);
  EXPECT_EQ(MakeTbbExecutor(2)->threads(), 2u);
  EXPECT_EQ(MakeTeamExecutor(2)->threads(), 2u);
  EXPECT_EQ(MakeDefaultExecutor(1)->name(), "serial");
}

}  // namespace
}  // namespace rankforge
