#include "runtime/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "kernels/bfloat16.h"
#include "meta/packing.h"
#include "runtime/source_weight.h"

namespace rankforge {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// A block of kBlock stored weights, in order.
template <class Stored>
void WidenBlock(const Stored* block, float* out) {
  if constexpr (sizeof(Stored) == 4) {
    std::copy(block, block + kBlock, out);
  } else {
    for (size_t j = 0; j < kBlock / 2; ++j) {
      uint32_t word;
      std::memcpy(&word, block + 2 * j, sizeof(word));
      out[j] = std::bit_cast<float>(word << 16);
      out[kBlock / 2 + j] = std::bit_cast<float>(word & 0xffff0000u);
    }
  }
}

// out (count,) = elements [begin, begin + count) of the contiguous run at
// `run`; begin is a multiple of kBlock.
template <class Stored>
void WidenRun(const Stored* run, size_t begin, size_t count, float* out) {
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    WidenBlock(run + begin + i, out + i);
  }
  if (i < count) {
    float block[kBlock];
    WidenBlock(run + begin + i, block);
    std::copy(block, block + (count - i), out + i);
  }
}

}  // namespace

PageBuffer::PageBuffer(size_t bytes) {
  if (bytes == 0) return;
  // Whole huge pages, so that the tail of a large matrix gets one too.
  const size_t mapped =
      bytes >= kHugePage ? RoundUp(bytes, kHugePage) : RoundUp(bytes, 4096);
  // Over-allocated by one page to align, the ends are given back.
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* address = mmap(nullptr, mapped + slack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(address);
  if (slack != 0) {
    const size_t position = reinterpret_cast<uintptr_t>(begin) % kHugePage;
    const size_t front = position == 0 ? 0 : kHugePage - position;
    if (front != 0) munmap(begin, front);
    munmap(begin + front + mapped, slack - front);
    begin += front;
    // Refused on systems without transparent huge pages: then it is slower.
    static_cast<void>(madvise(begin, mapped, MADV_HUGEPAGE));
  }
  data_ = begin;
  size_ = mapped;
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Result<PackedMatrix> PackedMatrix::Zero(size_t rows, size_t cols,
                                        WeightType type, Layout layout) {
  if (rows == 0 || cols == 0) {
    return Failed("a matrix needs at least one row and one column");
  }
  // Far beyond any memory, and small enough for the products below.
  if (rows > (size_t{1} << 31) || cols > (size_t{1} << 31) ||
      rows * cols > (size_t{1} << 44)) {
    return Failed("matrix of " + std::to_string(rows) + " x " +
                  std::to_string(cols) + " is too large");
  }
  PackedMatrix matrix;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  matrix.type_ = type;
  matrix.layout_ = layout;
  matrix.stride_ = PackedStride(layout, type, rows, cols);
  const size_t bytes =
      PackedStrides(layout, rows, cols) * matrix.stride_ * BytesPerWeight(type);
  try {
    matrix.buffer_ = PageBuffer(bytes);
  } catch (const std::bad_alloc&) {
    return Failed("out of memory: " + std::to_string(bytes) +
                  " bytes for a packed matrix");
  }
  return matrix;
}

Result<PackedMatrix> PackedMatrix::Pack(std::span<const SourceMatrix> parts,
                                        WeightType type, Layout layout) {
  size_t rows = 0;
  for (const SourceMatrix& part : parts) {
    if (part.cols != parts[0].cols) {
      return Failed("stacked matrices differ in columns: " +
                    std::to_string(parts[0].cols) + " and " +
                    std::to_string(part.cols));
    }
    rows += part.rows;
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      Zero(rows, parts.empty() ? 0 : parts[0].cols, type, layout));
  // Tiles of kTile x kTile keep both sides of a transposing copy in L1.
  constexpr size_t kTile = 32;
  std::byte* data = matrix.data();
  size_t first_row = 0;
  for (const SourceMatrix& part : parts) {
    for (size_t row_tile = 0; row_tile < part.rows; row_tile += kTile) {
      const size_t row_end = std::min(part.rows, row_tile + kTile);
      for (size_t col_tile = 0; col_tile < part.cols; col_tile += kTile) {
        const size_t col_end = std::min(part.cols, col_tile + kTile);
        for (size_t row = row_tile; row < row_end; ++row) {
          for (size_t col = col_tile; col < col_end; ++col) {
            const float value = SourceAt(part, row, col);
            const size_t offset = PackedOffset(layout, type, matrix.stride_,
                                               first_row + row, col);
            if (type == WeightType::kBf16) {
              reinterpret_cast<uint16_t*>(data)[offset] = ToBf16(value);
            } else {
              reinterpret_cast<float*>(data)[offset] = value;
            }
          }
        }
      }
    }
    first_row += part.rows;
  }
  return matrix;
}

void PackedMatrix::WidenTile(size_t row_begin, size_t count, float* out) const {
  assert(row_begin + count <= rows_);
  assert(layout_ == Layout::kOutIn || row_begin % kBlock == 0);
  const auto widen = [&](auto* stored) {
    if (layout_ == Layout::kOutIn) {
      for (size_t r = 0; r < count; ++r) {
        WidenRun(stored + (row_begin + r) * stride_, 0, cols_, out + r * cols_);
      }
    } else if (layout_ == Layout::kInOut) {
      for (size_t c = 0; c < cols_; ++c) {
        WidenRun(stored + c * stride_, row_begin, count, out + c * count);
      }
    } else {
      const size_t width = PanelWidth(layout_);
      size_t done = 0;
      while (done < count) {
        const size_t row = row_begin + done;
        const size_t piece = std::min(count - done, width - row % width);
        const auto* panel = stored + row / width * stride_;
        for (size_t c = 0; c < cols_; ++c) {
          WidenRun(panel + c * width, row % width, piece,
                   out + c * count + done);
        }
        done += piece;
      }
    }
  };
  if (type_ == WeightType::kF32) {
    widen(reinterpret_cast<const float*>(data()));
  } else {
    widen(reinterpret_cast<const uint16_t*>(data()));
  }
}

float PackedMatrix::At(size_t row, size_t col) const {
  const size_t offset = PackedOffset(layout_, type_, stride_, row, col);
  return type_ == WeightType::kF32
             ? reinterpret_cast<const float*>(data())[offset]
             : FromBf16(reinterpret_cast<const uint16_t*>(data())[offset]);
}

}  // namespace rankforge
