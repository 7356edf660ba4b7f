// What lies between a caller and a kernel: choosing the function of a call,
// deciding for a problem, loading a table.
//
//   dispatch_bench --benchmark_repetitions=9
//                  --benchmark_report_aggregates_only=true
//
// The counter `allocations` is the number of calls of operator new per
// iteration.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "bench/allocations.h"
#include "kernels/registry.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

constexpr size_t kEntries = 500;
constexpr size_t kDensities = 6;

// Another kernel at each of six densities.
Choice BusyChoice(const Problem& problem) {
  Choice choice = DefaultChoice(problem);
  const auto candidates = Registry::Get().Candidates(
      problem.operation, problem.type, choice.layout, problem.granularity,
      problem.rows, problem.cols, problem.activations);
  choice.by_density.clear();
  for (size_t i = 0; i < kDensities; ++i) {
    choice.by_density.push_back({static_cast<double>(i + 1) / kDensities,
                                 candidates[i % candidates.size()]});
  }
  choice.by_density.back().max_density = 1;
  return choice;
}

Decision BusyDecision(const Problem& problem) {
  Decision decision = Unmeasured(BusyChoice(problem), problem);
  for (Bucket& bucket : decision.by_density) bucket.ns = {1e6, 1e3, 9e5, 25};
  return decision;
}

std::vector<Problem> ManyProblems() {
  std::vector<Problem> problems;
  for (size_t i = 0; i < kEntries; ++i) {
    Problem problem;
    problem.operation = kOperations[i % kOperations.size()];
    problem.type = kWeightTypes[i / kOperations.size() % kWeightTypes.size()];
    problem.rows = 64 * (1 + i);
    problem.cols = 64 * (1 + i % 7);
    problem.threads = 2;
    problems.push_back(problem);
  }
  return problems;
}

// A file with a table of these problems, which it removes at its end.
class TableFile {
 public:
  explicit TableFile(const std::vector<Problem>& problems)
      : path_(std::filesystem::temp_directory_path() /
              ("dispatch_bench." + std::to_string(getpid()) + ".json")) {
    DispatchTable table;
    table.cpu = CpuInfo::Detect();
    for (const Problem& problem : problems) {
      table.entries.push_back(
          {problem, {"model.layers.0.mlp"}, BusyDecision(problem), "recorded"});
    }
    if (!table.Save(path_).ok()) std::abort();
  }
  ~TableFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

void CountAllocations(benchmark::State& state, size_t before) {
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(Allocations() - before),
                         benchmark::Counter::kAvgIterations);
}

// From a mask to the call that the threads get. Each mask has another density.
void PlanCall(benchmark::State& state) {
  const Problem problem = {
      Operation::kColumnMask, 4096, 11008, WeightType::kBf16, 1, 1, 2};
  const PackedMatrix weights = PackedMatrix::Zero(problem.rows, problem.cols,
                                                  problem.type, Layout::kInOut)
                                   .value();
  const GemvPlan plan = GemvPlan::Bind(weights, problem, BusyChoice(problem));
  std::vector<float> y(problem.rows);
  MaskView mask;
  mask.groups = problem.cols;
  const size_t before = Allocations();
  for (auto _ : state) {
    mask.kept = (mask.kept + 4099) % problem.cols;
    GemvCall call = plan.ColumnMask(mask, {.y = y.data()});
    benchmark::DoNotOptimize(call);
  }
  CountAllocations(state, before);
}
BENCHMARK(PlanCall);

// What a model does once per product when it is built.
void Decide(benchmark::State& state) {
  const std::vector<Problem> problems = ManyProblems();
  const TableFile file(problems);
  const DispatchTable table = DispatchTable::Load(file.path()).value();
  const Dispatcher dispatcher(&table);
  size_t turn = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        dispatcher.Decide(problems[turn++ % problems.size()]));
  }
}
BENCHMARK(Decide);

void LoadTable(benchmark::State& state) {
  const TableFile file(ManyProblems());
  for (auto _ : state) {
    benchmark::DoNotOptimize(DispatchTable::Load(file.path()));
  }
}
BENCHMARK(LoadTable)->Unit(benchmark::kMillisecond);

// Loads, then decides and binds for every entry. The weights are packed
// outside the loop.
void LoadTableAndBindPlans(benchmark::State& state) {
  const std::vector<Problem> problems = ManyProblems();
  const TableFile file(problems);
  std::vector<PackedMatrix> weights;
  for (const Problem& problem : problems) {
    weights.push_back(PackedMatrix::Zero(problem.rows, problem.cols,
                                         problem.type,
                                         DefaultChoice(problem).layout)
                          .value());
  }
  for (auto _ : state) {
    const DispatchTable table = DispatchTable::Load(file.path()).value();
    const Dispatcher dispatcher(&table);
    std::vector<GemvPlan> plans;
    for (size_t i = 0; i < problems.size(); ++i) {
      plans.push_back(GemvPlan::Bind(weights[i], problems[i],
                                     dispatcher.Decide(problems[i]).choice));
    }
    benchmark::DoNotOptimize(plans.data());
  }
}
BENCHMARK(LoadTableAndBindPlans)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace rankforge

BENCHMARK_MAIN();
