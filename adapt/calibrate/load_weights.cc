#include "adapt/calibrate/load_weights.h"

#include <optional>
#include <string>

namespace rankforge {
namespace {

// 16-bit types stay: in f32 the values would be the same, in twice the bytes.
// Blocks of ggml are widened, because no 16-bit type holds all their values.
WeightType TypeFor(SourceMatrix::Type source) {
  switch (source) {
    case SourceMatrix::Type::kBf16:
      return WeightType::kBf16;
    case SourceMatrix::Type::kF16:
      return WeightType::kF16;
    default:
      return WeightType::kF32;
  }
}

}  // namespace

Result<WeightType> StoredType(const Checkpoint& checkpoint) {
  std::optional<WeightType> stored;
  for (const TensorShape& tensor : CheckpointTensors(checkpoint.config())) {
    if (tensor.rows == 1) continue;  // a norm or a bias, which stays f32
    RANKFORGE_ASSIGN_OR_RETURN(
        const SourceMatrix source,
        checkpoint.Matrix(tensor.name, tensor.rows, tensor.cols));
    const WeightType type = TypeFor(source.type);
    if (stored && *stored != type) return WeightType::kF32;
    stored = type;
  }
  return stored.value_or(WeightType::kF32);
}

Result<Matrix<float>> LoadWeights(const WeightSource& weights,
                                  const std::vector<TensorShape>& tensors) {
  std::vector<std::string> names;
  std::vector<size_t> rows;
  for (const TensorShape& tensor : tensors) {
    names.push_back(tensor.name);
    rows.push_back(tensor.rows);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const PackedMatrix packed,
                             weights.Pack(names, rows, tensors.front().cols,
                                          WeightType::kF32, Layout::kOutIn));
  Matrix<float> matrix(packed.rows(), packed.cols());
  packed.WidenTile(0, packed.rows(), matrix.values.data());
  return matrix;
}

}  // namespace rankforge
