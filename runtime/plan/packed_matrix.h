// A weight matrix packed once for one layout: the only copy that decode and
// prefill read.
#ifndef RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_
#define RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/page_buffer.h"
#include "base/status.h"
#include "kernels/numbers/ggml_block.h"
#include "kernels/numbers/quantize.h"
#include "meta/packing.h"
#include "meta/types.h"

namespace rankforge {

// To be raised whenever Pack makes other bytes of the same source: after
// changes to meta/packing.h, to kernels/numbers/quantize.h or to rounding.
// Files of packed weights carry it. packed_matrix_test fails until it is
// raised.
inline constexpr size_t kPackingRevision = 1;

// Where a file has the lines of a matrix, if not in their order: line numbers,
// seen as (outer, middle, inner, kept), have the two in the middle swapped.
struct LineOrder {
  size_t middle = 1;
  size_t inner = 1;
  size_t kept = 1;

  bool is_identity() const { return middle == 1 || inner == 1; }
  // The line of the file that is line `line` of the matrix.
  size_t operator()(size_t line) const {
    if (is_identity()) return line;
    const size_t k = line % kept;
    const size_t i = line / kept % inner;
    const size_t m = line / kept / inner % middle;
    const size_t outer = line / kept / inner / middle;
    return ((outer * inner + i) * middle + m) * kept + k;
  }
};

// Source weights as a checkpoint has them; one or several matrices of equal
// cols stacked on top of each other (q, k, v; gate, up). A line is contiguous:
// a row, or a column where `transposed`. It is whole blocks of its type.
struct SourceMatrix {
  using Type = GgmlType;
  const void* data = nullptr;  // (rows, cols), contiguous, may be unaligned
  Type type = Type::kF32;
  size_t rows = 0;
  size_t cols = 0;
  bool transposed = false;  // `data` is (cols, rows): A of an adapter file
  LineOrder order = {};
  float added = 0;         // to every weight of the file
  size_t line_stride = 0;  // bytes between lines; 0: they follow each other

  size_t lines() const { return transposed ? cols : rows; }
  size_t line_length() const { return transposed ? rows : cols; }
  size_t line_bytes() const {
    const GgmlFormat& format = FormatOf(type);
    return line_length() / format.weights * format.bytes;
  }
  // Whether the bytes of the file are the matrix, in a type of one weight.
  bool is_plain() const {
    return FormatOf(type).weights == 1 && order.is_identity() && added == 0 &&
           (line_stride == 0 || line_stride == line_bytes());
  }
};

// Whether groups of `type` hold the integers of blocks of `source` as they are,
// where they lie along the lines of the source, and their scales and minimums,
// rounded to f16. They are f16 already, but for Q4_K, where they are products.
bool KeepsBlocks(GgmlType source, WeightType type);

// The type that loses nothing of weights stored as `source`, or least: floats
// stay as they are, blocks get the type of the fewest bits that KeepsBlocks of
// them, or i8_group32.
WeightType StoredType(GgmlType source);

// The largest magnitude that this type, or the scale of its groups, holds.
float LargestWeight(WeightType type);
// An error that counts the weights of `tensor`, of the file `path`, that are
// NaN, infinite, or above LargestWeight(type), if there are any.
Status CheckWeights(const std::string& path, const std::string& tensor,
                    const SourceMatrix& matrix, WeightType type);

// Rows and columns beyond the shape are zero, so that kernels have no tails:
// the contiguous dimension is padded to kColumnStep elements, the number of
// columns (column layouts) or rows ([out][in]) to kMaxGranularity. Where each
// weight and scale lies: meta/packing.h.
//
// A run is the unit that has scales and minimums of its own: a row in
// [out][in] and where rows are interleaved, a column in the other layouts. It
// is contiguous, but panels cut it into pieces, and interleaved rows lie among
// each other.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Packs `parts`, stacked, as (sum of rows, cols). Values are rounded to
  // nearest even for bf16 and f16, and as QuantizeRun says for integers. Where
  // `type` KeepsBlocks of all parts and its groups lie along the lines of the
  // source, scales and minimums are the source's. Otherwise they are chosen
  // anew, and quantization_error says what that cost.
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

  // `rows`, read in place and never written, with line_stride or none between
  // its rows. They lie as those of [out][in] do: f32 or f16 of that type, in
  // whole blocks, and f32 on cache lines. The status says what does not hold.
  static Result<PackedMatrix> AdoptRows(const SourceMatrix& rows,
                                        WeightType type);

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

  size_t runs() const { return RunsAreRows(layout_) ? rows_ : cols_; }
  size_t run_length() const { return RunsAreRows(layout_) ? cols_ : rows_; }
  // Stores a whole run. `values` is (RunWeights(run_length()),), with zeros
  // after the values of the run. `scales` and, for types that have them,
  // `minimums` have one f16 per group for the matrix to use; null: it chooses
  // them. Several threads may set runs at once.
  // Returns the error of rounding to integers; zeros for the other types.
  QuantizationError SetRun(size_t run, const float* values,
                           const float* scales = nullptr,
                           const float* minimums = nullptr);
  // The sum over all runs that Pack stored.
  const QuantizationError& quantization_error() const { return error_; }
  // Whether Pack found all weights finite, and none too large for the type.
  bool finite() const { return finite_; }

  // Widens rows [row_begin, row_begin + count) into `out` (count, cols), or
  // into (cols, count) when TilesAreTransposed(). For prefill and tests.
  // row_begin is a multiple of PartQuantum, or any where runs are rows.
  void WidenTile(size_t row_begin, size_t count, float* out) const;
  bool TilesAreTransposed() const { return !RunsAreRows(layout_); }

  float At(size_t row, size_t col) const;

 private:
  // Checks the shape. The result has no storage yet.
  static Result<PackedMatrix> OfShape(size_t rows, size_t cols, WeightType type,
                                      Layout layout);
  PackedPosition PositionOf(size_t run, size_t element) const;
  std::byte* Block(size_t run, size_t element);
  const std::byte* Block(size_t run, size_t element) const;
  size_t RunScalesAt() const;  // byte offset
  float ScaleOf(size_t run, size_t element) const;
  float MinimumOf(size_t run, size_t element) const;
  void WidenRun(size_t run, size_t begin, size_t count, float* out) const;

  size_t rows_ = 0;
  size_t cols_ = 0;
  size_t stride_ = 0;
  WeightType type_ = WeightType::kF32;
  Layout layout_ = Layout::kOutIn;
  QuantizationError error_;
  bool finite_ = true;
  const std::byte* data_ = nullptr;
  // One of these two holds the bytes that data_ points to, unless they are the
  // caller's rows.
  PageBuffer buffer_;
  std::shared_ptr<const void> owner_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_PACKED_MATRIX_H_
