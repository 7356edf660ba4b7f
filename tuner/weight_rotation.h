// Keeps weights out of the caches between timed calls, as a model does that
// reads all of its layers before it comes back to the same one.
#ifndef RANKFORGE_TUNER_WEIGHT_ROTATION_H_
#define RANKFORGE_TUNER_WEIGHT_ROTATION_H_

#include <cstddef>
#include <cstdint>
#include <map>
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

// Room for the weights of one problem at a time in every layout. It is kept
// from problem to problem, because the kernel clears fresh pages at a fraction
// of the rate at which this memory is then filled: that took more than half of
// a tuning run.
class WeightMemory {
 public:
  // `bytes` a layout; only what is used takes memory.
  explicit WeightMemory(size_t bytes) : bytes_(bytes) {}
  size_t bytes() const { return bytes_; }
  std::byte* For(Layout layout);

 private:
  size_t bytes_;
  std::map<Layout, PageBuffer> buffers_;
};

// Random weights in several copies that are used in turn.
class WeightRotation {
 public:
  // As many copies as exceed `pool_bytes`, at least one. They lie in `memory`
  // until the next rotation of this layout is made there.
  static Result<WeightRotation> Create(const Problem& problem, Layout layout,
                                       size_t pool_bytes, uint64_t seed,
                                       WeightMemory* memory);

  // Room that Create needs at most for a problem in one layout.
  static size_t BytesNeeded(const Problem& problem, Layout layout,
                            size_t pool_bytes);

  // Shape and strides of a copy. Its own storage is never touched.
  const PackedMatrix& matrix() const { return matrix_; }
  size_t copies() const { return last_use_.size(); }
  const std::byte* data(size_t copy) const {
    return data_ + copy * matrix_.bytes();
  }
  // Index of the copy that was used longest ago.
  size_t Next();
  // When a copy was last used; the unit is the caller's.
  uint64_t& last_use(size_t copy) { return last_use_[copy]; }

 private:
  PackedMatrix matrix_;
  const std::byte* data_ = nullptr;
  std::vector<uint64_t> last_use_;
  size_t next_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_WEIGHT_ROTATION_H_
