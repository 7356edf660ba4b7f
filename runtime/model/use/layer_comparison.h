// Holds every adapted layer against the dense one while a model runs: both read
// the same input, which is what the adapted model feeds that layer.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_LAYER_COMPARISON_H_
#define RANKFORGE_RUNTIME_MODEL_USE_LAYER_COMPARISON_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// How much the ranks of an adapter contribute to its outputs, over tokens. A
// contribution is z_i^2 divided by its mean over the ranks for that token; its
// decimal logarithm falls into bins of kBinWidth from kLowest on, the first and
// the last of which also hold what lies beyond.
struct RankContributions {
  static constexpr double kLowest = -4;
  static constexpr double kBinWidth = 0.5;
  static constexpr size_t kBins = 14;

  std::array<double, kBins> ranks = {};   // share of all (token, rank)
  std::array<double, kBins> kept = {};    // share of them that the mask kept
  std::array<double, kBins> energy = {};  // share of the sum of all z^2
};

struct LayerFigures {
  // sum |y - y_dense|^2 / sum |y_dense|^2 over all tokens, without biases.
  double error = 0;
  // By rank or input: the share of tokens that kept it. None for a whole MLP.
  std::vector<double> keep_frequency;
  std::optional<RankContributions> contributions;  // of rank adapters
};

class LayerComparison : public ActivationObserver {
 public:
  // For `model`, which must run `adapter`. Packs the dense weights of its
  // adapted layers and of MLPs with an adapted layer, in the type of `model`'s:
  // the error is the adapter's, not that of rounding. All three must outlive
  // the result.
  static Result<std::unique_ptr<LayerComparison>> Create(
      Model& model, const WeightSource& weights, const Adapter& adapter);
  ~LayerComparison() override;

  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override;
  void ObserveOutput(size_t layer, Site site, const float* y, size_t tokens,
                     size_t width) override;

  // Of what was observed so far, by adapted module; and of whole MLPs
  // ("model.layers.3.mlp") with an adapted layer.
  std::map<std::string, LayerFigures> Figures() const;

 private:
  struct Impl;
  explicit LayerComparison(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_LAYER_COMPARISON_H_
