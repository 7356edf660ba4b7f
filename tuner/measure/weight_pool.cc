#include "tuner/measure/weight_pool.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kernels/gemv/read_loops.h"
#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

// Fills with runs of a short list of random numbers, each run from another
// place in the list: one number per weight takes longer than the measurements.
// Stores draw(uniform number in [-1, 1)).
template <class Stored, class Draw>
void FillRandomly(uint64_t seed, std::byte* data, size_t bytes, Draw draw) {
  constexpr size_t kListed = size_t{1} << 16;
  std::minstd_rand random(static_cast<uint32_t>(seed));
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<Stored> list(kListed);
  for (Stored& weight : list) {
    weight = static_cast<Stored>(draw(uniform(random)));
  }
  constexpr size_t kRun = kListed / 2 * sizeof(Stored);
  for (size_t begin = 0; begin < bytes; begin += kRun) {
    std::memcpy(data + begin, &list[random() % (kListed / 2)],
                std::min(kRun, bytes - begin));
  }
}

}  // namespace

CacheSweep::CacheSweep(std::shared_ptr<PageBuffer> buffer, size_t bytes)
    : buffer_(std::move(buffer)), bytes_(bytes) {
  assert(bytes_ <= buffer_->size());
  // Pages that were never written to are all one page of zeros.
  std::memset(buffer_->data(), 1, bytes_);
}

void CacheSweep::Run(Executor& executor) const {
  const ReadLoop& loop = ReadLoops().front();
  const size_t parts = executor.threads();
  const size_t piece = bytes() / parts / kCacheLine * kCacheLine;
  std::atomic<float> sink{0};  // so that the loop cannot be optimised away
  executor.Run(parts, [&](size_t part) {
    sink.store(loop.fn(buffer_->data() + part * piece, piece),
               std::memory_order_relaxed);
  });
}

WeightPool::WeightPool(size_t bytes, const CacheSweep* sweep)
    : buffer_(bytes), sweep_(sweep) {}

void WeightPool::Fill(WeightType type, uint64_t seed) {
  if (type_ == type) return;
  const auto fill = [&]<class Stored>(Stored, auto draw) {
    FillRandomly<Stored>(seed, buffer_.data(), bytes(), draw);
  };
  if (type == WeightType::kF32) {
    fill(float(), [](float value) { return value; });
  } else if (type == WeightType::kBf16) {
    fill(uint16_t(), ToBf16);
  } else if (type == WeightType::kF16) {
    fill(uint16_t(), ToF16);
  } else {
    // Scales lie among integer weights, at other places in each layout. Bytes
    // without bit 6 are also f16 and f32 numbers below 2. -128 is among them,
    // as files may have it.
    fill(uint8_t(),
         [](float value) { return static_cast<int>(value * 128) & 0xbf; });
  }
  type_ = type;
}

const std::byte* WeightPool::NextCold(size_t bytes, uint64_t touched,
                                      Executor& executor) {
  if (next_ + RoundUp(bytes, kSmallPage) > this->bytes()) {
    if (read_since_wrap_ < sweep_->bytes()) sweep_->Run(executor);
    read_since_wrap_ = 0;
  }
  read_since_wrap_ += touched;
  return Next(bytes, this->bytes());
}

const std::byte* WeightPool::Next(size_t bytes, size_t within) {
  assert(bytes <= this->bytes());
  const size_t size = RoundUp(bytes, kSmallPage);
  if (next_ + size > std::min(within, this->bytes())) next_ = 0;
  const std::byte* weights = data() + next_;
  next_ += size;
  return weights;
}

}  // namespace rankforge
