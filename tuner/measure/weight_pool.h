// Keeps weights out of the caches between timed calls, as a model does that
// reads all of its layers before it comes back to the same one.
#ifndef RANKFORGE_TUNER_MEASURE_WEIGHT_POOL_H_
#define RANKFORGE_TUNER_MEASURE_WEIGHT_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/page_buffer.h"
#include "meta/types.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Memory larger than all caches: reading it leaves nothing else in them.
class CacheSweep {
 public:
  explicit CacheSweep(size_t bytes)
      : CacheSweep(std::make_shared<PageBuffer>(bytes), bytes) {}
  // Sweeps the first `bytes` of a buffer. Others may use it too, but not for
  // weights.
  CacheSweep(std::shared_ptr<PageBuffer> buffer, size_t bytes);
  // Reads all of it, a share on every thread, so that the private caches of all
  // cores are swept too.
  void Run(Executor& executor) const;
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<PageBuffer> buffer_;
  size_t bytes_;
};

// Random weights that all problems and layouts of a tuning run read in turn:
// what is timed depends on where weights lie, not on what they are. Padding is
// random too; kernels multiply it by zero or throw it away.
//
// One buffer serves all: filling one for each problem and layout takes most of
// a run. It has a gigabyte, so that as many pages are in use as in a model.
class WeightPool {
 public:
  // Throws std::bad_alloc when the memory is not there.
  WeightPool(size_t bytes, const CacheSweep* sweep);
  size_t bytes() const { return buffer_.size(); }

  // Makes all weights finite numbers of this type in (-1, 1).
  void Fill(WeightType type, uint64_t seed);
  const std::byte* data() const { return buffer_.data(); }

  // Where the next `bytes` bytes of weights lie, of which a call reads
  // `touched`. They are in no cache: since they were last read, calls have read
  // as many bytes as the sweep has, or the sweep has run.
  const std::byte* NextCold(size_t bytes, uint64_t touched, Executor& executor);
  // Within the first `within` bytes of the pool, cold or not.
  const std::byte* Next(size_t bytes, size_t within);

 private:
  PageBuffer buffer_;
  const CacheSweep* sweep_;
  std::optional<WeightType> type_;
  size_t next_ = 0;
  uint64_t read_since_wrap_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_WEIGHT_POOL_H_
