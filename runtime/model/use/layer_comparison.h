// Compares every adapted layer with the dense one while a model runs. Both read
// the same input: the one that the layer has in the adapted model.
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
// contribution is z_i^2 divided by its mean over the ranks for that token. The
// bins are of its decimal logarithm: kBinWidth wide, from kLowest on. The first
// and the last bin also hold what lies beyond them.
struct RankContributions {
  static constexpr double kLowest = -4;
  static constexpr double kBinWidth = 0.5;
  static constexpr size_t kBins = 14;

  // Shares of all pairs (token, rank): those in the bin, and those of them that
  // the mask kept.
  std::array<double, kBins> ranks = {};
  std::array<double, kBins> kept = {};
  std::array<double, kBins> energy = {};  // share of the sum of all z^2
};

struct LayerFigures {
  // sum |y - y_dense|^2 / sum |y_dense|^2 over all tokens, without biases.
  double error = 0;
  // By rank or input: the share of tokens that kept it. Empty for a whole MLP.
  std::vector<double> keep_frequency;
  std::optional<RankContributions> contributions;  // of rank adapters
};

class LayerComparison : public ActivationObserver {
 public:
  // For `model`, which must run `adapter`. Packs the dense weights of its
  // adapted layers and of MLPs with an adapted layer. They have the type of
  // `model`'s weights, so that the error is the adapter's and not that of
  // rounding. All three arguments must outlive the result.
  static Result<std::unique_ptr<LayerComparison>> Create(
      Model& model, const WeightSource& weights, const Adapter& adapter);
  ~LayerComparison() override;

  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override;
  void ObserveOutput(size_t layer, Site site, const float* y, size_t tokens,
                     size_t width) override;

  // The figures of all observed tokens, by adapted module, and by whole MLP
  // ("model.layers.3.mlp") where one of its layers is adapted.
  std::map<std::string, LayerFigures> Figures() const;

 private:
  struct Impl;
  explicit LayerComparison(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_LAYER_COMPARISON_H_
