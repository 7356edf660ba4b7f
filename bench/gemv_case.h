// What the benchmarks of single products share: how many copies keep weights
// out of the caches, and the input, mask and bytes of a product.
#ifndef RANKFORGE_BENCH_GEMV_CASE_H_
#define RANKFORGE_BENCH_GEMV_CASE_H_

#include <cstddef>
#include <vector>

#include "runtime/plan.h"

namespace rankforge {

// Four times the last-level cache and at least 256 MiB: who walks through that
// much finds nothing of it in a cache.
size_t ColdBytes();
// Copies of `bytes` that together are more than that; one if `cached`.
size_t CopiesFor(size_t bytes, bool cached);

// `matrix` and as many copies of it.
std::vector<PackedMatrix> CopiesOf(PackedMatrix matrix, size_t copies);

// x (cols,), uniform in [0, 1), and a mask that keeps about `density` of the
// columns or rows; for a dense product all.
class GemvInput {
 public:
  GemvInput(const Problem& problem, double density);
  // The mask points into the scratch memory, which moves along.
  GemvInput(GemvInput&&) = default;

  // The call that writes y (rows,); the mask must outlive it.
  GemvCall CallOn(const GemvPlan& plan, float* y) const;
  const std::vector<float>& x() const { return x_; }
  const MaskView& mask() const { return mask_; }
  // Of the weights that take part.
  double useful_bytes() const;

 private:
  Problem problem_;
  std::vector<float> x_;
  MaskScratch scratch_;
  MaskView mask_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_GEMV_CASE_H_
