// The counters that every benchmark of kernels reports: useful bytes a second,
// and their share of the read bandwidth that this process measured.
#ifndef RANKFORGE_BENCH_ROOFLINE_H_
#define RANKFORGE_BENCH_ROOFLINE_H_

#include <benchmark/benchmark.h>

#include <cstddef>
#include <map>

#include "tuner/read_bandwidth.h"

namespace rankforge {

// Measured once for each number of threads.
inline double ReadGbps(size_t threads) {
  static std::map<size_t, double> measured;
  const auto found = measured.find(threads);
  if (found != measured.end()) return found->second;
  return measured[threads] = MeasureReadBandwidth(threads).gbps;
}

// After the loop of a benchmark whose iterations each read `useful` bytes.
inline void SetRoofline(benchmark::State& state, double useful,
                        size_t threads) {
  using benchmark::Counter;
  const double read_gbps = ReadGbps(threads);
  state.counters["useful_gbps"] =
      Counter(useful / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["read_gbps"] = read_gbps;
  state.counters["roofline"] =
      Counter(useful / 1e9 / read_gbps, Counter::kIsIterationInvariantRate);
}

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_ROOFLINE_H_
