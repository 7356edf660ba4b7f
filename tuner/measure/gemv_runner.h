// Times what a plan would run, with weights where a model has them: in memory,
// or in the last-level cache when the whole model fits there.
#ifndef RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_
#define RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "base/status.h"
#include "runtime/plan/plan.h"
#include "runtime/table/cpu.h"
#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"
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
  // Hears which candidate is wrong, and what it computed.
  using Report = std::function<void(const Candidate&, const std::string&)>;

  // Draws masks, binds a plan a candidate, and takes those candidates out of
  // `space` that compute something else than the scalar reference; a wrong
  // default is a failure. The arguments must outlive the runner.
  static Result<std::unique_ptr<GemvRunner>> Create(const Workload& workload,
                                                    const MeasuringSetup& setup,
                                                    const Report& report,
                                                    SearchSpace& space);

  Sample Measure(size_t candidate, size_t density) override;
  // A call like those that Measure times, on the next weights of the pool, for
  // who times several runners together; valid as long as the runner.
  GemvCall NextCall(size_t candidate, size_t density);

 private:
  struct MaskSet {
    std::vector<std::unique_ptr<MaskScratch>> memory;
    std::vector<MaskView> views;
  };

  GemvRunner(const Workload& workload, const MeasuringSetup& setup,
             SearchSpace& space);
  Status DescribeWeights();
  void DrawMasks();
  Status RejectWrong(const Report& report);
  // Empty if the candidate computes what the scalar reference computes (to the
  // bit unless it reassociates) on these weights, with none, some and all
  // inputs or outputs kept, and writes nothing else; otherwise what is wrong.
  // Checks some of the outputs of a large matrix, first and last included: the
  // reference is a hundred times slower than what it checks.
  std::string Verify(const Candidate& candidate, const GemvPlan& plan);
  void SetCallsPerSample();
  void AddMask(double density, MaskSet* masks);
  GemvPlan PlanFor(const Candidate& candidate) const;
  GemvCall CallOf(const GemvPlan& plan, const MaskView& mask,
                  const std::byte* weights, float* y);
  // Outputs of some parts of a call, in a frame that shows stray writes.
  std::vector<float> RunSomeParts(const GemvPlan& plan, const MaskView& mask);
  // Bytes of weights that one call reads.
  uint64_t TouchedBytes(const Candidate& candidate, double density) const;
  // Fills calls_ with calls on the next weights of the pool.
  void PrepareCalls(size_t candidate, size_t density);
  double TimeCalls();  // ns of one call

  const Workload& workload_;
  const Problem& problem_;
  SearchSpace& space_;
  const MeasuringSetup& setup_;
  std::mt19937_64 random_;
  std::vector<float> x_;  // (cols,)
  InputScratch rounded_;  // x_, rounded
  std::vector<float> y_;  // (rows,)
  // Shapes and strides; their own storage is never touched.
  std::map<Layout, PackedMatrix> matrices_;
  std::vector<GemvPlan> plans_;  // by candidate
  std::vector<MaskSet> masks_;   // by density
  MaskSet checked_masks_;
  // What the reference gives, by layout, whether it rounds its input, and
  // checked mask.
  std::map<std::tuple<Layout, bool, size_t>, std::vector<float>> expected_;

  std::vector<GemvCall> calls_;  // of the sample being taken
  size_t calls_per_sample_ = 1;
  size_t warm_bytes_ = 0;  // of the pool, when weights are to stay in cache
  bool prime_ = false;     // warm weights need a call before the timed one
  size_t turn_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_GEMV_RUNNER_H_
