// What a call of the C library costs above the internal C++ plan: the same
// weights, mask and kernel, on one thread. The difference of both times is the
// cost.
//
//   library_bench --benchmark_repetitions=9
//                 --benchmark_enable_random_interleaving=true
//                 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <vector>

#include "include/rankforge/rankforge.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

constexpr size_t kRows = 64, kCols = 64;  // in L1
constexpr float kTau = 0.5f;

std::vector<float> Values(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(i * 7 % 16) / 16;
  }
  return values;
}

void Internal(benchmark::State& state) {
  const std::vector<float> w = Values(kRows * kCols), x = Values(kCols);
  std::vector<float> y(kRows);
  Problem problem;
  problem.operation = Operation::kColumnMask;
  problem.rows = kRows;
  problem.cols = kCols;
  const Choice choice = Dispatcher(nullptr).Decide(problem).choice;
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, kRows, kCols};
  const PackedMatrix weights =
      PackedMatrix::Pack({&source, 1}, problem.type, choice.layout).value();
  const GemvPlan plan = GemvPlan::Bind(weights, problem, choice);
  MaskScratch scratch(kCols);
  const std::unique_ptr<Executor> executor = MakeSerialExecutor();
  for (auto _ : state) {
    const MaskView mask = MakeMask(x.data(), kCols, {.common_tau = kTau},
                                   scratch.storage(), plan.mask_arrays());
    const GemvCall call = plan.ColumnMask(mask, {.y = y.data()});
    RunCalls({&call, 1}, *executor);
    benchmark::DoNotOptimize(y.data());
  }
}
BENCHMARK(Internal);

void Library(benchmark::State& state) {
  const std::vector<float> w = Values(kRows * kCols), x = Values(kCols);
  std::vector<float> y(kRows);
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = 1;
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = RANKFORGE_COLUMN_MASK;
  problem.rows = kRows;
  problem.cols = kCols;
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.data = w.data();
  source.rows = kRows;
  source.cols = kCols;
  rankforge_context* context = nullptr;
  rankforge_weights* weights = nullptr;
  rankforge_plan* plan = nullptr;
  rankforge_context_create(&options, &context);
  rankforge_weights_pack(context, nullptr, &problem, &source, 1, &weights);
  rankforge_plan_gemv(context, nullptr, &problem, weights, &plan);
  size_t bytes = 0;
  rankforge_plan_scratch_size(plan, &bytes);
  void* scratch = std::aligned_alloc(RANKFORGE_SCRATCH_ALIGNMENT,
                                     RoundUp(bytes, kCacheLine));
  rankforge_mask mask = RANKFORGE_MASK_INIT;
  mask.kind = RANKFORGE_MASK_THRESHOLD;
  mask.tau = kTau;
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x.data();
  args.y = y.data();
  args.masks = &mask;
  args.mask_count = 1;
  for (auto _ : state) {
    if (rankforge_run(plan, &args, scratch, bytes) != RANKFORGE_OK) {
      state.SkipWithError(rankforge_last_error());
      break;
    }
    benchmark::DoNotOptimize(y.data());
  }
  std::free(scratch);
  rankforge_plan_destroy(plan);
  rankforge_weights_destroy(weights);
  rankforge_context_destroy(context);
}
BENCHMARK(Library);

}  // namespace
}  // namespace rankforge

BENCHMARK_MAIN();
