// An MLP, y = down (act(gate x) * (up x)) or y = down act(up x), adapted: rank
// adapters for up and gate, a neuron threshold for down, and the split of the
// budget between them.
#ifndef RANKFORGE_ADAPT_FORMS_MLP_H_
#define RANKFORGE_ADAPT_FORMS_MLP_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "adapt/forms/rank_search.h"
#include "adapt/forms/ranked_layer.h"
#include "kernels/layer/activation.h"
#include "runtime/model/format/adapter.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// The MLP before it is adapted; `down` is (hidden, mlp).
struct RankedMlp {
  const RankedLayer& up;
  const RankedLayer* gate;  // null: there is none
  const Matrix<float>& down;
  Activation activation = Activation::kSilu;

  size_t matrices() const { return gate == nullptr ? 2 : 3; }
};

// The forms of up and gate, which make what down reads.
struct HiddenForm {
  LayerForm up;
  LayerForm gate;  // its layer is null: there is none
  Activation activation = Activation::kSilu;
};

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

// Splits `keep` times the multiply-adds of the dense MLP between up, gate and
// down, in eighteenths. Each part gets half to one and a half of an equal
// share: 37 splits, 9 without a gate. Returns the split whose MLP output is
// nearest to the dense MLP's on the first `tokens` tokens of calibration; none
// if no split leaves up and gate at least one rank each.
std::optional<MlpSplit> SearchMlpSplit(const RankedMlp& mlp, double keep,
                                       size_t tokens, Executor& executor);

// The mask of `down` that keeps the share `keep` of the products |h_j| *
// ||down[:, j]|| over all calibration tokens. h is computed by `form`, as at
// run time. The error is that of down's output on the first `error_tokens`
// tokens.
InputMask MakeDownMask(const std::string& module, const HiddenForm& form,
                       const Matrix<float>& down, double keep,
                       size_t error_tokens, Executor& executor);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_MLP_H_
