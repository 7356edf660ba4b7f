#include "tuner/weight_rotation.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <random>

#include "kernels/bfloat16.h"
#include "kernels/read_loops.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

// Fills runs of packed weights from a pool of random ones: drawing a number a
// weight would take longer than the measurements.
template <class Stored>
class RandomFill {
 public:
  explicit RandomFill(uint64_t seed) : random_(seed), pool_(kPool) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (Stored& weight : pool_) {
      if constexpr (sizeof(Stored) == 2) {
        weight = ToBf16(uniform(random_));
      } else {
        weight = uniform(random_);
      }
    }
  }

  // The `count` weights of the contiguous run at `run`; the padding behind them
  // stays as it is.
  void Run(Stored* run, size_t count, WeightType type) {
    const size_t whole = count / kBlock * kBlock;
    for (size_t i = 0; i < whole;) {
      const size_t chunk = std::min(whole - i, kPool / 2);
      std::memcpy(run + i, &pool_[random_() % (kPool / 2)],
                  chunk * sizeof(Stored));
      i += chunk;
    }
    for (size_t i = 0; i < count - whole; ++i) {
      const size_t place = type == WeightType::kBf16 ? SplitPosition(i) : i;
      run[whole + place] = pool_[random_() % kPool];
    }
  }

 private:
  static constexpr size_t kPool = size_t{1} << 16;
  std::minstd_rand random_;
  std::vector<Stored> pool_;
};

// Random weights of the shape of `matrix` at `memory`, its padding included.
template <class Stored>
void FillRandomly(const PackedMatrix& matrix, uint64_t seed,
                  std::byte* memory) {
  RandomFill<Stored> fill(seed);
  std::memset(memory, 0, matrix.bytes());
  auto* data = reinterpret_cast<Stored*>(memory);
  const size_t rows = matrix.rows();
  const size_t cols = matrix.cols();
  const size_t stride = matrix.stride();
  const WeightType type = matrix.type();
  switch (matrix.layout()) {
    case Layout::kOutIn:
      for (size_t row = 0; row < rows; ++row) {
        fill.Run(data + row * stride, cols, type);
      }
      break;
    case Layout::kInOut:
      for (size_t col = 0; col < cols; ++col) {
        fill.Run(data + col * stride, rows, type);
      }
      break;
    case Layout::kPanel64:
    case Layout::kPanel128: {
      const size_t width = PanelWidth(matrix.layout());
      for (size_t row = 0; row < rows; row += width) {
        Stored* panel = data + row / width * stride;
        for (size_t col = 0; col < cols; ++col) {
          fill.Run(panel + col * width, std::min(width, rows - row), type);
        }
      }
      break;
    }
  }
}

}  // namespace

CacheSweep::CacheSweep(size_t bytes) : buffer_(bytes) {
  // Pages never written to are all one page of zeros.
  std::memset(buffer_.data(), 1, buffer_.size());
}

void CacheSweep::Run(Executor& executor) const {
  const ReadLoop& loop = ReadLoops().front();
  const size_t parts = executor.threads();
  const size_t piece = bytes() / parts / kCacheLine * kCacheLine;
  std::atomic<float> sink{0};  // so that the loop cannot be optimised away
  executor.Run(parts, [&](size_t part) {
    sink.store(loop.fn(buffer_.data() + part * piece, piece),
               std::memory_order_relaxed);
  });
}

std::byte* WeightMemory::For(Layout layout) {
  PageBuffer& buffer = buffers_[layout];
  if (buffer.size() == 0) buffer = PageBuffer(bytes_);
  return buffer.data();
}

size_t WeightRotation::BytesNeeded(const Problem& problem, Layout layout,
                                   size_t pool_bytes) {
  const size_t elements =
      PackedStride(layout, problem.type, problem.rows, problem.cols) *
      PackedStrides(layout, problem.rows, problem.cols);
  // A copy takes whole pages, huge ones at most.
  const size_t copy =
      RoundUp(elements * BytesPerWeight(problem.type), size_t{2} << 20);
  return pool_bytes + copy;
}

Result<WeightRotation> WeightRotation::Create(const Problem& problem,
                                              Layout layout, size_t pool_bytes,
                                              uint64_t seed,
                                              WeightMemory* memory) {
  WeightRotation rotation;
  RANKFORGE_ASSIGN_OR_RETURN(
      rotation.matrix_,
      PackedMatrix::Zero(problem.rows, problem.cols, problem.type, layout));
  const PackedMatrix& matrix = rotation.matrix_;
  const size_t copies = pool_bytes / matrix.bytes() + 1;
  assert(copies * matrix.bytes() <= memory->bytes());
  std::byte* data = memory->For(layout);
  if (problem.type == WeightType::kBf16) {
    FillRandomly<uint16_t>(matrix, seed, data);
  } else {
    FillRandomly<float>(matrix, seed, data);
  }
  for (size_t copy = 1; copy < copies; ++copy) {
    std::memcpy(data + copy * matrix.bytes(), data, matrix.bytes());
  }
  rotation.data_ = data;
  rotation.last_use_.resize(copies, 0);
  return rotation;
}

size_t WeightRotation::Next() {
  const size_t copy = next_;
  next_ = (next_ + 1) % copies();
  return copy;
}

}  // namespace rankforge
