// Which entry stays when tables of one CPU become one, and what two tables are
// said to differ in. Both look at tables as they stand, so names are made up.
#include "runtime/table/table_merge.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/table/table_diff.h"

namespace rankforge {
namespace {

const Problem kColumns = {
    Operation::kColumnMask, 512, 384, WeightType::kBf16, 1, 1, 2};
const Problem kDense = {Operation::kDense, 256, 384, WeightType::kF32, 1, 1, 2};

Bucket MakeBucket(double max, const std::string& variant, double ns) {
  Bucket bucket;
  bucket.max_density = max;
  bucket.variant = variant;
  bucket.ns = {ns, 1, ns, 10};
  bucket.vs_default = 1;
  return bucket;
}

TableEntry MakeEntry(const Problem& problem, const std::string& layer,
                     std::vector<Bucket> buckets) {
  TableEntry entry{problem, {layer}, {}};
  entry.decision.threads = problem.threads;
  entry.decision.by_density = std::move(buckets);
  return entry;
}

DispatchTable MakeTable(std::vector<TableEntry> entries) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  table.environment.confidence = "high";
  table.environment.read_gbps = {{2, 30}};
  table.policy.rigor = "measure";
  table.entries = std::move(entries);
  return table;
}

NamedTable Table(const std::string& name, const std::string& variant) {
  return {name,
          MakeTable({MakeEntry(kColumns, name, {MakeBucket(1, variant, 5)})})};
}

DispatchTable Merged(const std::vector<NamedTable>& tables) {
  const Result<DispatchTable> merged = MergeTables(tables);
  EXPECT_TRUE(merged.ok()) << merged.status().message();
  return merged.ok() ? *merged : DispatchTable();
}

// Whose variant stays for the one problem that all have.
std::string Kept(const std::vector<NamedTable>& tables) {
  const DispatchTable merged = Merged(tables);
  EXPECT_EQ(merged.entries.size(), 1u);
  return merged.entries.at(0).decision.by_density.at(0).variant;
}

TEST(MergeTest, AllProblemsStay) {
  NamedTable dense{
      "dense",
      MakeTable({MakeEntry(kDense, "lm_head", {MakeBucket(1, "d", 7)})})};
  dense.table.environment.read_gbps = {{1, 18}, {2, 35}};
  const DispatchTable merged = Merged({Table("columns", "c"), dense});
  ASSERT_EQ(merged.entries.size(), 2u);
  EXPECT_EQ(merged.environment.read_gbps,
            (std::map<size_t, double>{{1, 18}, {2, 35}}));
  // Of one build and machine: still exact.
  EXPECT_NE(merged.build.registry_hash, 0u);
}

TEST(MergeTest, LayersAreUnited) {
  NamedTable b = Table("b", "v");
  b.table.entries[0].layers = {"a", "b"};
  EXPECT_EQ(Merged({Table("a", "v"), b}).entries[0].layers,
            (std::vector<std::string>{"a", "b"}));
}

TEST(MergeTest, RigorThenConfidenceThenSamplesThenOrder) {
  const NamedTable a = Table("a", "of a");
  NamedTable b = Table("b", "of b");
  EXPECT_EQ(Kept({a, b}), "of a");
  EXPECT_EQ(Kept({b, a}), "of b");
  b.table.entries[0].decision.by_density[0].ns.n = 11;
  EXPECT_EQ(Kept({a, b}), "of b");
  b.table.environment.confidence = "low";
  EXPECT_EQ(Kept({a, b}), "of a");
  b.table.policy.rigor = "patient";
  EXPECT_EQ(Kept({a, b}), "of b");
  b.table.policy.rigor = "unheard of";
  EXPECT_EQ(Kept({a, b}), "of a");
}

TEST(MergeTest, TheWholeIsAsGoodAsItsWorst) {
  NamedTable worse = Table("worse", "v");
  worse.table.environment.confidence = "low";
  worse.table.environment.confidence_reason = "load 3";
  worse.table.environment.load_average = 3;
  worse.table.policy.rigor = "estimate";
  worse.table.policy.margin = 0.05;
  for (const auto& tables : {std::vector{Table("a", "v"), worse},
                             std::vector{worse, Table("a", "v")}}) {
    const DispatchTable merged = Merged(tables);
    EXPECT_EQ(merged.environment.confidence, "low");
    EXPECT_NE(merged.environment.confidence_reason.find("load 3"),
              std::string::npos);
    EXPECT_EQ(merged.environment.load_average, 3);
    EXPECT_EQ(merged.policy.rigor, "estimate");
    EXPECT_EQ(merged.policy.margin, 0.05);
  }
}

TEST(MergeTest, SeveralBuildsAreExactNowhere) {
  NamedTable other = Table("b", "v");
  other.table.build.flags += " -g";
  EXPECT_EQ(Merged({Table("a", "v"), other}).build.registry_hash, 0u);
}

TEST(MergeTest, OtherCpusAreRefusedByName) {
  NamedTable other = Table("other.json", "v");
  other.table.cpu.model += 1;
  other.table.cpu.stepping += 1;  // may differ
  const Result<DispatchTable> merged =
      MergeTables(std::vector{Table("one.json", "v"), other});
  ASSERT_FALSE(merged.ok());
  for (const char* part :
       {"one.json", "other.json", "model", "generated/tables/"}) {
    EXPECT_NE(merged.status().message().find(part), std::string::npos)
        << merged.status().message();
  }
  EXPECT_EQ(merged.status().message().find("stepping"), std::string::npos);
}

TEST(MergeTest, ColdAndInCacheDoNotMix) {
  NamedTable cached = Table("cached.json", "v");
  cached.table.policy.cold = false;
  const Result<DispatchTable> merged =
      MergeTables(std::vector{Table("cold.json", "v"), cached});
  ASSERT_FALSE(merged.ok());
  EXPECT_NE(merged.status().message().find("policy.cold"), std::string::npos);
  EXPECT_EQ(MergeTables({}).status().code(), StatusCode::kUsage);
}

// One entry of each, compared.
struct Pair {
  DispatchTable a;
  DispatchTable b;
  TableDiff diff;
};

Pair Compare(std::vector<Bucket> a, std::vector<Bucket> b) {
  Pair pair{MakeTable({MakeEntry(kColumns, "l", std::move(a))}),
            MakeTable({MakeEntry(kColumns, "l", std::move(b))}),
            {}};
  pair.diff = DiffTables(pair.a, pair.b);
  return pair;
}

TEST(DiffTest, OnlyInOne) {
  const DispatchTable a =
      MakeTable({MakeEntry(kColumns, "l", {MakeBucket(1, "v", 5)})});
  const DispatchTable b =
      MakeTable({MakeEntry(kDense, "l", {MakeBucket(1, "v", 5)})});
  const TableDiff diff = DiffTables(a, b);
  EXPECT_TRUE(diff.both.empty());
  ASSERT_EQ(diff.only_in_a.size(), 1u);
  ASSERT_EQ(diff.only_in_b.size(), 1u);
  EXPECT_EQ(diff.only_in_a[0]->problem, kColumns);
  EXPECT_EQ(diff.only_in_b[0]->problem, kDense);
}

TEST(DiffTest, TheSameChoiceAgreesWhateverItTook) {
  const Pair pair = Compare({MakeBucket(1, "v", 5)}, {MakeBucket(1, "v", 9)});
  EXPECT_EQ(pair.diff.Agreeing(), 1u);
  EXPECT_EQ(pair.diff.LargestDistance(), 0);
  EXPECT_DOUBLE_EQ(*pair.diff.both[0].intervals[0].ns_ratio, 9.0 / 5);
}

TEST(DiffTest, IntervalsAreWhereBothHaveOneBucket) {
  const Pair pair = Compare({MakeBucket(0.25, "v", 1), MakeBucket(1, "w", 4)},
                            {MakeBucket(0.5, "v", 2), MakeBucket(1, "w", 4)});
  const std::vector<IntervalDiff>& intervals = pair.diff.both[0].intervals;
  ASSERT_EQ(intervals.size(), 3u);
  EXPECT_EQ(intervals[1].low, 0.25);
  EXPECT_EQ(intervals[1].high, 0.5);
  EXPECT_EQ(intervals[1].a->variant, "w");
  EXPECT_EQ(intervals[1].b->variant, "v");
  EXPECT_EQ(pair.diff.Agreeing(), 0u);
  EXPECT_EQ(pair.diff.Intervals(), 3u);
  EXPECT_EQ(pair.diff.AgreeingIntervals(), 2u);
}

// What was second in a run says what its choice was worth in that run.
TEST(DiffTest, TheSecondOfOneRunDecides) {
  Bucket a = MakeBucket(1, "v", 100);
  a.runner_up = "w";
  a.runner_up_ns = 101;
  Bucket b = MakeBucket(1, "w", 300);
  b.vs_default = 3;  // another run, another hour
  const Pair pair = Compare({a}, {b});
  EXPECT_DOUBLE_EQ(*pair.diff.both[0].intervals[0].choice_ratio, 1.01);
  EXPECT_EQ(pair.diff.Within(0.02), 1u);
  EXPECT_EQ(pair.diff.Within(0.005), 0u);
  const Pair reversed = Compare({b}, {a});
  EXPECT_DOUBLE_EQ(*reversed.diff.both[0].intervals[0].choice_ratio, 1 / 1.01);
}

TEST(DiffTest, ElseTheDefaultsOfBothRunsAreTheMeasure) {
  Bucket a = MakeBucket(1, "v", 100);
  a.vs_default = 1.5;
  Bucket b = MakeBucket(1, "w", 220);
  b.vs_default = 1.25;
  const Pair pair = Compare({a}, {b});
  EXPECT_DOUBLE_EQ(*pair.diff.both[0].intervals[0].choice_ratio, 1.2);
  EXPECT_NEAR(pair.diff.LargestDistance(), 0.2, 1e-12);
}

TEST(DiffTest, AnotherLayoutOrThreadCountIsAnotherChoice) {
  const DispatchTable a =
      MakeTable({MakeEntry(kColumns, "l", {MakeBucket(1, "v", 5)})});
  DispatchTable b = a;
  b.entries[0].decision.layout = Layout::kInOut;
  EXPECT_EQ(DiffTables(a, b).Agreeing(), 0u);
  b = a;
  b.entries[0].decision.threads = 1;
  EXPECT_EQ(DiffTables(a, b).Agreeing(), 0u);
}

TEST(DiffTest, WhatWasNotMeasuredIsWithinNoMargin) {
  Bucket taken_over = MakeBucket(1, "w", 0);
  taken_over.ns = {};
  const Pair pair = Compare({MakeBucket(1, "v", 5)}, {taken_over});
  EXPECT_FALSE(pair.diff.both[0].intervals[0].choice_ratio.has_value());
  EXPECT_EQ(pair.diff.Within(1), 0u);
  EXPECT_TRUE(std::isinf(pair.diff.LargestDistance()));
}

}  // namespace
}  // namespace rankforge
