// A linear layer on the calibration tokens, ready to run dense or as a rank
// adapter of any size.
#ifndef RANKFORGE_ADAPT_FORMS_RANKED_LAYER_H_
#define RANKFORGE_ADAPT_FORMS_RANKED_LAYER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "adapt/forms/rank_basis.h"
#include "adapt/forms/rank_search.h"
#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/threads/executor.h"

namespace rankforge {

struct RankedLayer {
  std::string module;      // its name in the adapter file
  Matrix<float> w;         // (rows, cols)
  const Matrix<float>* x;  // (tokens, cols), the calibration inputs
  RankBasis basis;
  Matrix<float> z;  // (rank, tokens)
  RankSearch search;
  // (rows,) added to the output in every form; empty: none.
  std::vector<float> bias = {};
};

// The layer `w` on the inputs x, which must outlive it.
RankedLayer RankLayer(const std::string& module, Matrix<float> w,
                      const Matrix<float>& x, RankBasis basis,
                      const RankGrid& grid, Executor& executor);

// The layers `w`, named `modules`, which share the inputs x. Each has a basis
// of its own.
Result<std::vector<RankedLayer>> RankLayers(
    const std::vector<std::string>& modules, std::vector<Matrix<float>> w,
    const Matrix<float>& x, const RankGrid& grid, Executor& executor);

// How a layer runs: dense if d is 0, else with those of its first d ranks that
// have |z| >= tau.
struct LayerForm {
  const RankedLayer* layer = nullptr;
  size_t d = 0;
  float tau = 0;

  // y (count, rows) of tokens [begin, begin + count).
  void Run(size_t begin, size_t count, float* y) const;
};

// The form of `choice`, with the threshold that keeps a mean of exactly
// choice.kept ranks per token. Dense without a choice.
LayerForm ExactForm(const RankedLayer& layer,
                    const std::optional<RankChoice>& choice,
                    Executor& executor);

// The adapter of `form`, whose d is not 0, with what calibration says about it.
RankAdapter MakeRankAdapter(const LayerForm& form, Executor& executor);

// Fits A to what the mask m leaves: the least squares fit of W x by A' (m * z)
// over the calibration tokens,
//
//   A' = A (sum of z u^T) (sum of u u^T)^-1,  u = m * z of the first d ranks.
//
// Ranks that no token keeps stay as they are. Updates `adapter`, which
// MakeRankAdapter(form) made, and its error.
Status RefitRankAdapter(const LayerForm& form, Executor& executor,
                        RankAdapter& adapter);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_RANKED_LAYER_H_
