// What suites of Google Benchmark share: main, and counters of the useful bytes
// per second and of their share of the read bandwidth, which this process
// measures.
#ifndef RANKFORGE_BENCH_ROOFLINE_H_
#define RANKFORGE_BENCH_ROOFLINE_H_

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <map>

#include "tuner/measure/read_bandwidth.h"

namespace rankforge {

// GB/s, measured once for each number of threads.
inline double ReadGbps(size_t threads) {
  static std::map<size_t, double> measured;
  const auto found = measured.find(threads);
  if (found != measured.end()) return found->second;
  return measured[threads] = MeasureReadBandwidth(threads).gbps;
}

// Runs `call` in the loop of a benchmark whose iterations each read `useful`
// bytes. Ends a `cold` one with an error if they come faster than the read
// loops read memory.
template <class Call>
void RunWithRoofline(benchmark::State& state, double useful, size_t threads,
                     bool cold, Call call) {
  using benchmark::Counter;
  using Clock = std::chrono::steady_clock;
  const double read_gbps = ReadGbps(threads);
  const Clock::time_point start = Clock::now();
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double, std::nano> time = Clock::now() - start;
  const double gbps =
      useful * static_cast<double>(state.iterations()) / time.count();
  const Status status = CheckRoofline("roofline", gbps / read_gbps);
  if (cold && !status.ok()) state.SkipWithError(status.message().c_str());
  state.counters["useful_gbps"] =
      Counter(useful / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["read_gbps"] = read_gbps;
  state.counters["roofline"] =
      Counter(useful / 1e9 / read_gbps, Counter::kIsIterationInvariantRate);
}

inline int RunBenchmarks(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_ROOFLINE_H_
