// Second moments of what one layer computes on a calibration text, and the
// layer itself as a model of its own, so that no more than one is in memory.
#ifndef RANKFORGE_ADAPT_CALIBRATE_BLOCK_MOMENTS_H_
#define RANKFORGE_ADAPT_CALIBRATE_BLOCK_MOMENTS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/weights_over.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// The model of `config` with layer `layer` as its only one.
ModelConfig OneLayerConfig(const ModelConfig& config, size_t layer);

// Its weights: names of layer 0 stand for those of layer `layer` of `base`.
class OneLayerWeights : public WeightsOver {
 public:
  OneLayerWeights(const ModelConfig& config, size_t layer,
                  const WeightSource& base);
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;

 private:
  std::string NameInBase(const std::string& name) const;

  std::string from_;  // prefix of layer 0
  std::string to_;
};

// Sums over the tokens, in f64; q and k before rotation.
struct BlockMoments {
  std::vector<Matrix<double>> q;  // by KV head, summed over its query heads
  std::vector<Matrix<double>> k;
  std::vector<Matrix<double>> v;
  // Of what o reads: of each query head, (vo, vo), and, with correlations, of
  // all heads together, (o_cols, o_cols).
  std::vector<Matrix<double>> z;
  Matrix<double> all_z;
  // Of what down reads: sums of x_i^2, and, with correlations, (mlp, mlp).
  std::vector<double> channels;
  Matrix<double> all_channels;
  size_t tokens = 0;
};

// RunBlock of the only layer of `model`; `moments` become those of what it
// computes. `correlations`: all_z and all_channels are wanted.
void RunLayer(Model& model, size_t window, bool correlations,
              Matrix<float>& hidden, BlockMoments& moments);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_BLOCK_MOMENTS_H_
