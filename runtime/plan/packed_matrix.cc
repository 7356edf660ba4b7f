#include "runtime/plan/packed_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/numbers/float16.h"
#include "kernels/numbers/stored_weight.h"
#include "meta/packing.h"
#include "runtime/plan/source_weight.h"

namespace rankforge {
namespace {

// Whether no value is NaN or of a larger magnitude. Magnitudes of floats are
// ordered as their bits are, with NaN above infinity, so that the compiler can
// take the largest of integers.
bool AllWithin(float largest, std::span<const float> values) {
  uint32_t most = 0;
  for (const float value : values) {
    most = std::max(most, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  return most <= std::bit_cast<uint32_t>(largest);
}

// Calls visit(byte, low, high) with the elements in the halves of each byte of
// a block of 4-bit weights.
template <class Visit>
void ForEachNibblePair(Visit visit) {
  constexpr size_t kApart = 8;  // a vector has 8 lanes: NibblePositionOf
  for (size_t i = 0; i < kBlock; i += 2 * kApart) {
    for (size_t lane = 0; lane < kApart; ++lane) {
      visit(NibblePositionOf(i + lane).byte, i + lane, i + lane + kApart);
    }
  }
}

// Widens a block of kBlock stored weights into `out`, in order and without
// their scale and minimum.
template <WeightType type>
void WidenBlock(const std::byte* block, float* out) {
  if constexpr (type == WeightType::kBf16) {
    // In whole words, so that the compiler vectorises it, as in StoreBlock.
    for (size_t j = 0; j < kBlock / 2; ++j) {
      uint32_t word;
      std::memcpy(&word, block + 4 * j, sizeof(word));
      out[j] = std::bit_cast<float>(word << 16);
      out[kBlock / 2 + j] = std::bit_cast<float>(word & 0xffff0000u);
    }
  } else if constexpr (FormatOf(type).bits == 4) {
    ForEachNibblePair([&](size_t byte, size_t low, size_t high) {
      const int pair = std::to_integer<int>(block[byte]);
      out[low] = static_cast<float>((pair & 15) - NibbleZero(type));
      out[high] = static_cast<float>((pair >> 4) - NibbleZero(type));
    });
  } else {
    for (size_t i = 0; i < kBlock; ++i) out[i] = StoredWeight<type>(block, i);
  }
}

template <WeightType type>
void StoreBlock(const float* values, std::byte* block) {
  if constexpr (type == WeightType::kBf16) {
    for (size_t j = 0; j < kBlock / 2; ++j) {
      const uint32_t word =
          ToBf16(values[j]) | uint32_t{ToBf16(values[kBlock / 2 + j])} << 16;
      std::memcpy(block + 4 * j, &word, sizeof(word));
    }
  } else if constexpr (FormatOf(type).bits == 4) {
    ForEachNibblePair([&](size_t byte, size_t low, size_t high) {
      block[byte] = static_cast<std::byte>(
          (static_cast<int>(values[low]) + NibbleZero(type)) |
          (static_cast<int>(values[high]) + NibbleZero(type)) << 4);
    });
  } else {
    for (size_t i = 0; i < kBlock; ++i) StoreWeight<type>(values[i], block, i);
  }
}

void StoreHalf(float value, std::byte* to) {
  const uint16_t half = ToF16(value);
  std::memcpy(to, &half, sizeof(half));
}

float HalfAt(const std::byte* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof(half));
  return FromF16(half);
}

// Calls visit(i, byte, high) for the kBlock weights from `element` on of a row
// of interleaved rows, where weight i is in the low or the high half of its
// byte, or is all of it. Neighbours share a word.
template <WeightType type, class Visit>
void ForEachInterleaved(size_t stride, size_t row, size_t element,
                        Visit visit) {
  constexpr size_t kNeighbours = kCacheLine / RowsTogether(Layout::kRows16);
  for (size_t i = 0; i < kBlock && IsQuantized(type); i += kNeighbours) {
    const PackedPosition at =
        InterleavedPositionOf(type, stride, row, element + i);
    for (size_t j = 0; j < kNeighbours; ++j) {
      visit(i + j, at.block + j, at.in_block != 0);
    }
  }
}

// Rows [row, row + rows) and columns [col, col + cols) of a matrix.
struct Tile {
  size_t row;
  size_t rows;
  size_t col;
  size_t cols;
};
// out[r * row_step + c * col_step] = weight (r, c) of the tile, whether or not
// `part` is transposed.
void CopyTile(const SourceMatrix& part, const Tile& tile, size_t row_step,
              size_t col_step, float* out) {
  const size_t first = part.transposed ? tile.col : tile.row;
  const size_t lines = part.transposed ? tile.cols : tile.rows;
  const size_t begin = part.transposed ? tile.row : tile.col;
  const size_t length = part.transposed ? tile.rows : tile.cols;
  const size_t line_step = part.transposed ? col_step : row_step;
  const size_t step = part.transposed ? row_step : col_step;
  for (size_t line = 0; line < lines; ++line) {
    float* const to = out + line * line_step;
    if (step == 1) {
      WidenLine(part, first + line, begin, length, to);
      continue;
    }
    float widened[kMaxGgmlWeights];
    for (size_t i = 0; i < length; i += kMaxGgmlWeights) {
      const size_t count = std::min(kMaxGgmlWeights, length - i);
      WidenLine(part, first + line, begin + i, count, widened);
      for (size_t j = 0; j < count; ++j) to[(i + j) * step] = widened[j];
    }
  }
}

// Whether the groups of `type` in `layout` hold the integers of the source.
bool KeepsGroups(const SourceMatrix& part, WeightType type, Layout layout) {
  return KeepsBlocks(part.type, type) && part.added == 0 &&
         RunsAreRows(layout) != part.transposed;
}

// The scales and minimums of the groups of a line of the source, as f16 hold
// them.
void CopyScales(const SourceMatrix& part, size_t line, float* scales,
                float* minimums) {
  const GgmlFormat& format = FormatOf(part.type);
  const size_t groups = format.weights / format.group;
  const std::byte* block = SourceLine(part, line);
  const size_t blocks = part.line_length() / format.weights;
  for (size_t i = 0; i < blocks; ++i, block += format.bytes) {
    format.groups(block, scales + i * groups, minimums + i * groups);
  }
  for (size_t i = 0; i < blocks * groups; ++i) {
    scales[i] = FromF16(ToF16(scales[i]));
    minimums[i] = FromF16(ToF16(minimums[i]));
  }
}

}  // namespace

Result<PackedMatrix> PackedMatrix::OfShape(size_t rows, size_t cols,
                                           WeightType type, Layout layout) {
  if (rows == 0 || cols == 0) {
    return Failed("a matrix needs at least one row and one column");
  }
  // Far beyond any memory, and small enough that no product of sizes overflows.
  if (rows > (size_t{1} << 31) || cols > (size_t{1} << 31) ||
      rows * cols > (size_t{1} << 44)) {
    return Failed("matrix of " + std::to_string(rows) + " x " +
                  std::to_string(cols) + " is too large");
  }
  if (!Offers(layout, type)) {
    return Failed("layout " + std::string(Name(layout)) + " has no " +
                  std::string(Name(type)) + " weights");
  }
  PackedMatrix matrix;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  matrix.type_ = type;
  matrix.layout_ = layout;
  matrix.stride_ = PackedStride(layout, type, rows, cols);
  return matrix;
}

Result<PackedMatrix> PackedMatrix::Zero(size_t rows, size_t cols,
                                        WeightType type, Layout layout) {
  RANKFORGE_ASSIGN_OR_RETURN(PackedMatrix matrix,
                             OfShape(rows, cols, type, layout));
  try {
    matrix.buffer_ = PageBuffer(matrix.bytes());
  } catch (const std::bad_alloc&) {
    return Failed("out of memory: " + std::to_string(matrix.bytes()) +
                  " bytes for a packed matrix");
  }
  matrix.data_ = matrix.buffer_.data();
  return matrix;
}

Result<PackedMatrix> PackedMatrix::Adopt(size_t rows, size_t cols,
                                         WeightType type, Layout layout,
                                         std::span<const std::byte> bytes,
                                         std::shared_ptr<const void> owner,
                                         const QuantizationError& error) {
  assert(owner != nullptr);
  RANKFORGE_ASSIGN_OR_RETURN(PackedMatrix matrix,
                             OfShape(rows, cols, type, layout));
  if (bytes.size() != matrix.bytes() ||
      reinterpret_cast<uintptr_t>(bytes.data()) % kCacheLine != 0) {
    return Failed("a packed matrix needs " + std::to_string(matrix.bytes()) +
                  " bytes on a cache line, not " +
                  std::to_string(bytes.size()));
  }
  matrix.data_ = bytes.data();
  matrix.owner_ = std::move(owner);
  matrix.error_ = error;
  return matrix;
}

Result<PackedMatrix> PackedMatrix::AdoptRows(const SourceMatrix& source,
                                             WeightType type) {
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      OfShape(source.rows, source.cols, type, Layout::kOutIn));
  const bool same =
      (source.type == GgmlType::kF32 && type == WeightType::kF32) ||
      (source.type == GgmlType::kF16 && type == WeightType::kF16);
  if (!same) {
    return UsageError(fmt::format(
        "rows of {} cannot be read in place as {}, only f32 as f32 and f16 as "
        "f16; pack them",
        FormatOf(source.type).name, Name(type)));
  }
  if (source.transposed || !source.order.is_identity() || source.added != 0) {
    return UsageError("only rows can be read in place, not columns; pack them");
  }
  if (source.cols % kBlock != 0) {
    return UsageError(fmt::format(
        "rows of {} weights cannot be read in place, only multiples of {}; "
        "pack them",
        source.cols, kBlock));
  }
  matrix.stride_ =
      source.line_stride == 0 ? source.line_bytes() : source.line_stride;
  const size_t alignment =
      type == WeightType::kF32 ? kCacheLine : alignof(uint16_t);
  if ((reinterpret_cast<uintptr_t>(source.data) | matrix.stride_) % alignment !=
      0) {
    return UsageError(fmt::format(
        "rows of {} that are read in place begin at multiples of {} bytes; "
        "align them or pack them",
        Name(type), alignment));
  }
  matrix.data_ = static_cast<const std::byte*>(source.data);
  return matrix;
}

namespace {

// The sum of the rows of all parts. Fails if they cannot be stacked.
Result<size_t> StackedRows(std::span<const SourceMatrix> parts) {
  size_t rows = 0;
  for (const SourceMatrix& part : parts) {
    if (part.cols != parts[0].cols) {
      return Failed("stacked matrices differ in columns: " +
                    std::to_string(parts[0].cols) + " and " +
                    std::to_string(part.cols));
    }
    const size_t block = FormatOf(part.type).weights;
    if (part.line_length() % block != 0) {
      return Failed("blocks of " + std::to_string(block) +
                    " weights do not fit lines of " +
                    std::to_string(part.line_length()));
    }
    rows += part.rows;
  }
  return rows;
}

// Runs that Pack makes together: as many as the largest block has weights.
size_t RunsAtOnce(std::span<const SourceMatrix> parts) {
  size_t runs = 64;
  for (const SourceMatrix& part : parts) {
    runs = std::max(runs, FormatOf(part.type).weights);
  }
  return runs;
}

}  // namespace

bool KeepsBlocks(GgmlType source, WeightType type) {
  const GgmlFormat& from = FormatOf(source);
  const WeightFormat& to = FormatOf(type);
  return from.integer_bits != 0 && from.integer_bits <= to.bits &&
         from.group == to.group && from.has_minimum == to.has_minimum;
}

WeightType StoredType(GgmlType source) {
  if (source == GgmlType::kF32) return WeightType::kF32;
  if (source == GgmlType::kBf16) return WeightType::kBf16;
  if (source == GgmlType::kF16) return WeightType::kF16;
  WeightType least = WeightType::kI8Group32;
  for (const WeightType type : kWeightTypes) {
    if (KeepsBlocks(source, type) &&
        FormatOf(type).bits < FormatOf(least).bits) {
      least = type;
    }
  }
  return least;
}

float LargestWeight(WeightType type) {
  // 65520 and more round to infinity in f16.
  constexpr float kF16 = 65519.996f;
  if (type == WeightType::kBf16) return std::bit_cast<float>(0x7f7f7fffu);
  if (type == WeightType::kF16) return kF16;
  // A minimum is an f16; a scale is one, times 127 or, at least, 7.
  if (FormatOf(type).scaling == Scaling::kGroup) {
    if (FormatOf(type).has_minimum) return kF16;
    return kF16 * (FormatOf(type).bits == 8 ? 127 : 7);
  }
  return std::numeric_limits<float>::max();
}

Status CheckWeights(const std::string& path, const std::string& tensor,
                    const SourceMatrix& matrix, WeightType type) {
  const float largest = LargestWeight(type);
  size_t not_finite = 0, too_large = 0;
  std::vector<float> line(matrix.line_length());
  for (size_t i = 0; i < matrix.lines(); ++i) {
    WidenLine(matrix, i, 0, line.size(), line.data());
    for (const float weight : line) {
      not_finite += !std::isfinite(weight);
      too_large += std::isfinite(weight) && std::abs(weight) > largest;
    }
  }
  const size_t weights = matrix.rows * matrix.cols;
  if (not_finite > 0) {
    return Failed(fmt::format(
        "{}: tensor '{}': {} of {} weights are NaN or infinite; make or "
        "download it again",
        path, tensor, not_finite, weights));
  }
  if (too_large == 0) return {};
  return Failed(fmt::format(
      "{}: tensor '{}': {} of {} weights exceed {:.6g}, the largest that {} "
      "holds; use --dtype bf16",
      path, tensor, too_large, weights, largest, Name(type)));
}

Result<PackedMatrix> PackedMatrix::Pack(std::span<const SourceMatrix> parts,
                                        WeightType type, Layout layout) {
  RANKFORGE_ASSIGN_OR_RETURN(const size_t rows, StackedRows(parts));
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      Zero(rows, parts.empty() ? 0 : parts[0].cols, type, layout));
  // Where runs are columns, each row of the source is then read so many weights
  // at a time: a cache line or more of f32, f16 and bf16, and whole blocks.
  const size_t runs_at_once = RunsAtOnce(parts);
  const bool by_row = RunsAreRows(layout);
  const bool keeps_blocks = std::ranges::all_of(
      parts, [&](const auto& part) { return KeepsGroups(part, type, layout); });
  const size_t pitch = RunWeights(matrix.run_length());
  const size_t group = std::max<size_t>(FormatOf(type).group, 1);
  const size_t groups = pitch / group;
  const float largest = LargestWeight(type);
  std::vector<float> buffer(runs_at_once * pitch);
  std::vector<float> scales(keeps_blocks ? runs_at_once * groups : 0);
  std::vector<float> minimums(scales.size());
  const auto set_runs = [&](size_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      matrix.finite_ =
          matrix.finite_ && AllWithin(largest, {&buffer[i * pitch], pitch});
      matrix.error_ +=
          matrix.SetRun(first + i, &buffer[i * pitch],
                        keeps_blocks ? &scales[i * groups] : nullptr,
                        keeps_blocks ? &minimums[i * groups] : nullptr);
    }
  };
  const auto copy_scales = [&](const SourceMatrix& part, size_t first,
                               size_t count, size_t at) {
    for (size_t i = 0; keeps_blocks && i < count; ++i) {
      CopyScales(part, first + i, &scales[i * groups + at],
                 &minimums[i * groups + at]);
    }
  };
  size_t first_row = 0;
  for (size_t run = 0; !by_row && run < matrix.runs(); run += runs_at_once) {
    const size_t count = std::min(runs_at_once, matrix.runs() - run);
    first_row = 0;
    for (const SourceMatrix& part : parts) {
      CopyTile(part, {0, part.rows, run, count}, 1, pitch,
               buffer.data() + first_row);
      copy_scales(part, run, count, first_row / group);
      first_row += part.rows;
    }
    set_runs(run, count);
  }
  for (const SourceMatrix& part : parts) {
    for (size_t row = 0; by_row && row < part.rows; row += runs_at_once) {
      const size_t count = std::min(runs_at_once, part.rows - row);
      CopyTile(part, {row, count, 0, part.cols}, pitch, 1, buffer.data());
      copy_scales(part, row, count, 0);
      set_runs(first_row + row, count);
    }
    first_row += part.rows;
  }
  return matrix;
}

size_t PackedMatrix::bytes() const {
  return rows_ == 0 ? 0 : PackedBytes(layout_, type_, rows_, cols_);
}

double PackedMatrix::useful_bytes() const {
  return WeightBytes(type_, static_cast<double>(rows_ * cols_));
}

size_t PackedMatrix::RunScalesAt() const {
  return PackedStrides(layout_, rows_, cols_) * stride_;
}

const float* PackedMatrix::run_scales() const {
  if (FormatOf(type_).scaling != Scaling::kRun) return nullptr;
  return reinterpret_cast<const float*>(data() + RunScalesAt());
}

PackedPosition PackedMatrix::PositionOf(size_t run, size_t element) const {
  const bool by_row = RunsAreRows(layout_);
  return PackedPositionOf(layout_, type_, stride_, rows_, cols_,
                          by_row ? run : element, by_row ? element : run);
}

const std::byte* PackedMatrix::Block(size_t run, size_t element) const {
  return data() + PositionOf(run, element).block;
}

std::byte* PackedMatrix::Block(size_t run, size_t element) {
  return const_cast<std::byte*>(std::as_const(*this).Block(run, element));
}

QuantizationError PackedMatrix::SetRun(size_t run, const float* values,
                                       const float* given_scales,
                                       const float* given_minimums) {
  const WeightFormat& format = FormatOf(type_);
  const float* stored = values;
  QuantizationError error;
  std::vector<float> integers, scales, minimums;
  if (IsQuantized(type_)) {
    const size_t padded = RunWeights(run_length());
    integers.resize(padded);
    scales.resize(format.group == 0 ? 1 : padded / format.group);
    minimums.resize(format.has_minimum ? scales.size() : 0);
    const bool given = given_scales != nullptr;
    if (given) {
      std::copy_n(given_scales, scales.size(), scales.data());
      std::copy_n(given_minimums, minimums.size(), minimums.data());
    }
    error = QuantizeRun({values, padded}, type_,
                        given ? Scales::kGiven : Scales::kChosen,
                        integers.data(), scales.data(), minimums.data());
    stored = integers.data();
    // Zeros after the values are not the matrix's. A minimum rounds them.
    for (size_t i = run_length(); format.has_minimum && i < padded; ++i) {
      const size_t group = i / format.group;
      error.error -=
          std::pow(double{integers[i]} * scales[group] + minimums[group], 2);
    }
  }
  if (format.scaling == Scaling::kRun) {
    reinterpret_cast<float*>(data() + RunScalesAt())[run] = scales[0];
  }
  for (size_t i = 0; format.group != 0 && i < scales.size(); ++i) {
    const PackedPosition at = PositionOf(run, i * format.group);
    StoreHalf(scales[i], data() + at.scale);
    if (format.has_minimum) StoreHalf(minimums[i], data() + at.minimum);
  }
  WithType(type_, [&](auto type) {
    for (size_t i = 0; i < run_length(); i += kBlock) {
      if (layout_ == Layout::kRows16) {
        ForEachInterleaved<type>(
            stride_, run, i, [&](size_t j, size_t byte, bool high) {
              StoreInterleaved<type>(stored[i + j], data() + byte, high);
            });
      } else {
        StoreBlock<type>(stored + i, Block(run, i));
      }
    }
  });
  return error;
}

float PackedMatrix::ScaleOf(size_t run, size_t element) const {
  const WeightFormat& format = FormatOf(type_);
  if (format.scaling == Scaling::kNone) return 1;
  if (format.scaling == Scaling::kRun) return run_scales()[run];
  return HalfAt(data() + PositionOf(run, element).scale);
}

float PackedMatrix::MinimumOf(size_t run, size_t element) const {
  if (!FormatOf(type_).has_minimum) return 0;
  return HalfAt(data() + PositionOf(run, element).minimum);
}

void PackedMatrix::WidenRun(size_t run, size_t begin, size_t count,
                            float* out) const {
  WithType(type_, [&](auto type) {
    const size_t width = PanelWidth(layout_);
    const std::byte* block = nullptr;
    for (size_t i = 0; i < count; i += kBlock) {
      // The blocks of a run are contiguous; in a panel layout, only those
      // within one panel are.
      const bool jumps = i == 0 || (width != 0 && (begin + i) % width == 0);
      block = jumps ? Block(run, begin + i) : block + BlockBytes(type);
      float partial[kBlock];
      float* widened = count - i < kBlock ? partial : out + i;
      if (layout_ == Layout::kRows16) {
        ForEachInterleaved<type>(
            stride_, run, begin + i, [&](size_t j, size_t byte, bool high) {
              widened[j] = InterleavedWeight<type>(data() + byte, high);
            });
      } else {
        WidenBlock<type>(block, widened);
      }
      if constexpr (IsQuantized(type)) {
        const float scale = ScaleOf(run, begin + i);
        for (size_t j = 0; j < kBlock; ++j) widened[j] *= scale;
        if constexpr (kMinimums<type>) {
          const float minimum = MinimumOf(run, begin + i);
          for (size_t j = 0; j < kBlock; ++j) widened[j] += minimum;
        }
      }
      if (widened == partial) std::copy_n(partial, count - i, out + i);
    }
  });
}

void PackedMatrix::WidenTile(size_t row_begin, size_t count, float* out) const {
  assert(row_begin + count <= rows_);
  assert(RunsAreRows(layout_) || row_begin % kBlock == 0);
  if (RunsAreRows(layout_)) {
    for (size_t r = 0; r < count; ++r) {
      WidenRun(row_begin + r, 0, cols_, out + r * cols_);
    }
  } else {
    for (size_t c = 0; c < cols_; ++c) {
      WidenRun(c, row_begin, count, out + c * count);
    }
  }
}

float PackedMatrix::At(size_t row, size_t col) const {
  const bool by_row = RunsAreRows(layout_);
  const size_t run = by_row ? row : col;
  const size_t element = by_row ? col : row;
  float weight = 0;
  WithType(type_, [&](auto type) {
    weight = WeightIn<type>(layout_, data(), PositionOf(run, element));
  });
  weight *= ScaleOf(run, element);
  return FormatOf(type_).has_minimum ? weight + MinimumOf(run, element)
                                     : weight;
}

}  // namespace rankforge
