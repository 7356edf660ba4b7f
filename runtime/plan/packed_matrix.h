// A weight matrix packed once for one layout: the only copy that decode and
// prefill read.
#ifndef RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_
#define RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/page_buffer.h"
#include "base/status.h"
#include "kernels/numbers/quantize.h"
#include "meta/types.h"

namespace rankforge {

// To be raised whenever Pack makes other bytes of the same source: after
// changes to meta/packing.h, to kernels/numbers/quantize.h or to rounding.
// Files of packed weights carry it. packed_matrix_test fails until it is
// raised.
inline constexpr size_t kPackingRevision = 1;

// Source weights in the row-major order of a checkpoint; one or several
// matrices of equal cols stacked on top of each other (q, k, v; gate, up).
//
// kGgmlQ8_0 and kGgmlQ4_0 are blocks of 32 neighbours, as ggml stores them: an
// f16 scale and then the integers. Q8_0 has 32 signed bytes. Q4_0 has 16 bytes,
// whose low halves hold the first 16 integers plus 8 and whose high halves hold
// the others plus 8.
struct SourceMatrix {
  enum class Type : uint8_t { kF32, kF16, kBf16, kGgmlQ8_0, kGgmlQ4_0 };
  const void* data = nullptr;  // (rows, cols), contiguous, may be unaligned
  Type type = Type::kF32;
  size_t rows = 0;
  size_t cols = 0;
  bool transposed = false;  // `data` is (cols, rows): A of an adapter file
};

// Rows and columns beyond the shape are zero, so that kernels have no tails:
// the contiguous dimension is padded to kColumnStep elements, the number of
// columns (column layouts) or rows ([out][in]) to kMaxGranularity. Where each
// weight and scale lies: meta/packing.h.
//
// A run is the unit that has scales of its own: a row in [out][in], a column in
// the other layouts. It is contiguous, but panels cut it into pieces.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Packs `parts`, stacked, as (sum of rows, cols). Values are rounded to
  // nearest even for bf16 and f16, and as QuantizeRun says for integers. Blocks
  // of ggml keep their integers and scales if the groups of `type` have the
  // same format and lie along the runs of `layout`. Otherwise they are rounded
  // again, and quantization_error says what that cost.
  static Result<PackedMatrix> Pack(std::span<const SourceMatrix> parts,
                                   WeightType type, Layout layout);
  // An all-zero matrix, to be filled through SetRun, or by a benchmark through
  // `data`.
  static Result<PackedMatrix> Zero(size_t rows, size_t cols, WeightType type,
                                   Layout layout);
  // The matrix that a build of this kPackingRevision packed into `bytes`
  // (64-byte aligned). They are read in place and never written; `owner` keeps
  // them alive.
  static Result<PackedMatrix> Adopt(size_t rows, size_t cols, WeightType type,
                                    Layout layout,
                                    std::span<const std::byte> bytes,
                                    std::shared_ptr<const void> owner,
                                    const QuantizationError& error);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t stride() const { return stride_; }  // in bytes
  WeightType type() const { return type_; }
  Layout layout() const { return layout_; }
  // Writable; must not be called on an adopted matrix.
  std::byte* data() {
    assert(owner_ == nullptr);
    return buffer_.data();
  }
  const std::byte* data() const { return data_; }
  size_t bytes() const;  // padding included
  // (runs,) scales of Scaling::kRun, else null.
  const float* run_scales() const;
  // Bytes of the weights themselves and their scales, without padding.
  double useful_bytes() const;

  size_t runs() const { return layout_ == Layout::kOutIn ? rows_ : cols_; }
  size_t run_length() const {
    return layout_ == Layout::kOutIn ? cols_ : rows_;
  }
  // Stores a whole run. `values` is (RunWeights(run_length()),), with zeros
  // after the values of the run. `scales` has one scale per group for the
  // matrix to use; null: it chooses them. Several threads may set runs at once.
  // Returns the error of rounding to integers; zeros for the other types.
  QuantizationError SetRun(size_t run, const float* values,
                           const float* scales = nullptr);
  // The sum over all runs that Pack stored.
  const QuantizationError& quantization_error() const { return error_; }

  // Widens rows [row_begin, row_begin + count) into `out` (count, cols), or
  // into (cols, count) when TilesAreTransposed(). For prefill and tests.
  // row_begin is a multiple of PartQuantum, or any in [out][in].
  void WidenTile(size_t row_begin, size_t count, float* out) const;
  bool TilesAreTransposed() const { return layout_ != Layout::kOutIn; }

  float At(size_t row, size_t col) const;

 private:
  // Checks the shape. The result has no storage yet.
  static Result<PackedMatrix> OfShape(size_t rows, size_t cols, WeightType type,
                                      Layout layout);
  std::byte* Block(size_t run, size_t element);
  const std::byte* Block(size_t run, size_t element) const;
  size_t RunScalesAt() const;  // byte offset
  float ScaleOf(size_t run, size_t element) const;
  void WidenRun(size_t run, size_t begin, size_t count, float* out) const;

  size_t rows_ = 0;
  size_t cols_ = 0;
  size_t stride_ = 0;
  WeightType type_ = WeightType::kF32;
  Layout layout_ = Layout::kOutIn;
  QuantizationError error_;
  const std::byte* data_ = nullptr;
  // One of these two holds the bytes that data_ points to.
  PageBuffer buffer_;
  std::shared_ptr<const void> owner_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_
