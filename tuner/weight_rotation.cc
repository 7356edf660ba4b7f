#include "tuner/weight_rotation.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
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

template <class Stored>
void FillRandomly(PackedMatrix* matrix, uint64_t seed) {
  RandomFill<Stored> fill(seed);
  auto* data = reinterpret_cast<Stored*>(matrix->data());
  const size_t rows = matrix->rows();
  const size_t cols = matrix->cols();
  const size_t stride = matrix->stride();
  const WeightType type = matrix->type();
  switch (matrix->layout()) {
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
      const size_t width = PanelWidth(matrix->layout());
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

Result<WeightRotation> WeightRotation::Create(const Problem& problem,
                                              Layout layout, size_t pool_bytes,
                                              uint64_t seed) {
  WeightRotation rotation;
  RANKFORGE_ASSIGN_OR_RETURN(
      rotation.matrix_,
      PackedMatrix::Zero(problem.rows, problem.cols, problem.type, layout));
  PackedMatrix& matrix = rotation.matrix_;
  if (problem.type == WeightType::kBf16) {
    FillRandomly<uint16_t>(&matrix, seed);
  } else {
    FillRandomly<float>(&matrix, seed);
  }
  const size_t copies = pool_bytes / matrix.bytes() + 1;
  rotation.last_use_.resize(copies, 0);
  try {
    rotation.others_ = PageBuffer((copies - 1) * matrix.bytes());
  } catch (const std::bad_alloc&) {
    return Failed("out of memory for " + std::to_string(copies) + " x " +
                  std::to_string(matrix.bytes()) + " bytes of weights");
  }
  for (size_t copy = 1; copy < copies; ++copy) {
    std::memcpy(rotation.others_.data() + (copy - 1) * matrix.bytes(),
                matrix.data(), matrix.bytes());
  }
  return rotation;
}

size_t WeightRotation::Next() {
  const size_t copy = next_;
  next_ = (next_ + 1) % copies();
  return copy;
}

const std::byte* WeightRotation::data(size_t copy) const {
  return copy == 0 ? matrix_.data()
                   : others_.data() + (copy - 1) * matrix_.bytes();
}

}  // namespace rankforge
