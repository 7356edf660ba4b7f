// The calls that the candidates of a problem would run: its input, masks and
// packed shapes. Times nothing.
#ifndef RANKFORGE_TUNER_MEASURE_GEMV_CALLS_H_
#define RANKFORGE_TUNER_MEASURE_GEMV_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "base/status.h"
#include "kernels/mask/mask.h"
#include "runtime/plan/plan.h"
#include "runtime/table/problem.h"
#include "tuner/search/space.h"

namespace rankforge {

// Masks and the memory that they point to.
struct MaskSet {
  std::vector<std::unique_ptr<MaskScratch>> memory;
  std::vector<MaskView> views;
};

class GemvCalls {
 public:
  // Draws the input. The workload must outlive the calls.
  GemvCalls(const Workload& workload, uint64_t seed);
  GemvCalls(const GemvCalls&) = delete;
  GemvCalls& operator=(const GemvCalls&) = delete;

  // Describes weights of every layout in `space`; fails where one cannot be.
  Status AddLayouts(const SearchSpace& space);
  size_t BytesOf(Layout layout) const { return matrices_.at(layout).bytes(); }

  // One more mask of `masks`; an empty one for a dense product.
  void DrawMask(double density, MaskSet* masks);

  GemvPlan PlanFor(const Candidate& candidate) const;
  // `weights` are packed as the plan's layout says; `y` is (rows,).
  GemvCall CallOf(const GemvPlan& plan, const MaskView& mask,
                  const std::byte* weights, float* y);

  // Reads what the stage before the kernel would just have written.
  void ReadInputsOf(const GemvCall& call) const;
  // Rounds the input for weights in `layout`, if the call takes it rounded:
  // that is part of its time.
  void RoundInputOf(const GemvCall& call, Layout layout);

 private:
  const Workload& workload_;
  const Problem& problem_;
  std::mt19937_64 random_;
  std::vector<float> x_;  // (cols,)
  InputScratch rounded_;  // x_, rounded
  SumsScratch sums_;      // of the call that runs
  // Shapes and strides; their own storage is never touched.
  std::map<Layout, PackedMatrix> matrices_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_GEMV_CALLS_H_
