// Keeps weights out of the caches between timed calls, as a model does that
// reads all of its layers before it comes back to the same one.
#ifndef RANKFORGE_TUNER_WEIGHT_ROTATION_H_
#define RANKFORGE_TUNER_WEIGHT_ROTATION_H_

#include <cstdint>
#include <vector>

#include "runtime/executor.h"
#include "runtime/packed_matrix.h"
#include "runtime/problem.h"
#include "runtime/status.h"

namespace rankforge {

// A buffer larger than all caches: reading it leaves nothing else in them.
class CacheSweep {
 public:
  explicit CacheSweep(size_t bytes);
  // Reads all of it, a share on every thread, so that the private caches of all
  // cores are swept too.
  void Run(Executor& executor) const;
  size_t bytes() const { return buffer_.size(); }

 private:
  PageBuffer buffer_;
};

// Random weights in several copies that are used in turn.
class WeightRotation {
 public:
  // As many copies as exceed `pool_bytes`, at least one.
  static Result<WeightRotation> Create(const Problem& problem, Layout layout,
                                       size_t pool_bytes, uint64_t seed);

  const PackedMatrix& matrix() const { return matrix_; }
  size_t copies() const { return last_use_.size(); }
  // Index of the copy that was used longest ago.
  size_t Next();
  const std::byte* data(size_t copy) const;
  // When a copy was last used; the unit is the caller's.
  uint64_t& last_use(size_t copy) { return last_use_[copy]; }

 private:
  PackedMatrix matrix_;  // copy 0
  PageBuffer others_;    // the others, each as large as matrix_
  std::vector<uint64_t> last_use_;
  size_t next_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_WEIGHT_ROTATION_H_
