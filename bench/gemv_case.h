// What the benchmarks of products share: copies that keep weights out of the
// caches, turns, and the input, mask and bytes of a product.
#ifndef RANKFORGE_BENCH_GEMV_CASE_H_
#define RANKFORGE_BENCH_GEMV_CASE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "base/statistics.h"
#include "base/status.h"
#include "runtime/plan/plan.h"
#include "runtime/table/dispatch.h"

namespace rankforge {

// Four times the last-level cache and at least 256 MiB: a walk through that
// many bytes finds none of them in a cache.
size_t ColdBytes();
// The number of copies of `bytes` that together are more than ColdBytes(); one
// if `cached`.
size_t CopiesFor(size_t bytes, bool cached);

const char* ResidenceName(bool cached);

// Fails if weights that were not in a cache came quicker than memory is read:
// `share` is the largest share of the read bandwidth that a program measured.
Status CheckLargestShare(bool cached, double share);

// Any weights, all of them finite.
PackedMatrix RandomWeights(size_t rows, size_t cols, WeightType type,
                           Layout layout);

// `matrix` and as many copies of it.
std::vector<PackedMatrix> CopiesOf(PackedMatrix matrix, size_t copies);

// A plan on each of the matrices that runs `entry` at every density, on all
// threads of the problem.
std::vector<GemvPlan> PlansOf(const KernelEntry& entry, const Problem& problem,
                              const std::vector<PackedMatrix>& matrices);

// Copies of a matrix of random weights, packed as the dispatcher decides, with
// a plan each; one if cached.
class LayerCopies {
 public:
  LayerCopies(const Problem& problem, const Dispatcher& dispatcher,
              bool cached);
  const GemvPlan& At(size_t turn) const { return plans_[turn % plans_.size()]; }
  double useful_bytes() const { return copies_[0].useful_bytes(); }

 private:
  std::vector<PackedMatrix> copies_;
  std::vector<GemvPlan> plans_;
};

// The magnitude that `share` of the values reach.
float ThresholdFor(std::vector<float> values, double share);

// One turn of a contestant: an untimed call, which wakes its threads as the
// product before it does in a model, then at least five calls, for 8 ms.
// Returns the median of their nanoseconds. run(turn) gets the number of the
// call, which `turn` counts.
double TurnNs(size_t& turn, const std::function<void(size_t)>& run);

// x (cols,), uniform in [0, 1), and a mask that keeps about `density` of the
// columns or rows. A dense product reads all of them.
class GemvInput {
 public:
  GemvInput(const Problem& problem, double density);
  // The mask points into the scratch memory, which moves along.
  GemvInput(GemvInput&&) = default;

  // The call that writes y (rows,), valid until the next CallOn.
  GemvCall CallOn(const GemvPlan& plan, float* y) const;
  const std::vector<float>& x() const { return x_; }
  const MaskView& mask() const { return mask_; }
  // Bytes of the weights that take part.
  double useful_bytes() const;

 private:
  Problem problem_;
  std::vector<float> x_;
  MaskScratch scratch_;
  std::unique_ptr<InputScratch> rounded_;  // of the call, not of the input
  std::unique_ptr<SumsScratch> sums_;
  MaskView mask_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_GEMV_CASE_H_
