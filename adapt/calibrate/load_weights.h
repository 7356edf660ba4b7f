// Weights of a checkpoint as the matrices that calibration computes with.
#ifndef RANKFORGE_ADAPT_CALIBRATE_LOAD_WEIGHTS_H_
#define RANKFORGE_ADAPT_CALIBRATE_LOAD_WEIGHTS_H_

#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// The type in which a model runs for calibration: that of the checkpoint's
// matrices if all are bf16 or all are f16, else f32. A GGUF file may mix types.
Result<WeightType> StoredType(const Checkpoint& checkpoint);

// The tensors of `product`, stacked and widened: (rows, cols).
Result<Matrix<float>> LoadWeights(const WeightSource& weights,
                                  const std::vector<TensorShape>& tensors);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_LOAD_WEIGHTS_H_
