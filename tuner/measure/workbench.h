// Memory and settings that all measurements of a run share.
#ifndef RANKFORGE_TUNER_MEASURE_WORKBENCH_H_
#define RANKFORGE_TUNER_MEASURE_WORKBENCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"
#include "tuner/measure/gemv_runner.h"
#include "tuner/measure/weight_pool.h"

namespace rankforge {

// As many bytes as must be read to leave nothing else in the caches: twice the
// last-level cache, and at least 64 MiB.
size_t SweepBytes();

class Workbench {
 public:
  // The pool has a gigabyte; with `small_pool` as much as the sweep of the
  // caches; without `cold` half of the last-level cache. It is smaller where
  // tiny weights need less. It has room for the weights of every workload, but
  // takes at most half of the memory that the system can still give. `sweep`:
  // memory of SweepBytes() or more that nothing else uses meanwhile; null: the
  // workbench takes its own.
  Workbench(const std::vector<Workload>& workloads, bool cold, bool small_pool,
            uint64_t seed, std::shared_ptr<PageBuffer> sweep = nullptr);
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  // For runners from now on. Pin the calling thread afterwards: the team
  // chooses the CPUs of its helpers from those of the calling thread.
  const MeasuringSetup& SetupFor(size_t threads);

 private:
  CacheSweep sweep_;
  WeightPool pool_;
  std::unique_ptr<Executor> executor_;
  MeasuringSetup setup_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_WORKBENCH_H_
