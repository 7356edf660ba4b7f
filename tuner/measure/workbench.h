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

// Bytes whose reading leaves nothing else in the caches: twice what this CPU
// has.
size_t SweepBytes();

class Workbench {
 public:
  // A pool of a gigabyte, or as much as the sweep of the caches where
  // `small_pool`, or what stays in the cache where not `cold`, and no more than
  // tiny weights need; room for the weights of any workload, if there is that
  // much memory (at most half of what the system can still give). `sweep`:
  // memory of SweepBytes() or more that is used for nothing else meanwhile;
  // null: of its own.
  Workbench(const std::vector<Workload>& workloads, bool cold, bool small_pool,
            uint64_t seed, std::shared_ptr<PageBuffer> sweep = nullptr);
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  // For runners from now on. Their team pins its helpers by the CPUs of the
  // calling thread, which is pinned afterwards.
  const MeasuringSetup& SetupFor(size_t threads);

 private:
  CacheSweep sweep_;
  WeightPool pool_;
  std::unique_ptr<Executor> executor_;
  MeasuringSetup setup_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_WORKBENCH_H_
