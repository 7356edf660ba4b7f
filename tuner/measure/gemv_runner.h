// Times what a plan would run, with weights where a model has them: in memory,
// or in the last-level cache when the whole model fits there.
#ifndef RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_
#define RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/plan/plan.h"
#include "runtime/table/cpu.h"
#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"
#include "tuner/measure/gemv_calls.h"
#include "tuner/measure/weight_pool.h"
#include "tuner/search/search.h"

namespace rankforge {

// What all workloads of a run share.
struct MeasuringSetup {
  CpuInfo cpu;
  bool cold = true;
  uint64_t seed = 0;
  WeightPool* pool = nullptr;
  Executor* executor = nullptr;
};

class GemvRunner : public Runner {
 public:
  // Is told which candidate is wrong, and what it computed.
  using Report = std::function<void(const Candidate&, const std::string&)>;

  // Draws masks, binds one plan per candidate, and removes from `space` those
  // candidates that compute something else than the scalar reference; a wrong
  // default is a failure. The arguments must outlive the runner.
  static Result<std::unique_ptr<GemvRunner>> Create(const Workload& workload,
                                                    const MeasuringSetup& setup,
                                                    const Report& report,
                                                    SearchSpace& space);

  Sample Measure(size_t candidate, size_t density) override;
  // A call like those that Measure times, on the next weights of the pool, for
  // callers that time several runners together; valid as long as the runner.
  GemvCall NextCall(size_t candidate, size_t density);

 private:
  GemvRunner(const Workload& workload, const MeasuringSetup& setup,
             SearchSpace& space);
  // Fails where the largest weights do not fit the pool.
  Status FillPool();
  void DrawMasks();
  Status RejectWrong(const Report& report);
  void SetCallsPerSample();
  // Bytes of weights that one call reads.
  uint64_t TouchedBytes(const Candidate& candidate, double density) const;
  // Fills prepared_ with calls on the next weights of the pool.
  void PrepareCalls(size_t candidate, size_t density);
  double TimeCalls(Layout layout);  // of the candidate; ns of one call

  const Problem& problem_;
  SearchSpace& space_;
  const MeasuringSetup& setup_;
  GemvCalls calls_;
  std::vector<float> y_;         // (rows,)
  std::vector<GemvPlan> plans_;  // by candidate
  std::vector<MaskSet> masks_;   // by density
  MaskSet checked_masks_;        // all, some and none kept

  std::vector<GemvCall> prepared_;  // for the sample being taken
  size_t calls_per_sample_ = 1;
  size_t most_calls_ = 1;  // a sample, each on a copy of the weights
  size_t warm_bytes_ = 0;  // of the pool, when weights are to stay in cache
  bool prime_ = false;     // warm weights need a call before the timed one
  size_t turn_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_
