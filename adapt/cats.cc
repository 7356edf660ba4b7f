#include "adapt/cats.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "adapt/calibration.h"
#include "adapt/input_mask.h"
#include "kernels/activation.h"

namespace rankforge {
namespace {

// Tokens that the error of a mask is measured on.
constexpr size_t kErrorTokens = 512;

// What stays dense of a block, and up and down, in the unit of `costs`.
struct CatsCosts {
  double dense = 0;
  double by_neuron = 0;

  CatsCosts(const BlockSpec& block, const CostModel& costs) {
    const auto add = [&](const ProductSpec& product) {
      dense += costs.Dense(product.rows(), product.cols());
    };
    add(block.qkv.direct.front());
    add(block.o.direct.front());
    const TensorShape& gate = block.gate_up.direct.front().tensors.front();
    const ProductSpec& down = block.down.direct.front();
    dense += costs.Dense(gate.rows, gate.cols);
    by_neuron = costs.Dense(gate.rows, gate.cols) +
                costs.Masked(down.rows(), static_cast<double>(down.cols()));
  }
  // The share of the neurons that leaves `keep` of everything.
  double Share(double keep, double all) const {
    return (keep * all - dense) / by_neuron;
  }
};

double DenseCost(const BlockSpec& block, const CostModel& costs) {
  double cost = 0;
  ForEachProduct(block, [&](const ProductSpec& product) {
    cost += costs.Dense(product.rows(), product.cols());
  });
  return cost;
}

class CatsPlanner : public Planner {
 public:
  explicit CatsPlanner(const AdaptRun& run) : run_(run) {}

  Status Plan(double keep, Adapter& adapter) override {
    const ModelConfig& config = run_.checkpoint.config();
    if (!config.gated_mlp || config.mlp_bias) {
      return UsageError(fmt::format(
          "method cats: the MLPs of family {} have no gate, or biases; use "
          "another method",
          config.family));
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        Calibration calibration,
        Calibration::Start(run_.model, run_.sample, run_.options.window));
    for (size_t layer = 0; layer < run_.spec.blocks.size(); ++layer) {
      const BlockSpec& block = run_.spec.blocks[layer];
      const CostModel costs = run_.options.Costs();
      const double share = std::min(
          1.0, CatsCosts(block, costs).Share(keep, DenseCost(block, costs)));
      const std::string why = "neurons are dropped in the MLP alone";
      adapter.left_dense[block.qkv.name] = why;
      adapter.left_dense[block.o.name] = why;
      RANKFORGE_RETURN_IF_ERROR(
          AddGate(block, calibration.PeekLayer(), share, adapter));
      // What the blocks behind this one read then.
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer, run_.checkpoint, &adapter));
      calibration.SkipLayer();
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
      run_.step(fmt::format("layer {}", layer));
    }
    return {};
  }
  size_t steps() const override { return run_.spec.blocks.size(); }

 private:
  Status AddGate(const BlockSpec& block, const Calibration::LayerInputs& inputs,
                 double share, Adapter& adapter) const {
    RANKFORGE_ASSIGN_OR_RETURN(
        const Matrix<float> gate,
        LoadWeights(run_.checkpoint,
                    {block.gate_up.direct.front().tensors.front()}));
    RANKFORGE_ASSIGN_OR_RETURN(
        const Matrix<float> down,
        LoadWeights(run_.checkpoint, block.down.direct.front().tensors));
    Matrix<float> activated = OutputOf(gate, inputs.mlp);
    Activate(run_.checkpoint.config().activation, activated.values.data(),
             nullptr, activated.values.size(), activated.values.data());
    adapter.gates[block.gate_up.name] = MaskBy(
        activated, std::vector<float>(gate.rows, 1.0f), block.gate_up.name,
        inputs.down, down, share, kErrorTokens, run_.model.executor());
    return {};
  }

  AdaptRun run_;
};

}  // namespace

double SmallestCatsKeep(const ModelConfig& config,
                        const AdaptOptions& options) {
  if (!config.gated_mlp) return 0;  // Plan says why not
  const BlockSpec block = DescribeModel(config, nullptr).blocks.front();
  const CostModel costs = options.Costs();
  const CatsCosts parts(block, costs);
  const double one = 1 / static_cast<double>(block.down.direct.front().cols());
  return (parts.dense + one * parts.by_neuron) / DenseCost(block, costs);
}

std::unique_ptr<Planner> MakeCatsPlanner(const AdaptRun& run) {
  return std::make_unique<CatsPlanner>(run);
}

}  // namespace rankforge
