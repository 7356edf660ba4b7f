// What a method of making adapters is to Adapt(): adding one is writing
// `adapt_block` in a file of its own and adding it to kMethods in adapt.cc.
#ifndef RANKFORGE_ADAPT_METHOD_H_
#define RANKFORGE_ADAPT_METHOD_H_

#include "adapt/adapt.h"
#include "adapt/linear_algebra.h"
#include "runtime/executor.h"
#include "runtime/model/adapter.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"
#include "runtime/model/modules.h"
#include "runtime/status.h"

namespace rankforge {

// One transformer block with the inputs of its linear layers on the calibration
// tokens, computed by the dense model.
struct BlockInputs {
  const ModelConfig& config;
  const WeightSource& weights;
  const BlockSpec& block;          // dense: names and shapes
  const Matrix<float>& attention;  // (tokens, hidden), of q, k, v
  const Matrix<float>& mlp;        // (tokens, hidden), of gate and up
  Executor& executor;
};

struct Method {
  const char* name;
  // The smallest linear_flops_ratio for which adapt_block finds an adapter.
  double (*smallest_keep)(const ModelConfig& config,
                          const AdaptOptions& options);
  // Adds the block's modules to `adapter` so that its linear layers need `keep`
  // of their dense multiply-adds, and says why the others stay dense.
  Status (*adapt_block)(const BlockInputs& inputs, const AdaptOptions& options,
                        double keep, Adapter& adapter);
};

// The tensors of `product`, stacked and widened: (rows, cols).
Result<Matrix<float>> LoadWeights(const WeightSource& weights,
                                  const std::vector<TensorShape>& tensors);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHOD_H_
