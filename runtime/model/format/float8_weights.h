// Weights that a checkpoint stores as 8-bit floats. Nothing computes with them:
// they are widened where they are packed.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_FLOAT8_WEIGHTS_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_FLOAT8_WEIGHTS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/safetensors.h"

namespace rankforge {

bool IsFloat8(std::string_view dtype);

// The names that factors of tensor "<module>.weight" may have; the first of
// them that a checkpoint has counts.
std::vector<std::string> Float8ScaleNames(const std::string& tensor);

// The weights (rows, cols) of tensor `name` of `file`, times the factors of
// tensor `scale_name` of `scales`, if that is not null: one for the tensor, for
// each row, or for each block of config.float8_block.
Result<std::vector<float>> WidenFloat8(const SafetensorsFile& file,
                                       const std::string& name, size_t rows,
                                       size_t cols,
                                       const SafetensorsFile* scales,
                                       const std::string& scale_name,
                                       const ModelConfig& config);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_FLOAT8_WEIGHTS_H_
