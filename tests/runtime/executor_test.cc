// Every executor runs every part once, whatever the number of parts, and
// survives parts that throw.
#include "runtime/threads/executor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
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

void ExpectServes(Executor& executor) {
  for (const size_t parts : {1, 3, 64}) {
    std::vector<std::atomic<int>> runs(parts);
    executor.Run(parts, [&](size_t part) { runs[part].fetch_add(1); });
    for (const auto& count : runs) EXPECT_EQ(count, 1) << executor.name();
  }
}

// Whichever part throws, and if all do: the caller gets one exception, when no
// part reads the caller's stack any more.
TEST(Executor, ThrowsWhatAPartThrows) {
  for (const auto& executor : AllExecutors()) {
    for (const size_t parts : {1, 2, 3, 64}) {
      for (size_t thrower = 0; thrower <= parts; ++thrower) {
        std::atomic<int> inside{0};
        const auto part_function = [&](size_t part) {
          inside.fetch_add(1);
          const bool throws = part == thrower || thrower == parts;
          inside.fetch_sub(1);
          if (throws) throw std::bad_alloc();
        };
        EXPECT_THROW(executor->Run(parts, part_function), std::bad_alloc);
        EXPECT_EQ(inside, 0);
      }
    }
    ExpectServes(*executor);
  }
}

// A member throws in a part, before a barrier or after the last one, while the
// others go on to barriers that it never reaches.
TEST(Executor, AThrowingMemberEndsTheTeam) {
  for (const auto& executor : AllExecutors()) {
    if (!executor->RunTeam([](size_t) {})) continue;
    const size_t members = executor->threads();
    constexpr size_t kStages = 3;
    for (size_t round = 0; round < 5 * (kStages + 1) * members; ++round) {
      const size_t stage_of_throw = round % (kStages + 1);
      const size_t thrower = round / (kStages + 1) % members;
      const bool in_part = round % 2 == 0 && stage_of_throw < kStages;
      std::atomic<size_t> done{0};
      const auto member_function = [&](size_t member) {
        for (size_t stage = 0; stage <= kStages; ++stage) {
          const bool throws = stage == stage_of_throw && member == thrower;
          if (throws && !in_part) throw std::runtime_error("a member");
          if (stage == kStages) break;
          executor->TeamParts(member, members, [&](size_t part) {
            if (in_part && stage == stage_of_throw && part == thrower) {
              throw std::runtime_error("a part");
            }
            done.fetch_add(1);
          });
        }
      };
      EXPECT_THROW(executor->RunTeam(member_function), std::runtime_error);
      // The stages before it are whole.
      EXPECT_GE(done, stage_of_throw * members);
    }
    ExpectServes(*executor);
    std::atomic<size_t> parts{0};
    executor->RunTeam([&](size_t member) {
      executor->TeamParts(member, 7, [&](size_t) { parts.fetch_add(1); });
    });
    EXPECT_EQ(parts, 7u);
  }
}

TEST(Executor, AHostThatLeavesItemsOutIsAnError) {
  const auto skips_the_last = [](void*, size_t items,
                                 void (*body)(void*, size_t), void* context) {
    for (size_t item = 0; item + 1 < items; ++item) body(context, item);
  };
  const auto executor = MakeHostExecutor({skips_the_last, nullptr, 2});
  EXPECT_THROW(executor->Run(2, [](size_t) {}), std::runtime_error);
}

// A child of fork has no helpers. It must neither wait for them nor join them.
TEST(Executor, AChildOfForkRunsAlone) {
  std::unique_ptr<Executor> executor = MakeTeamExecutor(3);
  ExpectServes(*executor);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // ends a child that hangs
    size_t runs = 0;
    executor->Run(64, [&](size_t) { ++runs; });
    const bool team = executor->RunTeam([](size_t) {});
    executor.reset();
    _exit(runs == 64 && !team ? 0 : 1);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state;
  ExpectServes(*executor);
}

TEST(Executor, HelpersLeaveSignalsToTheHost) {
  const auto blocked = [] {
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, nullptr, &set);
    return std::pair(sigismember(&set, SIGUSR1), sigismember(&set, SIGSEGV));
  };
  const auto before = blocked();
  const std::unique_ptr<Executor> executor = MakeTeamExecutor(2);
  EXPECT_EQ(blocked(), before);
  executor->RunTeam([&](size_t member) {
    if (member == 1) {
      EXPECT_EQ(blocked(), std::pair(1, 0));
    }
  });
}

TEST(Executor, SaysHowManyThreads) {
  EXPECT_EQ(MakeSerialExecutor()->threads(), 1u);
  EXPECT_EQ(MakeThreadsOfHost(2)->threads(), 2u);
  EXPECT_EQ(MakeTeamExecutor(2)->threads(), 2u);
  EXPECT_EQ(MakeDefaultExecutor(1)->name(), "serial");
}

}  // namespace
}  // namespace rankforge
