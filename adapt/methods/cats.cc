#include "adapt/methods/cats.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/forms/input_mask.h"
#include "kernels/layer/activation.h"

namespace rankforge {
namespace {

// Tokens that the error of a mask is measured on.
constexpr size_t kErrorTokens = 512;

// What a block costs in the unit of `costs`: `dense` for the layers that stay
// dense, `by_neuron` for up and down with all neurons.
struct CatsCosts {
  double dense = 0;
  double by_neuron = 0;

  CatsCosts(const BlockSpec& block, const CostModel& costs) {
    const auto add = [&](const ProductSpec& product) {
      dense += costs.Dense(product.rows(), product.cols());
    };
    add(block[Site::kAttentionInput].direct.front());
    add(block[Site::kAttentionOutput].direct.front());
    const TensorShape& gate =
        block[Site::kMlpInput].direct.front().tensors.front();
    const ProductSpec& down = block[Site::kMlpHidden].direct.front();
    dense += costs.Dense(gate.rows, gate.cols);
    by_neuron = costs.Dense(gate.rows, gate.cols) +
                costs.Masked(down.rows(), static_cast<double>(down.cols()));
  }
  // The share of the neurons with which the block costs `keep` of `all`.
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

  Status Prepare(double keep, Adapter&) override {
    const ModelConfig& config = run_.checkpoint.config();
    if (!config.gated_mlp || config.mlp_bias) {
      return UsageError(fmt::format(
          "method cats: the MLPs of family {} have no gate, or biases; use "
          "another method",
          config.family));
    }
    keep_ = keep;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const size_t layer = calibration.layer();
    const BlockSpec& block = run_.spec.blocks[layer];
    const CostModel costs = run_.options.Costs();
    const double share = std::min(
        1.0, CatsCosts(block, costs).Share(keep_, DenseCost(block, costs)));
    const std::string why = "neurons are dropped in the MLP alone";
    adapter.left_dense[block[Site::kAttentionInput].name] = why;
    adapter.left_dense[block[Site::kAttentionOutput].name] = why;
    const Matrix<float> mlp = calibration.Next(
        Site::kAttentionOutput,
        calibration.Next(Site::kAttentionInput, calibration.First()));
    {
      const Matrix<float> hidden = calibration.Next(Site::kMlpInput, mlp);
      const std::vector<size_t> rows = OrdinaryTokens(
          {&mlp, &hidden}, run_.options.window, run_.options.SinksApart());
      RANKFORGE_RETURN_IF_ERROR(AddGate(block, RowsOf(mlp, rows),
                                        RowsOf(hidden, rows), share, adapter));
    }
    // The next blocks read what the adapted one computes.
    for (const Site site : {Site::kMlpInput, Site::kMlpHidden}) {
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptSite(layer, site, run_.checkpoint, &adapter));
    }
    calibration.Next(Site::kMlpHidden, calibration.Next(Site::kMlpInput, mlp));
    return {};
  }
  bool behind() const override { return true; }

 private:
  // `mlp` is what gate and up read in a dense block, `hidden` what down reads.
  Status AddGate(const BlockSpec& block, const Matrix<float>& mlp,
                 const Matrix<float>& hidden, double share,
                 Adapter& adapter) const {
    RANKFORGE_ASSIGN_OR_RETURN(
        const Matrix<float> gate,
        LoadWeights(run_.checkpoint,
                    {block[Site::kMlpInput].direct.front().tensors.front()}));
    RANKFORGE_ASSIGN_OR_RETURN(
        const Matrix<float> down,
        LoadWeights(run_.checkpoint,
                    block[Site::kMlpHidden].direct.front().tensors));
    Matrix<float> activated = OutputOf(gate, mlp);
    Activate(run_.checkpoint.config().activation, activated.values.data(),
             nullptr, activated.values.size(), activated.values.data());
    adapter.gates[block[Site::kMlpInput].name] =
        MaskBy(activated, std::vector<float>(gate.rows, 1.0f),
               block[Site::kMlpInput].name, hidden, down, share, kErrorTokens,
               run_.model.executor());
    return {};
  }

  AdaptRun run_;
  double keep_ = 1;
};

}  // namespace

double SmallestCatsKeep(const ModelConfig& config,
                        const AdaptOptions& options) {
  if (!config.gated_mlp) return 0;  // Prepare says why not
  const BlockSpec block = DescribeModel(config, nullptr).blocks.front();
  const CostModel costs = options.Costs();
  const CatsCosts parts(block, costs);
  const double one =
      1 / static_cast<double>(block[Site::kMlpHidden].direct.front().cols());
  return (parts.dense + one * parts.by_neuron) / DenseCost(block, costs);
}

std::unique_ptr<Planner> MakeCatsPlanner(const AdaptRun& run) {
  return std::make_unique<CatsPlanner>(run);
}

}  // namespace rankforge
