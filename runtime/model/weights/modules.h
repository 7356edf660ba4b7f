// THE list of weight products of a model, dense or adapted. Model::Create packs
// what it says, ModelWorkloads tunes what it says, and adapters, synthetic
// weights and checks follow the same names.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODULES_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODULES_H_

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/model/weights/site.h"
#include "runtime/table/problem.h"

namespace rankforge {

// A tensor by its name in the checkpoint or adapter and its logical shape.
struct TensorShape {
  std::string name;
  size_t rows = 0;
  size_t cols = 0;
};

// The module of a tensor "<module>.weight".
std::string ModuleOf(const TensorShape& tensor);

// What a module is called in every layer: "mlp.up_proj" for
// "model.layers.3.mlp.up_proj".
std::string KindOf(const std::string& module);

// One matrix-vector product of a projection: its stacked tensors, and where its
// input and output begin within those of the projection.
struct ProductSpec {
  std::string layer;  // its name among the layers of a workload
  Operation operation = Operation::kDense;
  std::vector<TensorShape> tensors;  // equal cols
  // (1, rows) each, together one value per output; none: no bias.
  std::vector<TensorShape> biases = {};
  size_t input_offset = 0;
  size_t output_offset = 0;
  // Of a masked product: the share of channels kept, on average and what 5 % of
  // the tokens stay below and above (0: not recorded). A column mask may also
  // have the share of tokens that keep each input.
  double density = 1;
  double density_p05 = 0;
  double density_p95 = 0;
  std::vector<float> keep_frequency;
  // Whether it turns the residual stream into another basis: all that reads the
  // stream later reads its rounding, too. So its weights have 8 bits or more
  // (TypeOf), and its input is not rounded (ProblemOf).
  bool turns_stream = false;

  size_t rows() const;
  size_t cols() const { return tensors.front().cols; }
};

// Where a mask applies: values [offset, offset + cols) of a vector. The module
// of the adapter says which of them are kept.
struct MaskSpec {
  std::string module;
  size_t offset = 0;
  size_t cols = 0;
  double density = 1;
  const std::vector<float>* tau = nullptr;  // empty: keep everything
};

// y (rows,) = W x (cols,) for a projection, stacked where the inputs are shared
// (q, k, v; gate, up), in up to two steps:
//   1. `direct` products write y. They read x, masked if there is an
//      `input_mask`. `b` (all B matrices stacked) writes z.
//   2. Each of `a` reads the slice of z that its entry of `rank_masks` names,
//      masked, and writes its part of y.
// A dense projection is one direct product; an adapter replaces the rows of W
// that its module stands for.
struct ProjectionSpec {
  std::string name;  // "model.layers.3.mlp.gate_up"
  size_t rows = 0;
  size_t cols = 0;
  std::optional<MaskSpec> input_mask;
  // Of gate and up: a mask over act(gate) that decides which neurons take part.
  // Then `direct` are gate, which is dense, and up, which is a row mask. Down
  // is a column mask without an input mask of its own.
  std::optional<MaskSpec> gate_mask = {};
  std::vector<ProductSpec> direct;
  std::optional<ProductSpec> b;
  std::vector<MaskSpec> rank_masks;  // one for each of `a`
  std::vector<ProductSpec> a;
};

// The names in the checkpoint of a norm's vectors, (size,) each.
struct NormSpec {
  std::string weight;  // empty: there is no norm
  std::string bias;    // empty: none
  size_t size = 0;
  // Whether its mean, weight and bias are part of the weights around it
  // (folded_weights.h). What is left is x / rms(x).
  bool folded = false;
};

struct BlockSpec {
  NormSpec attention_norm;  // of what attention reads
  NormSpec mlp_norm;
  NormSpec attention_out_norm;  // of what attention adds to the hidden values
  NormSpec mlp_out_norm;
  // Of queries and keys before their rotation: of each head, or of all heads.
  NormSpec q_norm;
  NormSpec k_norm;
  BySite<ProjectionSpec> projections;
  // Products of the hidden values: into the basis of this block, where the
  // block before has another, and out of it, where no rotated block follows
  // (Rotation).
  std::optional<ProjectionSpec> enter = {};
  std::optional<ProjectionSpec> leave = {};

  ProjectionSpec& operator[](Site site) { return projections[site]; }
  const ProjectionSpec& operator[](Site site) const {
    return projections[site];
  }
};

struct ModelSpec {
  std::vector<BlockSpec> blocks;
  NormSpec final_norm;
  TensorShape embedding;
  ProductSpec lm_head;
};

// Whether blocks of this model can hold the residual stream in another basis:
// norms after attention and the MLP have weights that do not commute with it.
bool CanRotate(const ModelConfig& config);

// The products of this model. `adapter` may be null. It must outlive the
// result, whose masks point to its thresholds.
ModelSpec DescribeModel(const ModelConfig& config, const Adapter* adapter);

// Calls function(projection) for every projection of a block in the order in
// which it runs them.
template <class Function>
void ForEachProjection(const BlockSpec& block, Function function) {
  if (block.enter) function(*block.enter);
  for (const ProjectionSpec& projection : block.projections) {
    function(projection);
  }
  if (block.leave) function(*block.leave);
}

// Calls function(product) for every product of a block in the order in which
// decoding runs them.
template <class Function>
void ForEachProduct(const BlockSpec& block, Function function) {
  ForEachProjection(block, [&](const ProjectionSpec& projection) {
    for (const ProductSpec& product : projection.direct) function(product);
    if (projection.b) function(*projection.b);
    for (const ProductSpec& product : projection.a) function(product);
  });
}

// The problem of this product, which is the key of its entry in a table.
// `activations` as in ModelOptions.
Problem ProblemOf(const ProductSpec& product, WeightType type,
                  std::optional<Activations> activations, size_t threads);

// Fails unless every module of the adapter is one of this model's, with its
// shape, and no two of them replace the same weights, and unless its groups of
// rotated blocks are of this model, whose blocks can be rotated.
Status CheckAdapter(const ModelConfig& config, const Adapter& adapter);

// Fails if activations are asked for that no weights of this model take, or for
// which this CPU has no kernels. `adapter` may be null; it is
// checked first (CheckAdapter).
Status CheckActivations(const ModelConfig& config, const Adapter* adapter,
                        const ModelOptions& options);

// All tensors of a checkpoint of this shape, norms and biases (1, n) included.
std::vector<TensorShape> CheckpointTensors(const ModelConfig& config);

// The problems of decoding this model, which `tune` measures: one entry per
// distinct problem, with the layers that share it. `adapter` (may be null) must
// fit the model (CheckAdapter).
std::vector<Workload> ModelWorkloads(const ModelConfig& config,
                                     const Adapter* adapter,
                                     const ModelOptions& options);

// The problems of one token, in the order in which decoding runs them.
std::vector<Problem> DecodeSequence(const ModelConfig& config,
                                    const Adapter* adapter,
                                    const ModelOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODULES_H_
