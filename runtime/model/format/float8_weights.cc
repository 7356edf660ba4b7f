#include "runtime/model/format/float8_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kernels/numbers/float8.h"
#include "runtime/plan/source_weight.h"

namespace rankforge {
namespace {

struct Float8Kind {
  std::string_view dtype;
  float (*widen)(uint8_t);
};
constexpr Float8Kind kKinds[] = {{"F8_E4M3", FromE4m3}, {"F8_E5M2", FromE5m2}};

// The factors of a tensor, as a matrix of factors of blocks.
struct Float8Scales {
  SourceMatrix factors;
  size_t block_rows = 1;
  size_t block_cols = 1;
};

constexpr size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

// How many of `size` share a factor where there are `count` factors; 0 if that
// is wrong.
size_t BlockOf(size_t size, size_t count, size_t block) {
  if (count == 1) return size;
  if (count == size) return 1;
  return CeilDiv(size, block) == count ? block : 0;
}

Result<Float8Scales> FindScales(const SafetensorsFile& file,
                                const std::string& name, size_t rows,
                                size_t cols, const ModelConfig& config) {
  const TensorInfo& info = file.tensors().at(name);
  size_t count_rows = 1, count_cols = 1;
  if (!info.shape.empty()) count_rows = info.shape[0];
  if (info.shape.size() == 2) count_cols = info.shape[1];
  Float8Scales scales = {
      .factors = {},
      .block_rows = BlockOf(rows, count_rows, config.float8_block[0]),
      .block_cols = BlockOf(cols, count_cols, config.float8_block[1])};
  if (info.shape.size() > 2 || scales.block_rows == 0 ||
      scales.block_cols == 0) {
    return Failed(fmt::format(
        "{}: tensor '{}' is {}, expected one factor, one for each of {} rows, "
        "or one for each block of {} x {} weights of ({}, {}); use a file that "
        "fits its configuration",
        file.path(), name, ToString(info), rows, config.float8_block[0],
        config.float8_block[1], rows, cols));
  }
  // One dimension is read as one row of the file, and no dimension as one too.
  const bool flat = info.shape.size() < 2;
  RANKFORGE_ASSIGN_OR_RETURN(
      scales.factors,
      file.Matrix(name, flat ? 1 : count_rows, flat ? count_rows : count_cols));
  scales.factors.rows = count_rows;
  scales.factors.cols = count_cols;
  return scales;
}

}  // namespace

bool IsFloat8(std::string_view dtype) {
  return std::ranges::any_of(
      kKinds, [dtype](const Float8Kind& kind) { return kind.dtype == dtype; });
}

std::vector<std::string> Float8ScaleNames(const std::string& tensor) {
  return {tensor + "_scale_inv", tensor + "_scale"};
}

Result<std::vector<float>> WidenFloat8(const SafetensorsFile& file,
                                       const std::string& name, size_t rows,
                                       size_t cols,
                                       const SafetensorsFile* scales,
                                       const std::string& scale_name,
                                       const ModelConfig& config) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                             file.WeightBytes(name, rows, cols));
  const TensorInfo& info = file.tensors().at(name);
  const Float8Kind& kind = *std::ranges::find(
      kKinds, std::string_view(info.dtype), &Float8Kind::dtype);
  std::array<float, 256> values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = kind.widen(static_cast<uint8_t>(i));
  }
  std::vector<float> widened(bytes.size());
  for (size_t i = 0; i < widened.size(); ++i) {
    widened[i] = values[std::to_integer<size_t>(bytes[i])];
  }
  if (scales == nullptr) return widened;
  RANKFORGE_ASSIGN_OR_RETURN(
      const Float8Scales by_block,
      FindScales(*scales, scale_name, rows, cols, config));
  for (size_t row = 0; row < rows; ++row) {
    float* const line = widened.data() + row * cols;
    for (size_t begin = 0; begin < cols; begin += by_block.block_cols) {
      const float factor = SourceAt(by_block.factors, row / by_block.block_rows,
                                    begin / by_block.block_cols);
      const size_t end = std::min(cols, begin + by_block.block_cols);
      for (size_t col = begin; col < end; ++col) line[col] *= factor;
    }
  }
  return widened;
}

}  // namespace rankforge
