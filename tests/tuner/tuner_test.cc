// Small runs of the real thing. Nothing here asserts how long anything takes.
#include "tuner/tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "kernels/numbers/stored_weight.h"
#include "kernels/registry.h"
#include "meta/packing.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/threads/executor.h"
#include "tuner/measure/gemv_runner.h"
#include "tuner/measure/read_bandwidth.h"
#include "tuner/measure/weight_pool.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

Workload Small(Operation operation, WeightType type, size_t rows = 96,
               size_t cols = 160) {
  Workload workload;
  workload.problem = {operation, rows, cols, type, 1, 1, 2};
  workload.layers = {std::string(Name(operation)) + std::string(Name(type))};
  workload.density = operation == Operation::kDense ? 1 : 0.4;
  return workload;
}

std::vector<Workload> SmallWorkloads() {
  std::vector<Workload> workloads;
  for (const WeightType type : kWeightTypes) {
    for (const Operation operation : kOperations) {
      workloads.push_back(Small(operation, type));
    }
  }
  return workloads;
}

TuneOptions Quick() {
  TuneOptions options;
  options.rigor = Rigor::kEstimate;
  options.budget_seconds = 600;  // never reached, and not waited for
  options.allow_noise = true;
  return options;
}

std::string TemporaryFile(const char* name) {
  const std::string path = testing::TempDir() + "tuner_test." + name;
  std::filesystem::remove(path);
  return path;
}

// Every entry binds as it stands, and its plan runs.
void ExpectBinds(const DispatchTable& table) {
  for (const TableEntry& entry : table.entries) {
    const Problem& problem = entry.problem;
    const auto weights = PackedMatrix::Zero(
        problem.rows, problem.cols, problem.type, entry.decision.layout);
    ASSERT_TRUE(weights.ok());
    Decision decision = entry.decision;
    std::string note;
    const Result<Choice> choice = Resolve(problem, decision, note);
    ASSERT_TRUE(choice.ok());
    EXPECT_EQ(note, "");
    const GemvPlan plan = GemvPlan::Bind(*weights, problem, *choice);
    for (const Bucket& bucket : entry.decision.by_density) {
      EXPECT_EQ(plan.EntryAt(bucket.max_density).FullName(), bucket.variant);
    }
  }
}

// Fixed decisions for one small problem of each operation and type, as a model
// would get them: through a file.
TEST(TunerTest, AnEndToEndRunGivesATableThatLoadsAndBinds) {
  size_t reports = 0;
  TuneProgress last;
  TuneOptions options = Quick();
  options.progress = [&](const TuneProgress& progress) {
    ++reports;
    EXPECT_GE(progress.seconds_left, 0);
    EXPECT_LE(progress.done, progress.total);
    last = progress;
  };
  const std::vector<Workload> workloads = SmallWorkloads();
  Result<DispatchTable> table = Tune(workloads, options);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(table->entries.size(), workloads.size());
  EXPECT_GT(reports, workloads.size());
  EXPECT_EQ(last.done, workloads.size());
  EXPECT_EQ(table->policy.rigor, "estimate");
  EXPECT_TRUE(table->policy.cold);
  EXPECT_GT(table->environment.read_gbps.at(1), 0);
  EXPECT_GT(table->environment.read_gbps.at(2), 0);
  for (const TableEntry& entry : table->entries) {
    for (const Bucket& bucket : entry.decision.by_density) {
      EXPECT_GT(bucket.ns.median, 0);
      EXPECT_GT(bucket.ns.n, 0u);
      EXPECT_GT(bucket.useful_gbps, 0);
      EXPECT_GT(bucket.vs_default, 0);
    }
  }
  ExpectBinds(*table);

  const std::string path = TemporaryFile("end_to_end.json");
  ASSERT_TRUE(table->Save(path).ok());
  const Result<DispatchTable> loaded = DispatchTable::Load(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_TRUE(loaded->usable());
  EXPECT_TRUE(loaded->notes().empty());
  EXPECT_EQ(loaded->entries.size(), workloads.size());
  ExpectBinds(*loaded);
  for (const Workload& workload : workloads) {
    EXPECT_EQ(loaded->Lookup(workload.problem).source, DecisionSource::kTable);
  }
  std::filesystem::remove(path);
}

TEST(TunerTest, WarmWeightsAreAnOption) {
  TuneOptions options = Quick();
  options.cold = false;
  const Result<DispatchTable> table =
      Tune({Small(Operation::kColumnMask, WeightType::kF32)}, options);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_FALSE(table->policy.cold);
  EXPECT_EQ(table->entries.size(), 1u);
  ExpectBinds(*table);
}

TEST(TunerTest, WithoutTimeThereIsStillATable) {
  TuneOptions options = Quick();
  options.budget_seconds = 0;
  const Result<DispatchTable> table = Tune(SmallWorkloads(), options);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(table->environment.confidence, "low");
  EXPECT_NE(table->environment.confidence_reason.find("out of budget"),
            std::string::npos);
  const std::string path = TemporaryFile("no_time.json");
  ASSERT_TRUE(table->Save(path).ok());
  EXPECT_TRUE(DispatchTable::Load(path).ok());
  std::filesystem::remove(path);
}

TEST(TunerTest, AFinishedJournalNeedsNoMeasuring) {
  TuneOptions options = Quick();
  options.journal = TemporaryFile("journal.jsonl");
  const std::vector<Workload> workloads = {
      Small(Operation::kColumnMask, WeightType::kBf16)};
  const Result<DispatchTable> first = Tune(workloads, options);
  ASSERT_TRUE(first.ok()) << first.status().message();
  const auto size = std::filesystem::file_size(options.journal);
  EXPECT_GT(size, 1000u);

  options.resume = true;
  const Result<DispatchTable> second = Tune(workloads, options);
  ASSERT_TRUE(second.ok()) << second.status().message();
  // Not one trial more: an empty line and who resumed.
  std::ifstream journal(options.journal);
  journal.seekg(static_cast<std::streamoff>(size));
  std::string resumption((std::istreambuf_iterator<char>(journal)), {});
  EXPECT_EQ(std::ranges::count(resumption, '\n'), 2);
  EXPECT_NE(resumption.find("session"), std::string::npos);
  ASSERT_EQ(second->entries.size(), 1u);
  const Decision& a = first->entries[0].decision;
  const Decision& b = second->entries[0].decision;
  EXPECT_EQ(a.layout, b.layout);
  EXPECT_EQ(a.threads, b.threads);
  ASSERT_EQ(a.by_density.size(), b.by_density.size());
  for (size_t i = 0; i < a.by_density.size(); ++i) {
    EXPECT_EQ(a.by_density[i].variant, b.by_density[i].variant);
    EXPECT_EQ(a.by_density[i].ns.median, b.by_density[i].ns.median);
  }
  std::filesystem::remove(options.journal);
}

// Half of a journal, as a kill leaves it, is continued and not repeated.
TEST(TunerTest, AnUnfinishedJournalIsContinued) {
  TuneOptions options = Quick();
  options.journal = TemporaryFile("killed.jsonl");
  const std::vector<Workload> workloads = {
      Small(Operation::kColumnMask, WeightType::kF32)};
  ASSERT_TRUE(Tune(workloads, options).ok());
  const auto size = std::filesystem::file_size(options.journal);
  std::filesystem::resize_file(options.journal, size / 2);
  options.resume = true;
  const Result<DispatchTable> table = Tune(workloads, options);
  ASSERT_TRUE(table.ok()) << table.status().message();
  ExpectBinds(*table);
  std::filesystem::remove(options.journal);
}

TEST(TunerTest, NothingToTuneIsAUsageError) {
  EXPECT_EQ(Tune({}, Quick()).status().code(), StatusCode::kUsage);
  Workload impossible = Small(Operation::kDense, WeightType::kF32);
  impossible.problem.cols = 0;
  EXPECT_EQ(Tune({impossible}, Quick()).status().code(), StatusCode::kUsage);
}

TEST(TunerTest, AnUnwritableJournalIsAnError) {
  TuneOptions options = Quick();
  options.journal = "/nonexistent/journal";
  const Result<DispatchTable> table = Tune(SmallWorkloads(), options);
  ASSERT_FALSE(table.ok());
  EXPECT_NE(table.status().message().find("/nonexistent/journal"),
            std::string::npos);
}

// All candidates of all problems agree with the scalar reference, on odd shapes
// and with weights out of cache.
TEST(GemvRunnerTest, NoCandidateIsRejected) {
  const CacheSweep sweep(size_t{4} << 20);
  WeightPool pool(size_t{16} << 20, &sweep);
  for (Workload workload : SmallWorkloads()) {
    workload.problem.rows = 161;
    workload.problem.cols = 97;
    const auto executor = MakeDefaultExecutor(2);
    MeasuringSetup setup;
    setup.cpu.l3_bytes = 2 << 20;
    setup.pool = &pool;
    setup.executor = executor.get();
    SearchSpace space = MakeSpace(workload, Rigor::kPatient);
    const size_t candidates = space.candidates.size();
    const auto runner = GemvRunner::Create(
        workload, setup,
        [](const Candidate& candidate, const std::string& wrong) {
          ADD_FAILURE() << candidate.variant << ": " << wrong;
        },
        space);
    ASSERT_TRUE(runner.ok()) << runner.status().message();
    EXPECT_EQ(space.candidates.size(), candidates);
    EXPECT_GT((*runner)->Measure(candidates - 1, 0).ns, 0);
  }
}

TEST(GemvRunnerTest, AWrongCandidateIsRejectedAndReported) {
  const CacheSweep sweep(size_t{4} << 20);
  WeightPool pool(size_t{16} << 20, &sweep);
  const Workload workload = Small(Operation::kDense, WeightType::kF32);
  const auto executor = MakeDefaultExecutor(1);
  MeasuringSetup setup;
  setup.pool = &pool;
  setup.executor = executor.get();
  SearchSpace space = MakeSpace(workload, Rigor::kEstimate);
  // Its plan falls back to the default, whose time it must not get.
  space.candidates.resize(2);
  space.candidates[1].variant = "hwy/NONE/no_such_variant";
  std::vector<std::string> rejected;
  const auto runner = GemvRunner::Create(
      workload, setup,
      [&](const Candidate& candidate, const std::string&) {
        rejected.push_back(candidate.variant);
      },
      space);
  ASSERT_TRUE(runner.ok()) << runner.status().message();
  EXPECT_EQ(rejected, std::vector<std::string>{"hwy/NONE/no_such_variant"});
  EXPECT_EQ(space.candidates.size(), 1u);
}

// All of the pool is in use, and nothing overlaps within a lap.
TEST(WeightPoolTest, WeightsTakeTurnsWithinThePool) {
  const CacheSweep sweep(size_t{4} << 20);
  WeightPool pool(size_t{2} << 20, &sweep);
  pool.Fill(WeightType::kBf16, 1);
  const auto executor = MakeDefaultExecutor(1);
  constexpr size_t kBytes = 100000;
  const size_t copies = pool.bytes() / RoundUp(kBytes, kSmallPage);
  std::set<const std::byte*> seen;
  for (size_t i = 0; i < copies; ++i) {
    const std::byte* weights = pool.NextCold(kBytes, kBytes, *executor);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weights) % kSmallPage, 0u);
    EXPECT_GE(weights, pool.data());
    EXPECT_LE(weights + kBytes, pool.data() + pool.bytes());
    if (!seen.empty()) {
      EXPECT_GE(weights - *seen.rbegin(), ptrdiff_t{kBytes});
    }
    EXPECT_TRUE(seen.insert(weights).second);
  }
  EXPECT_EQ(pool.NextCold(kBytes, kBytes, *executor), pool.data());
  // Warm weights stay within their share.
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_LE(pool.Next(kBytes, 3 * kBytes) + kBytes, pool.data() + 3 * kBytes);
  }
}

TEST(WeightPoolTest, WeightsAreFiniteNumbersOfTheirType) {
  const CacheSweep sweep(size_t{4} << 20);
  WeightPool pool(size_t{2} << 20, &sweep);
  for (const WeightType type : kWeightTypes) {
    pool.Fill(type, 1);
    std::set<float> values;
    WithType(type, [&](auto constant) {
      for (size_t at = 0; at < pool.bytes(); at += BlockBytes(type)) {
        for (size_t i = 0; i < kBlock; ++i) {
          const float value = StoredWeight<constant>(pool.data() + at, i);
          ASSERT_LE(std::abs(value), IsQuantized(type) ? 128.0f : 1.0f);
          if (at < (size_t{1} << 16)) values.insert(value);
        }
      }
    });
    const size_t distinct = IsQuantized(type) ? FormatOf(type).bits * 2 : 500;
    EXPECT_GE(values.size(), distinct) << Name(type);
    // Scales lie anywhere among integers.
    for (size_t at = 0; IsQuantized(type) && at < pool.bytes(); at += 4) {
      float scale;
      uint16_t half;
      std::memcpy(&scale, pool.data() + at, sizeof(scale));
      std::memcpy(&half, pool.data() + at, sizeof(half));
      ASSERT_LT(std::abs(scale), 2.0f);
      ASSERT_LT(std::abs(FromF16(half)), 2.0f);
    }
  }
}

TEST(ReadBandwidthTest, NamesALoopAndIsPositive) {
  const ReadBandwidth bandwidth = MeasureReadBandwidth(2, 1 << 20, 2);
  EXPECT_GT(bandwidth.gbps, 0);
  EXPECT_FALSE(bandwidth.loop.empty());
  EXPECT_GT(MeasureReadBandwidth(0, 0, 1).gbps, 0);
}

}  // namespace
}  // namespace rankforge
