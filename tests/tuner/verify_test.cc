// What verifying finds, with runners that are made up and with the real one.
#include "tuner/verify.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/plan/plan.h"
#include "tuner/sequence.h"

namespace rankforge {
namespace {

class FakeRunner : public Runner {
 public:
  FakeRunner(std::vector<std::vector<double>> true_ns, double noise,
             uint64_t seed)
      : true_ns_(std::move(true_ns)), noise_(noise), random_(seed) {}
  Sample Measure(size_t candidate, size_t density) override {
    std::exponential_distribution<double> delay(1);
    return {true_ns_[candidate][density] * (1 + noise_ * delay(random_))};
  }

 private:
  std::vector<std::vector<double>> true_ns_;
  double noise_;
  std::mt19937_64 random_;
};

// Two layouts of three candidates each.
SearchSpace TwoLayouts() {
  SearchSpace space;
  for (const Layout layout : {Layout::kInOut, Layout::kPanel64}) {
    for (const char* name : {"a", "b", "c"}) {
      space.candidates.push_back({name, 0, layout, 2});
    }
  }
  space.densities = {0.5, 1};
  space.weights = {0.75, 0.25};
  return space;
}

TEST(VerifyTest, RegretIsTheTimeLostAgainstTheBest) {
  //                                         in_out           panel64
  const std::vector<std::vector<double>> ns = {
      {100, 200}, {88, 210}, {80, 220}, {99, 150}, {70, 170}, {99, 160}};
  FakeRunner runner(ns, 0.001, 1);
  const VerifiedEntry entry = VerifyEntry(TwoLayouts(), {1, 0}, 9, 1, runner);
  EXPECT_EQ(entry.layout, Layout::kInOut);
  EXPECT_EQ(entry.rival_layout, Layout::kPanel64);
  ASSERT_EQ(entry.by_density.size(), 2u);
  EXPECT_EQ(entry.by_density[0].chosen, "b");
  EXPECT_EQ(entry.by_density[0].rival, "c");
  EXPECT_EQ(entry.by_density[0].best, "b");
  EXPECT_EQ(entry.by_density[1].best, "a");
  EXPECT_NEAR(entry.by_density[0].regret.value, 1.1, 0.002);
  EXPECT_NEAR(entry.by_density[0].vs_default.value, 100.0 / 88, 0.002);
  // The chosen variant is the best there, and nothing is lost.
  EXPECT_EQ(entry.by_density[1].regret.value, 1);
  const double chosen = 0.75 * 88 + 0.25 * 200;
  EXPECT_NEAR(entry.chosen_ns, chosen, 0.5);
  EXPECT_NEAR(entry.regret.value, chosen / (0.75 * 70 + 0.25 * 150), 0.002);
  EXPECT_NEAR(entry.vs_default.value, (0.75 * 100 + 0.25 * 200) / chosen,
              0.002);
}

// Forty candidates that are all alike: one is the luckiest in the rounds that
// look for the best. Judged by those rounds, every table would seem wrong.
TEST(VerifyTest, LuckIsNoRegret) {
  SearchSpace space;
  for (int c = 0; c < 40; ++c) {
    space.candidates.push_back({std::to_string(c), 0, Layout::kInOut, 1});
  }
  space.densities = {1};
  space.weights = {1};
  double sum = 0;
  constexpr int kRuns = 50;
  for (int run = 0; run < kRuns; ++run) {
    FakeRunner runner(std::vector<std::vector<double>>(40, {100}), 0.1,
                      static_cast<uint64_t>(run));
    sum += VerifyEntry(space, {3}, 9, 1, runner).regret.value;
  }
  EXPECT_NEAR(sum / kRuns, 1, 0.01);
}

TEST(VerifyTest, OtherChoicesAreCompared) {
  FakeRunner runner(
      {{100, 200}, {88, 210}, {80, 220}, {90, 150}, {70, 170}, {99, 160}}, 0,
      1);
  const VerifiedEntry entry =
      CompareEntry(TwoLayouts(), {1, 0}, {4, 5}, 3, 1, runner);
  EXPECT_EQ(entry.rival_layout, Layout::kPanel64);
  EXPECT_EQ(entry.by_density[1].rival, "c");
  EXPECT_DOUBLE_EQ(entry.by_density[0].regret.value, 88.0 / 70);
  EXPECT_DOUBLE_EQ(entry.by_density[1].regret.value, 200.0 / 160);
}

TEST(VerifyTest, MeasuredDensitiesFollowFromTheLimits) {
  const std::vector<double> densities = {0.1, 0.35, 0.52, 1};
  std::vector<Bucket> buckets(4);
  for (size_t i = 0; i + 1 < 4; ++i) {
    buckets[i].max_density = (densities[i] + densities[i + 1]) / 2;
  }
  const std::vector<double> found = MeasuredDensities(buckets);
  ASSERT_EQ(found.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(found[i], densities[i], 1e-12);
  // Limits that lie elsewhere still give a density in each bucket.
  buckets[0].max_density = 0.1;
  buckets[1].max_density = 0.9;
  buckets[2].max_density = 0.91;
  const std::vector<double> inside = MeasuredDensities(buckets);
  double low = 0;
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_GT(inside[i], low);
    EXPECT_LE(inside[i], buckets[i].max_density);
    low = buckets[i].max_density;
  }
}

// A table of defaults, verified for real: every entry has an answer, against
// the default it is the default, and a sequence of its problems runs.
TEST(VerifyTest, ATableOfDefaultsIsNoFasterThanTheDefaults) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  std::vector<Workload> workloads;
  for (const Operation operation : kOperations) {
    Workload workload;
    workload.problem = {operation, 96, 160, WeightType::kBf16, 1, 1, 2};
    workload.density = operation == Operation::kDense ? 1 : 0.4;
    workloads.push_back(workload);
    const Problem& problem = workload.problem;
    table.entries.push_back(
        {problem, {"layer"}, Unmeasured(DefaultChoice(problem), problem)});
  }
  table.Bind("defaults", Match::kExact);
  VerifyOptions options;
  options.rounds = 3;
  options.allow_noise = true;
  const Result<VerifyReport> report =
      Verify(table, nullptr, workloads, options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_EQ(report->entries.size(), table.entries.size());
  for (const VerifiedEntry& entry : report->entries) {
    EXPECT_EQ(entry.vs_default.value, 1) << entry.problem.ToString();
    EXPECT_GT(entry.chosen_ns, 0);
  }
  const std::vector<Problem> sequence = {
      workloads[0].problem, workloads[1].problem, workloads[0].problem};
  const Result<SequenceReport> in_order =
      VerifySequence(table, *report, workloads, sequence, options);
  ASSERT_TRUE(in_order.ok()) << in_order.status().message();
  EXPECT_EQ(in_order->products, 3u);
  EXPECT_GT(in_order->chosen_ns, 0);
}

// Only what the other table chose otherwise is measured.
TEST(VerifyTest, EqualTablesHaveNothingToCompare) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  const Problem problem = {
      Operation::kColumnMask, 96, 160, WeightType::kF32, 1, 1, 1};
  const auto add = [&](const Choice& choice, DispatchTable& to) {
    to.entries = {{problem, {"layer"}, Unmeasured(choice, problem)}};
    to.Bind("example", Match::kExact);
  };
  add(DefaultChoice(problem), table);
  VerifyOptions options;
  options.rounds = 3;
  options.allow_noise = true;
  const Result<VerifyReport> same = Verify(table, &table, {}, options);
  ASSERT_TRUE(same.ok()) << same.status().message();
  EXPECT_TRUE(same->entries.empty());
  DispatchTable other = table;
  add(ChoiceOf(*DefaultKernel(problem, Layout::kPanel64), Layout::kPanel64, 1),
      other);
  const Result<VerifyReport> differing = Verify(table, &other, {}, options);
  ASSERT_TRUE(differing.ok()) << differing.status().message();
  ASSERT_EQ(differing->entries.size(), 1u);
  EXPECT_EQ(differing->entries[0].rival_layout, Layout::kPanel64);
}

}  // namespace
}  // namespace rankforge
