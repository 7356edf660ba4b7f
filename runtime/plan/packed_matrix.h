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

// Raised whenever the bytes that Pack makes of a source change: meta/packing.h,
// kernels/numbers/quantize.h, rounding. Files of packed weights carry it, and
// packed_matrix_test fails until it is raised.
inline constexpr size_t kPackingRevision = 1;

// Source weights in the row-major order of a checkpoint; one or several
// matrices of equal cols stacked on top of each other (q, k, v; gate, up).
//
// kGgmlQ8_0 and kGgmlQ4_0 are blocks of 32 neighbours, as ggml stores them: an
// f16 scale, then 32 signed bytes, or 16 bytes whose low halves are the first
// 16 weights, plus 8, and whose high halves the others.
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
// A run is what is contiguous and has its own scales: a row in [out][in], a
// column in the other layouts (panels cut it into pieces).
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Packs `parts`, stacked, as (sum of rows, cols). Values are rounded to
  // nearest even for bf16 and f16, for integers as QuantizeRun says. Blocks of
  // ggml keep their integers and scales where the groups of `type` are theirs
  // and run along `layout`; elsewhere they are rounded anew, and
  // quantization_error says what that cost.
  static Result<PackedMatrix> Pack(std::span<const SourceMatrix> parts,
                                   WeightType type, Layout layout);
  // An all-zero matrix whose storage is filled through SetRun, or by a
  // benchmark through `data`.
  static Result<PackedMatrix> Zero(size_t rows, size_t cols, WeightType type,
                                   Layout layout);
  // The matrix that was packed into `bytes` (64-byte aligned) by a build of
  // this kPackingRevision. They stay where they are and are only read; `owner`
  // keeps them there.
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
  // To be written to; an adopted matrix has no such bytes.
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
  // after the values of the run. Several threads may set runs at once. `scales`
  // has one scale per group, which the matrix takes; null: it chooses them.
  // Returns the error of rounding to integers; zeros for the other types.
  QuantizationError SetRun(size_t run, const float* values,
                           const float* scales = nullptr);
  // Of all runs that Pack stored.
  const QuantizationError& quantization_error() const { return error_; }

  // Widens rows [row_begin, row_begin + count) into `out` (count, cols), or
  // into (cols, count) when TilesAreTransposed(). For prefill and tests.
  // row_begin is a multiple of PartQuantum, or any in [out][in].
  void WidenTile(size_t row_begin, size_t count, float* out) const;
  bool TilesAreTransposed() const { return layout_ != Layout::kOutIn; }

  float At(size_t row, size_t col) const;

 private:
  // Checked, without weights.
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
  // One of them has what data_ points to.
  PageBuffer buffer_;
  std::shared_ptr<const void> owner_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_
