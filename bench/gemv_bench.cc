// Single matrix-vector products: every variant of the registry that fits the
// requested shape, with useful bandwidth and roofline.
//
//   gemv_bench --benchmark_filter='column_mask_bf16.*/4096x11008/density:50/'
//              --benchmark_repetitions=9
//              --benchmark_enable_random_interleaving=true
//
// By default calls walk through copies of the weights that together are four
// times the last-level cache (at least 256 MiB), so a call never finds its
// weights there.
// Those named "cached" repeat one matrix that fits the last-level cache, those
// named "ceiling" one that fits L2, on one thread: what the instructions of a
// kernel allow when they do not wait for memory. Their roofline is that of
// memory, too, and may be above 1.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "bench/gemv_case.h"
#include "bench/roofline.h"
#include "meta/rules.h"
#include "runtime/plan/plan.h"

namespace rankforge {
namespace {

struct Shape {
  size_t rows;
  size_t cols;
};
constexpr Shape kShapes[] = {{4096, 11008}, {11008, 4096}, {11008, 3072},
                             {12288, 3072}, {4096, 4096},  {16384, 2048},
                             {2048, 16384}, {5632, 2048},  {2048, 5632}};
constexpr Shape kCachedShapes[] = {{512, 512}, {1024, 1024}, {2048, 2048}};
// 256 KiB of bf16: half of the L2 of a Zen 3 core.
constexpr Shape kCeilingShapes[] = {{64, 2048}, {2048, 64}};

// Where weights come from.
enum class Residence { kMemory, kLastLevelCache, kL2 };
constexpr const char* kResidenceNames[] = {"", "/cached", "/ceiling"};

constexpr int kDensityPercents[] = {10, 25, 50, 75, 100};

// As many copies as are cold for a product that reads `density` of each. One
// pool at a time: a benchmark of another shape or layout replaces it.
const std::vector<PackedMatrix>& WeightsFor(const Shape& shape, WeightType type,
                                            Layout layout, Residence residence,
                                            double density) {
  static std::string current;
  static std::vector<PackedMatrix> weights;
  const std::string key = std::to_string(shape.rows) + "x" +
                          std::to_string(shape.cols) + std::string(Name(type)) +
                          std::string(Name(layout));
  if (key != current) {
    weights.clear();
    weights.push_back(RandomWeights(shape.rows, shape.cols, type, layout));
    current = key;
  }
  const double touched = density * static_cast<double>(weights[0].bytes());
  const size_t copies =
      CopiesFor(static_cast<size_t>(touched), residence != Residence::kMemory);
  if (weights.size() < copies) {
    PackedMatrix matrix = std::move(weights[0]);
    weights = CopiesOf(std::move(matrix), copies);
  }
  return weights;
}

void RunGemv(benchmark::State& state, const KernelEntry* entry, Layout layout,
             Shape shape, Residence residence, double density, size_t threads) {
  Problem problem{entry->spec.operation,
                  shape.rows,
                  shape.cols,
                  entry->spec.type,
                  1,
                  1,
                  threads,
                  ActivationsOf(entry->spec)};
  const std::vector<GemvPlan> plans =
      PlansOf(*entry, problem,
              WeightsFor(shape, problem.type, layout, residence, density));
  const GemvInput input(problem, density);
  std::vector<float> y(shape.rows);
  const auto executor = MakeDefaultExecutor(threads);

  // Goes on from the last call: Google Benchmark calls this function several
  // times, and the first copies would still be in the cache.
  static size_t visit = 0;
  RunWithRoofline(state, input.useful_bytes(), threads,
                  residence == Residence::kMemory, [&] {
                    const GemvCall call =
                        input.CallOn(plans[visit++ % plans.size()], y.data());
                    RunCalls({&call, 1}, *executor);
                  });
}

bool Applies(const KernelEntry& entry, const Shape& shape, Layout layout) {
  const bool fits =
      entry.static_rows == 0 ||
      (entry.static_rows == shape.rows && entry.static_cols == shape.cols);
  return !entry.is_reference() && Accepts(entry.spec, layout) &&
         Serves(entry.spec, 1) && ServesBatch(entry.spec, 1) && fits;
}

void RegisterShape(const Shape& shape, Residence residence) {
  for (const Layout layout : kLayouts) {
    for (const KernelEntry& entry : Registry::Get().entries()) {
      if (!Applies(entry, shape, layout)) continue;
      for (const int percent : kDensityPercents) {
        if (entry.spec.operation == Operation::kDense && percent != 100) {
          continue;
        }
        for (const size_t threads : {1, 2}) {
          if (residence == Residence::kL2 && threads > 1) continue;
          const std::string name =
              fmt::format("{}/{}x{}/density:{}/threads:{}{}", entry.FullName(),
                          shape.rows, shape.cols, percent, threads,
                          kResidenceNames[static_cast<size_t>(residence)]);
          benchmark::RegisterBenchmark(name.c_str(),
                                       [=, &entry](benchmark::State& state) {
                                         RunGemv(state, &entry, layout, shape,
                                                 residence, percent / 100.0,
                                                 threads);
                                       })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

void RegisterAll() {
  for (const Shape& shape : kShapes) RegisterShape(shape, Residence::kMemory);
  for (const Shape& shape : kCachedShapes) {
    RegisterShape(shape, Residence::kLastLevelCache);
  }
  for (const Shape& shape : kCeilingShapes) {
    RegisterShape(shape, Residence::kL2);
  }
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  rankforge::RegisterAll();
  return rankforge::RunBenchmarks(argc, argv);
}
