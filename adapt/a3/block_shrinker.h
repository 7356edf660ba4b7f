// One layer made smaller: the solutions of adapt/a3/shrink.h for all of its
// heads and channels, and the weights that follow from them.
#ifndef RANKFORGE_ADAPT_A3_BLOCK_SHRINKER_H_
#define RANKFORGE_ADAPT_A3_BLOCK_SHRINKER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adapt/a3/checkpoint_folder.h"
#include "adapt/a3/shrink.h"
#include "adapt/calibrate/block_moments.h"
#include "adapt/math/linear_algebra.h"
#include "adapt/run/options.h"
#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/weights_over.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Sizes of one layer, by component.
using Sizes = std::array<size_t, kComponents>;
Sizes SizesOf(const ModelConfig& config, size_t layer);

// The weights of one layer, widened; q, k, v and gate, up stacked.
struct BlockWeights {
  Matrix<float> qkv, o, gate_up, down;
  std::vector<float> qkv_bias, gate_up_bias;
};
Result<BlockWeights> LoadBlock(const WeightSource& weights,
                               const BlockSpec& spec);
// The tensors of the layer that `names` describes.
NewTensors TensorsOf(const BlockSpec& names, const BlockWeights& block);

// How many of a head's elements are rotated pairs, and how many others.
struct QkSplit {
  size_t pairs = 0;
  size_t unrotated = 0;
};

// The closed-form solutions of one layer for every size.
class LayerSolutions {
 public:
  // `config` is that of the layer alone (OneLayerConfig). `group_outputs`:
  // values that several heads share are weighted by what these heads attend to.
  static Result<LayerSolutions> Make(const ModelConfig& config,
                                     const BlockWeights& weights,
                                     const BlockMoments& moments,
                                     bool group_outputs);

  const std::vector<ShrunkScores>& scores() const { return scores_; }
  const std::vector<SharedSpace>& values() const { return values_; }
  const std::vector<double>& channels() const { return channels_; }

  // The split of `elements` that loses least over all heads.
  QkSplit BestSplit(size_t elements) const;
  // The squared error of the scores (kQk) or of what the layer adds to the
  // residual stream (kOv, kMlp), summed over the heads. Size 0: nothing is
  // kept.
  double Loss(Component component, size_t size) const;

 private:
  double ScoreLoss(const QkSplit& split) const;

  std::vector<ShrunkScores> scores_;  // by KV head
  std::vector<SharedSpace> values_;   // by KV head
  std::vector<double> channels_;
};

// A smaller layer.
struct ShrunkBlock {
  BlockWeights weights;
  LayerDims dims;
  // By KV head, which of the layer's pairs are left.
  std::vector<std::vector<size_t>> pairs;
};

// Makes smaller layers from `weights`. All arguments must outlive this object.
class BlockShrinker {
 public:
  BlockShrinker(const ModelConfig& config, const BlockWeights& weights,
                const BlockMoments& moments, const LayerSolutions& solutions,
                const std::set<Refinement>& without, Executor& executor)
      : config_(config),
        weights_(weights),
        moments_(moments),
        solutions_(solutions),
        without_(without),
        executor_(executor) {}

  // The layer with these sizes. A component that keeps its size keeps its
  // weights.
  Result<ShrunkBlock> Shrink(const Sizes& sizes) const;
  // `small` in the shape of `weights`, with zeros for what it lacks. It
  // computes the same as `small`.
  BlockWeights Padded(const ShrunkBlock& small) const;

 private:
  bool Refines(Refinement refinement) const {
    return !without_.contains(refinement);
  }
  size_t group() const { return config_.heads / config_.kv_heads; }
  ModelConfig ConfigOf(const ShrunkBlock& small) const;
  // Where the elements of a smaller query or key lie in the full head.
  std::vector<size_t> PlacesOf(const ShrunkBlock& small, size_t kv_head) const;
  // LayerDims::rotary_pairs of the smaller layer. If it keeps all pairs, that
  // is the list that the layer had, which may be empty.
  std::vector<std::vector<uint16_t>> RotaryPairs(
      const std::vector<std::vector<size_t>>& pairs) const;
  // (vo, kept) of a KV head. Its new values are the old ones times ValueMap,
  // its new columns of o are the old ones times OutputMap.
  Matrix<double> ValueMap(size_t kv_head, size_t kept) const;
  Matrix<double> OutputMap(size_t kv_head, size_t kept) const;
  void ShrinkQkv(const ModelConfig& shrunk, const QkSplit& split,
                 BlockWeights& small) const;
  Result<Matrix<float>> ShrinkO(const ModelConfig& shrunk) const;
  Result<Matrix<double>> RefitO(const Matrix<double>& o, size_t kept) const;
  Status ShrinkMlp(size_t width, BlockWeights& small) const;
  Result<Matrix<double>> RefitDown(const Matrix<double>& down,
                                   const std::vector<size_t>& kept) const;

  const ModelConfig& config_;
  const BlockWeights& weights_;
  const BlockMoments& moments_;
  const LayerSolutions& solutions_;
  const std::set<Refinement>& without_;
  Executor& executor_;
};

// The weights of `base` with new tensors in place of some.
class TensorsOver : public WeightsOver {
 public:
  TensorsOver(const WeightSource& base, NewTensors tensors)
      : WeightsOver(base), tensors_(std::move(tensors)) {}
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    std::vector<SourceMatrix> parts;
    for (size_t i = 0; i < names.size(); ++i) {
      const auto found = tensors_.find(names[i]);
      if (found == tensors_.end()) {
        return base().Pack(names, rows, cols, type, layout);
      }
      parts.push_back(
          {.data = found->second.data(), .rows = rows[i], .cols = cols});
    }
    return PackedMatrix::Pack(parts, type, layout);
  }
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return base().Vector(name, n);
    return found->second;
  }

 private:
  NewTensors tensors_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_BLOCK_SHRINKER_H_
