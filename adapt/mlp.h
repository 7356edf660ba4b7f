// A gated MLP, y = down (silu(gate x) * (up x)), adapted: rank adapters for up
// and gate, a neuron threshold for down, and the split of the budget between
// the three.
#ifndef RANKFORGE_ADAPT_MLP_H_
#define RANKFORGE_ADAPT_MLP_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "adapt/rank_search.h"
#include "adapt/ranked_layer.h"
#include "runtime/executor.h"
#include "runtime/model/adapter.h"

namespace rankforge {

// What the split search decided.
struct MlpSplit {
  // Eighteenths of the budget.
  size_t up_share = 0;
  size_t gate_share = 0;
  size_t down_share = 0;
  // None: the share pays for the dense layer.
  std::optional<RankChoice> up;
  std::optional<RankChoice> gate;
  double down_keep = 1;  // share of the neurons
  double error = 0;      // squared error of the MLP's output, relative, pooled
};

// Tries all 37 splits of 3 * keep (multiply-adds in units of one dense
// projection) into up, gate and down with 3/18 to 9/18 each, and returns the
// one whose MLP output is nearest to the dense MLP's on the first `tokens`
// tokens of calibration. `down` is (hidden, mlp). None when no split leaves
// every part at least one rank.
std::optional<MlpSplit> SearchMlpSplit(const RankedLayer& up,
                                       const RankedLayer& gate,
                                       const Matrix<float>& down, double keep,
                                       size_t tokens, Executor& executor);

// The mask of `down` that keeps the share `keep` of the products |h_j| *
// ||down[:, j]|| over all calibration tokens, h computed by `up` and `gate` as
// they will run. The error is that of down's output on the first
// `error_tokens` tokens.
InputMask MakeDownMask(const std::string& module, const LayerForm& up,
                       const LayerForm& gate, const Matrix<float>& down,
                       double keep, size_t error_tokens, Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MLP_H_
