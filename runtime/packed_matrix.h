// A weight matrix packed once for one layout: the only copy that decode and
// prefill read.
#ifndef RANKFORGE_RUNTIME_PACKED_MATRIX_H_
#define RANKFORGE_RUNTIME_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "meta/types.h"
#include "runtime/status.h"

namespace rankforge {

// Memory from mmap on 2 MiB pages where the kernel grants them, zeroed.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws std::bad_alloc when the memory is not there.
  explicit PageBuffer(size_t bytes);
  ~PageBuffer();
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Source weights in the row-major order of a checkpoint; one or several
// matrices of equal cols stacked on top of each other (q, k, v; gate, up).
struct SourceMatrix {
  enum class Type : uint8_t { kF32, kF16, kBf16 };
  const void* data = nullptr;  // (rows, cols), contiguous, may be unaligned
  Type type = Type::kF32;
  size_t rows = 0;
  size_t cols = 0;
  bool transposed = false;  // `data` is (cols, rows): A of an adapter file
};

// Rows and columns beyond the shape are zero, so that kernels have no tails:
// the contiguous dimension is padded to kBlock elements, the number of columns
// (column layouts) or rows ([out][in]) to kMaxGranularity. Strides of rows and
// columns are RunStride's (meta/packing.h).
//
// bf16 weights are stored in blocks of 32 with element i in the low and element
// 16 + i in the high half of 32-bit word i. Widening a vector is then one shift
// or one mask with all lanes in order, on any vector width, where in-order
// storage needs a lane-crossing zero-extension besides.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Packs `parts`, stacked, as (sum of rows, cols). f32 and f16 sources are
  // rounded to nearest even for bf16.
  static Result<PackedMatrix> Pack(std::span<const SourceMatrix> parts,
                                   WeightType type, Layout layout);
  // An all-zero matrix whose storage a benchmark fills through `data`.
  static Result<PackedMatrix> Zero(size_t rows, size_t cols, WeightType type,
                                   Layout layout);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t stride() const { return stride_; }  // in elements
  WeightType type() const { return type_; }
  Layout layout() const { return layout_; }
  std::byte* data() { return buffer_.data(); }
  const std::byte* data() const { return buffer_.data(); }
  size_t bytes() const { return buffer_.size(); }
  // Bytes of the weights themselves, without padding.
  size_t useful_bytes() const { return rows_ * cols_ * BytesPerWeight(type_); }

  // Widens rows [row_begin, row_begin + count) into `out` (count, cols), or
  // into (cols, count) when TilesAreTransposed(). For prefill and tests.
  void WidenTile(size_t row_begin, size_t count, float* out) const;
  bool TilesAreTransposed() const { return layout_ != Layout::kOutIn; }

  float At(size_t row, size_t col) const;

 private:
  size_t rows_ = 0;
  size_t cols_ = 0;
  size_t stride_ = 0;
  WeightType type_ = WeightType::kF32;
  Layout layout_ = Layout::kOutIn;
  PageBuffer buffer_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PACKED_MATRIX_H_
