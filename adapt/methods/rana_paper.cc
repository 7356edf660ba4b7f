#include "adapt/methods/rana_paper.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "adapt/calibrate/calibration.h"
#include "adapt/forms/mlp.h"
#include "adapt/forms/rank_search.h"
#include "adapt/forms/ranked_layer.h"

namespace rankforge {
namespace {

// Multiply-adds per token.
struct BlockWork {
  double qkv;
  double o;
  double mlp;

  BlockWork(const ModelConfig& config, size_t layer)
      : qkv(static_cast<double>(config.hidden * config.qkv_rows(layer))),
        o(static_cast<double>(config.hidden * config.o_cols(layer))),
        mlp(static_cast<double>(config.hidden * (config.mlp_in_rows(layer) +
                                                 config.mlp_width(layer)))) {}
  double total() const { return qkv + o + mlp; }
  // The share of their work that the other layers may keep when layers that
  // stay dense take `dense`.
  double Share(double keep, double dense) const {
    return (keep * total() - dense) / (total() - dense);
  }
};

RankGrid GridOf(const AdaptOptions& options) {
  return {.round = options.round_d};
}

// The smallest budget of a rank adapter: the smallest d and one kept rank.
double SmallestBudget(size_t rows, size_t cols, const RankGrid& grid) {
  return RankCost(rows, cols, grid.round ? InnerMultiple(0) : grid.step, 1);
}

void AddRank(const LayerForm& form, const RankChoice& choice,
             Executor& executor, Adapter& adapter) {
  RankAdapter rank = MakeRankAdapter(form, executor);
  adapter.parameters[rank.module + ".searched_d"] =
      std::to_string(choice.searched_d);
  adapter.parameters[rank.module + ".rounding_loss"] =
      fmt::format("{:.6f}", choice.rounding_loss);
  adapter.ranks[rank.module] = std::move(rank);
}

// Why stacked q, k, v with this share of their work stay dense; empty when a
// rank adapter pays. Compares what the adapter loses with what `up` would lose
// if qkv stayed dense and the MLP were cut to `mlp_share` instead. Both are
// errors relative to a layer's own output, the only ones known without running
// the model.
std::string WhyDense(const RankedLayer& qkv,
                     const std::optional<RankChoice>& choice, double share,
                     const RankedLayer& up, double mlp_share) {
  if (share >= 1) return "nothing is to be cut";
  if (!choice) {
    return fmt::format(
        "no inner dimension of a {} x {} rank adapter leaves room for a mask "
        "at {:.3f} of the dense multiply-adds",
        qkv.w.rows, qkv.w.cols, share);
  }
  const std::optional<RankChoice> deeper = up.search.Best(mlp_share);
  const double up_error = deeper ? 1 - deeper->coverage : 1;
  const double error = 1 - choice->coverage;
  if (error <= up_error) return "";
  return fmt::format(
      "a rank adapter would lose {:.4f} of its squared output; with it dense, "
      "{} loses {:.4f}",
      error, up.module, up_error);
}

// Gate and up, or up alone.
Result<std::vector<RankedLayer>> RankMlpInputs(const DenseBlock& block,
                                               const RankGrid& grid) {
  const ProductSpec& product = block.spec[Site::kMlpInput].direct.front();
  std::vector<std::string> modules;
  std::vector<Matrix<float>> weights;
  for (const TensorShape& tensor : product.tensors) {
    modules.push_back(ModuleOf(tensor));
    RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w,
                               LoadWeights(block.weights, {tensor}));
    weights.push_back(std::move(w));
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      std::vector<RankedLayer> layers,
      RankLayers(modules, std::move(weights), block.mlp, grid, block.executor));
  for (size_t i = 0; i < product.biases.size(); ++i) {
    const TensorShape& bias = product.biases[i];
    RANKFORGE_ASSIGN_OR_RETURN(layers[i].bias,
                               block.weights.Vector(bias.name, bias.cols));
  }
  return layers;
}

}  // namespace

double SmallestRanaPaperKeep(const ModelConfig& config,
                             const AdaptOptions& options) {
  const RankGrid grid = GridOf(options);
  double smallest = 0;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const BlockWork work(config, layer);
    const double share =
        std::max(SmallestBudget(config.qkv_rows(layer), config.hidden, grid),
                 SmallestBudget(config.mlp_width(layer), config.hidden, grid));
    smallest = std::max(
        smallest, (work.o + share * (work.qkv + work.mlp)) / work.total());
  }
  return smallest;
}

namespace {

// Adds a rank adapter for q, k, v where it pays; else they stay dense. Returns
// the share of their multiply-adds that is left for up, gate and down.
Result<double> AdaptAttention(const DenseBlock& block, const RankGrid& grid,
                              double keep, const RankedLayer& up,
                              Adapter& adapter) {
  const ProductSpec& qkv_product =
      block.spec[Site::kAttentionInput].direct.front();
  const ProductSpec& o_product =
      block.spec[Site::kAttentionOutput].direct.front();
  adapter.left_dense[o_product.layer] = fmt::format(
      "{} x {}: a rank adapter multiplies all of B, so it pays only where "
      "there are more outputs than inputs",
      o_product.rows(), o_product.cols());

  const BlockWork work(block.config, block.layer);
  const double share = work.Share(keep, work.o);
  const double mlp_share = work.Share(keep, work.o + work.qkv);
  std::vector<Matrix<float>> weights(1);
  RANKFORGE_ASSIGN_OR_RETURN(weights[0],
                             LoadWeights(block.weights, qkv_product.tensors));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<RankedLayer> qkv,
                             RankLayers({qkv_product.layer}, std::move(weights),
                                        block.attention, grid, block.executor));
  const std::optional<RankChoice> choice = qkv[0].search.Best(share);
  const std::string why = WhyDense(qkv[0], choice, share, up, mlp_share);
  if (!why.empty()) {
    adapter.left_dense[qkv_product.layer] = why;
    return mlp_share;
  }
  AddRank(ExactForm(qkv[0], choice, block.executor), *choice, block.executor,
          adapter);
  return share;
}

// Adds rank adapters for `layers`, gate and up or up alone, and a neuron
// threshold for down, by the best split of `share` of their multiply-adds.
Status AdaptMlp(const DenseBlock& block, const std::vector<RankedLayer>& layers,
                double share, size_t split_tokens, Adapter& adapter) {
  Executor& executor = block.executor;
  const RankedLayer& up = layers.back();
  const RankedLayer* const gate = layers.size() > 1 ? &layers.front() : nullptr;
  const ProductSpec& product = block.spec[Site::kMlpHidden].direct.front();
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> down,
                             LoadWeights(block.weights, product.tensors));
  const std::optional<MlpSplit> split = SearchMlpSplit(
      {up, gate, down, block.config.activation}, share, split_tokens, executor);
  if (!split) {
    return UsageError(fmt::format(
        "{}: no split of {:.4f} of the MLP's multiply-adds leaves up and gate "
        "a rank each: ask for a larger keep",
        product.layer, share));
  }
  const std::string pays = "its share of the MLP's budget pays for it";
  const auto add = [&](const RankedLayer& layer,
                       const std::optional<RankChoice>& choice) {
    const LayerForm form = ExactForm(layer, choice, executor);
    if (choice) {
      AddRank(form, *choice, executor, adapter);
    } else {
      adapter.left_dense[layer.module] = pays;
    }
    return form;
  };
  HiddenForm hidden{add(up, split->up), {}, block.config.activation};
  if (gate != nullptr) hidden.gate = add(*gate, split->gate);
  if (split->down_keep < 1) {
    adapter.masks[product.layer] = MakeDownMask(
        product.layer, hidden, down, split->down_keep, split_tokens, executor);
  } else {
    adapter.left_dense[product.layer] = pays;
  }
  adapter.parameters[product.layer + ".mlp_split"] =
      fmt::format("up {}, gate {}, down {} of 18", split->up_share,
                  split->gate_share, split->down_share);
  adapter.parameters[product.layer + ".mlp_error"] =
      fmt::format("{:.6f}", split->error);
  return {};
}

}  // namespace

Status AdaptBlockRanaPaper(const DenseBlock& block, const AdaptOptions& options,
                           double keep, Adapter& adapter) {
  const RankGrid grid = GridOf(options);
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<RankedLayer> mlp,
                             RankMlpInputs(block, grid));
  RANKFORGE_ASSIGN_OR_RETURN(
      const double share,
      AdaptAttention(block, grid, keep, mlp.back(), adapter));
  return AdaptMlp(block, mlp, share, options.split_tokens, adapter);
}

namespace {

class RanaPaperPlanner : public Planner {
 public:
  explicit RanaPaperPlanner(const AdaptRun& run) : run_(run) {}

  Status Prepare(double keep, Adapter&) override {
    keep_ = keep;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const size_t layer = calibration.layer();
    Matrix<float> attention = calibration.First();
    Matrix<float> mlp =
        calibration.Next(Site::kAttentionOutput,
                         calibration.Next(Site::kAttentionInput, attention));
    calibration.Next(Site::kMlpHidden, calibration.Next(Site::kMlpInput, mlp));
    // All tokens, as in the paper. OrdinaryTokens alone have an excess loss of
    // 1.009 rather than 0.811 on SmolLM2 at a keep of 0.56.
    return AdaptBlockRanaPaper(
        {run_.checkpoint.config(), layer, run_.checkpoint,
         run_.spec.blocks[layer], attention, mlp, run_.model.executor()},
        run_.options, keep_, adapter);
  }
  bool behind() const override { return false; }

 private:
  AdaptRun run_;
  double keep_ = 1;
};

}  // namespace

std::unique_ptr<Planner> MakeRanaPaperPlanner(const AdaptRun& run) {
  return std::make_unique<RanaPaperPlanner>(run);
}

}  // namespace rankforge
