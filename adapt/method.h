// What a method of making adapters is to Adapt(): adding one is writing
// a Planner in a file of its own and adding it to kMethods in adapt.cc.
#ifndef RANKFORGE_ADAPT_METHOD_H_
#define RANKFORGE_ADAPT_METHOD_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

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
  size_t layer;
  const WeightSource& weights;
  const BlockSpec& block;          // dense: names and shapes
  const Matrix<float>& attention;  // (tokens, hidden), of q, k, v
  const Matrix<float>& mlp;        // (tokens, hidden), of gate and up
  Executor& executor;
};

// What a planner works on.
struct AdaptRun {
  const Checkpoint& checkpoint;
  const ModelSpec& spec;        // dense: names and shapes
  Model& model;                 // dense; planners leave it so
  std::span<const int> sample;  // whole windows of calibration
  const AdaptOptions& options;
  std::function<void(const std::string&)> step;  // reports progress
};

// Makes adapters of one checkpoint for one calibration sample.
class Planner {
 public:
  virtual ~Planner() = default;
  // Adds to `adapter` so that the linear layers need `keep` of their dense
  // multiply-adds, and says why others stay dense. Called again where the
  // adapted model does not keep what was planned.
  virtual Status Plan(double keep, Adapter& adapter) = 0;
  // Steps that the next Plan reports.
  virtual size_t steps() const = 0;
};

struct Method {
  const char* name;
  // The smallest linear_flops_ratio that can be planned.
  double (*smallest_keep)(const ModelConfig& config,
                          const AdaptOptions& options);
  std::unique_ptr<Planner> (*make)(const AdaptRun& run);
};

// The type in which models run that are calibrated: that of the checkpoint's
// weights, as far as it is one of floats.
Result<WeightType> StoredType(const Checkpoint& checkpoint);

// The tensors of `product`, stacked and widened: (rows, cols).
Result<Matrix<float>> LoadWeights(const WeightSource& weights,
                                  const std::vector<TensorShape>& tensors);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHOD_H_
