#include "adapt/rounding/rounded_weights.h"

#include <utility>

namespace rankforge {

void RoundedWeights::Add(const TensorNames& names, PackedMatrix matrix) {
  rounded_[names] = std::make_shared<const PackedMatrix>(std::move(matrix));
}

Result<PackedMatrix> RoundedWeights::Pack(std::span<const std::string> names,
                                          std::span<const size_t> rows,
                                          size_t cols, WeightType type,
                                          Layout layout) const {
  const auto found = rounded_.find({names.begin(), names.end()});
  if (found == rounded_.end()) {
    return base().Pack(names, rows, cols, type, layout);
  }
  const PackedMatrix& matrix = *found->second;
  if (matrix.type() == type && matrix.layout() == layout) {
    return PackedMatrix::Adopt(matrix.rows(), matrix.cols(), type, layout,
                               {matrix.data(), matrix.bytes()}, found->second,
                               matrix.quantization_error());
  }
  std::vector<float> values(matrix.rows() * matrix.cols());
  matrix.WidenTile(0, matrix.rows(), values.data());
  const SourceMatrix source{.data = values.data(),
                            .rows = matrix.rows(),
                            .cols = matrix.cols(),
                            .transposed = matrix.TilesAreTransposed()};
  return PackedMatrix::Pack({&source, 1}, type, layout);
}

}  // namespace rankforge
