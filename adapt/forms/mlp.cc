#include "adapt/forms/mlp.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "adapt/forms/input_mask.h"
#include "adapt/math/tiles.h"
#include "kernels/mask/mask.h"

namespace rankforge {
namespace {

constexpr size_t kShares = 18;

// Shares that a part may have: half to one and a half of an equal share.
size_t LeastShare(size_t parts) {
  return (kShares + 2 * parts - 1) / (2 * parts);
}
size_t MostShare(size_t parts) { return 3 * kShares / (2 * parts); }

// h (tokens, mlp) of tokens [0, tokens).
Matrix<float> HiddenOf(const HiddenForm& form, size_t tokens,
                       Executor& executor) {
  const size_t mlp = form.up.layer->w.rows;
  Matrix<float> hidden(tokens, mlp);
  std::vector<std::vector<float>> scratch(executor.threads());
  ForTiles(executor, tokens,
           [&](size_t begin, size_t count, size_t, size_t worker) {
             float* h = hidden.row(begin);
             form.up.Run(begin, count, h);
             if (form.gate.layer == nullptr) {
               Activate(form.activation, h, nullptr, count * mlp, h);
               return;
             }
             scratch[worker].resize(count * mlp);
             float* gate = scratch[worker].data();
             form.gate.Run(begin, count, gate);
             Activate(form.activation, gate, h, count * mlp, h);
           });
  return hidden;
}

// What up or gate becomes for a share of the budget.
struct Option {
  bool possible = false;
  double cost = 0;                 // in units of the dense layer
  std::optional<RankChoice> rank;  // none: dense
};
using Options = std::vector<Option>;  // by share

Options OptionsOf(const RankedLayer& layer, double budget, size_t parts) {
  Options options(MostShare(parts) + 1);
  for (size_t share = LeastShare(parts); share < options.size(); ++share) {
    Option& option = options[share];
    const double cost = budget * static_cast<double>(share) / kShares;
    if (cost >= 1) {
      // The paper's code makes an adapter that costs more than dense here.
      option = {true, 1, std::nullopt};
      continue;
    }
    option.rank = layer.search.Best(cost);
    option.cost = cost;
    option.possible = option.rank.has_value();
  }
  return options;
}

// Without a gate: one option, which costs nothing and takes no share.
Options NoOptions() {
  Options options(1);
  options.front().possible = true;
  return options;
}

LayerForm FormOf(const RankedLayer& layer,
                 const std::optional<RankChoice>& choice) {
  return choice ? LayerForm{&layer, choice->d, choice->tau} : LayerForm{&layer};
}

// The search for the best split of one MLP.
class SplitSearch {
 public:
  SplitSearch(const RankedMlp& mlp, double keep, size_t tokens,
              Executor& executor)
      : mlp_(mlp),
        tokens_(std::min(tokens, mlp.up.x->rows)),
        executor_(executor),
        budget_(static_cast<double>(mlp.matrices()) * keep),
        ups_(OptionsOf(mlp.up, budget_, mlp.matrices())),
        gates_(mlp.gate == nullptr
                   ? NoOptions()
                   : OptionsOf(*mlp.gate, budget_, mlp.matrices())),
        dense_(
            HiddenOf({LayerForm{&mlp.up}, LayerForm{mlp.gate}, mlp.activation},
                     tokens_, executor)) {}

  std::optional<MlpSplit> Best() {
    ListSplits();
    if (splits_.empty()) return std::nullopt;
    MeasureErrors();
    return *std::min_element(
        splits_.begin(), splits_.end(),
        [](const MlpSplit& a, const MlpSplit& b) { return a.error < b.error; });
  }

 private:
  // Lists all possible splits, and the thresholds of down for each.
  void ListSplits() {
    const size_t parts = mlp_.matrices();
    const std::vector<float> norms = ColumnNorms(mlp_.down);
    const std::vector<float> importance = Importance(dense_, norms, executor_);
    for (size_t u = 0; u < ups_.size(); ++u) {
      for (size_t g = 0; g < gates_.size(); ++g) {
        if (!ups_[u].possible || !gates_[g].possible) continue;
        const size_t d = kShares - u - g;
        if (d < LeastShare(parts) || d > MostShare(parts)) continue;
        // What a dense up or gate leaves of its share goes to down.
        const double down_keep =
            std::min(1.0, budget_ - ups_[u].cost - gates_[g].cost);
        splits_.push_back({.up_share = u,
                           .gate_share = g,
                           .down_share = d,
                           .up = ups_[u].rank,
                           .gate = gates_[g].rank,
                           .down_keep = down_keep});
        if (!down_tau_.contains(down_keep)) {
          down_tau_[down_keep] = FoldScales(
              ShareThreshold(importance, down_keep, executor_), norms);
        }
      }
    }
  }

  void MeasureErrors() {
    const size_t tiles = TokenTiles(tokens_);
    std::vector<double> reference(tiles);
    Matrix<double> errors(tiles, splits_.size());
    ForTiles(executor_, tokens_,
             [&](size_t begin, size_t count, size_t tile, size_t) {
               reference[tile] = MeasureTile(begin, count, errors.row(tile));
             });
    double total = 0;
    for (const double tile : reference) total += tile;
    for (size_t s = 0; s < splits_.size(); ++s) {
      for (size_t tile = 0; tile < tiles; ++tile) {
        splits_[s].error += errors.row(tile)[s] / total;
      }
    }
  }

  // Outputs of up or gate on some tokens for every share that is possible.
  static std::vector<std::vector<float>> OutputsOf(const RankedLayer& layer,
                                                   const Options& options,
                                                   size_t begin, size_t count,
                                                   size_t size) {
    std::vector<std::vector<float>> y(options.size());
    for (size_t share = 0; share < options.size(); ++share) {
      if (!options[share].possible) continue;
      y[share].resize(size);
      FormOf(layer, options[share].rank).Run(begin, count, y[share].data());
    }
    return y;
  }

  // The squared error of each split on these tokens; returns the squared norm
  // of what the dense MLP computes.
  double MeasureTile(size_t begin, size_t count, double* errors) const {
    const Matrix<float>& down = mlp_.down;
    Matrix<float> h_dense(count, down.cols);
    const size_t size = h_dense.values.size();
    std::copy_n(dense_.row(begin), size, h_dense.values.begin());
    const auto up_outputs = OutputsOf(mlp_.up, ups_, begin, count, size);
    std::vector<std::vector<float>> gate_outputs;
    if (mlp_.gate != nullptr) {
      gate_outputs = OutputsOf(*mlp_.gate, gates_, begin, count, size);
    }
    Matrix<float> h(count, down.cols);
    for (size_t s = 0; s < splits_.size(); ++s) {
      const float* const up = up_outputs[splits_[s].up_share].data();
      if (mlp_.gate == nullptr) {
        Activate(mlp_.activation, up, nullptr, size, h.values.data());
      } else {
        Activate(mlp_.activation, gate_outputs[splits_[s].gate_share].data(),
                 up, size, h.values.data());
      }
      const std::vector<float>& tau = down_tau_.at(splits_[s].down_keep);
      // down is linear: its output's error is its output on h's error.
      for (size_t t = 0; t < count; ++t) {
        float* v = h.row(t);
        for (size_t j = 0; j < down.cols; ++j) {
          const float kept = Keeps(v[j], tau[j]) ? v[j] : 0.0f;
          v[j] = kept - h_dense.row(t)[j];
        }
      }
      errors[s] = SquaredNorm(OutputOf(down, h));
    }
    return SquaredNorm(OutputOf(down, h_dense));
  }

  const RankedMlp& mlp_;
  size_t tokens_;
  Executor& executor_;
  double budget_;  // in dense matrices
  Options ups_;
  Options gates_;
  Matrix<float> dense_;  // what down reads in the dense MLP
  std::map<double, std::vector<float>> down_tau_;  // by share kept
  std::vector<MlpSplit> splits_;
};

}  // namespace

std::optional<MlpSplit> SearchMlpSplit(const RankedMlp& mlp, double keep,
                                       size_t tokens, Executor& executor) {
  return SplitSearch(mlp, keep, tokens, executor).Best();
}

InputMask MakeDownMask(const std::string& module, const HiddenForm& form,
                       const Matrix<float>& down, double keep,
                       size_t error_tokens, Executor& executor) {
  const Matrix<float> hidden = HiddenOf(form, form.up.layer->x->rows, executor);
  return MakeInputMask(module, hidden, down, InputScore::kWeighted, keep,
                       error_tokens, executor);
}

}  // namespace rankforge
