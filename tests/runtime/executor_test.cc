// Every executor runs every part once, whatever the number of parts.
#include "runtime/threads/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/runtime/host_threads.h"

namespace rankforge {
namespace {

std::vector<std::unique_ptr<Executor>> AllExecutors() {
  std::vector<std::unique_ptr<Executor>> executors;
  executors.push_back(MakeSerialExecutor());
  executors.push_back(MakeDefaultExecutor(1));
  for (const size_t threads : {1, 2, 3}) {
    executors.push_back(MakeThreadsOfHost(threads));
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

// Each stage reads what all members wrote in the one before, at fewer, as many
// and more parts than members.
TEST(Executor, TeamMembersWaitForEachOther) {
  size_t teams = 0;
  for (const auto& executor : AllExecutors()) {
    for (const size_t parts : {1, 2, 3, 8}) {
      std::vector<size_t> from(parts, 1), to(parts);
      std::vector<size_t> calls(executor->threads());
      constexpr size_t kStages = 2000;
      const bool ran = executor->RunTeam([&](size_t member) {
        ++calls[member];
        // Every member swaps pointers of its own.
        std::vector<size_t>* source = &from;
        std::vector<size_t>* target = &to;
        for (size_t stage = 0; stage < kStages; ++stage) {
          executor->TeamParts(member, parts, [&](size_t part) {
            size_t sum = part;
            for (const size_t value : *source) sum += value;
            (*target)[part] = sum % 1000003;
          });
          std::swap(source, target);
        }
      });
      if (!ran) continue;
      ++teams;
      EXPECT_EQ(calls, std::vector<size_t>(executor->threads(), 1));
      std::vector<size_t> expected(parts, 1);
      for (size_t stage = 0; stage < kStages; ++stage) {
        const size_t sum =
            std::accumulate(expected.begin(), expected.end(), size_t{0});
        for (size_t part = 0; part < parts; ++part) {
          expected[part] = (sum + part) % 1000003;
        }
      }
      EXPECT_EQ(from, expected) << executor->name() << " " << parts;
    }
  }
  // Serial ones and teams of one to three; a host promises none.
  EXPECT_EQ(teams, 4 * (2 + 3));
}

TEST(Executor, SaysHowManyThreads) {
  EXPECT_EQ(MakeSerialExecutor()->threads(), 1u);
  EXPECT_EQ(MakeThreadsOfHost(2)->threads(), 2u);
  EXPECT_EQ(MakeTeamExecutor(2)->threads(), 2u);
  EXPECT_EQ(MakeDefaultExecutor(1)->name(), "serial");
}

}  // namespace
}  // namespace rankforge
