#include "adapt/a3.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <utility>

#include "adapt/block_moments.h"
#include "adapt/calibration.h"
#include "adapt/checkpoint_folder.h"
#include "adapt/method.h"
#include "adapt/mixture.h"
#include "adapt/probe.h"
#include "adapt/shrink.h"
#include "runtime/executor.h"
#include "runtime/model/attention.h"
#include "runtime/model/modules.h"
#include "runtime/model/weights_over.h"

namespace rankforge {
namespace {

// Added to the diagonal of what a refit inverts, relative to its mean.
constexpr double kRidge = 1e-3;
// Tokens that the losses behind a budget are taken from.
constexpr size_t kSurveyTokens = 8192;
// Shares of a size at which the divergence is measured, and on how many tokens
// at most, an eighth of the calibration.
constexpr double kProbeShares[] = {0.9, 0.7};
constexpr size_t kProbeTokens = 2048;

size_t Index(Component component) { return static_cast<size_t>(component); }

// How many of a head's elements are rotated pairs, and how many others.
struct QkSplit {
  size_t pairs = 0;
  size_t unrotated = 0;
};

// Sizes of one layer, by component.
using Sizes = std::array<size_t, kComponents>;

Sizes SizesOf(const ModelConfig& config, size_t layer) {
  return {config.qk_dim(layer), config.vo_dim(layer), config.mlp_width(layer)};
}

// Parameters of a layer for each unit of a component's size.
std::array<size_t, kComponents> UnitParameters(const ModelConfig& config) {
  const size_t heads = config.hidden * (config.heads + config.kv_heads);
  return {heads, heads, config.hidden * (config.gated_mlp ? 3u : 2u)};
}

size_t MultipleOf(const ModelConfig& config, const A3Options& options,
                  Component component) {
  if (component == Component::kMlp) {
    if (options.mlp_multiple > 0) return options.mlp_multiple;
    return config.mlp >= 1024 ? 64 : 32;
  }
  if (options.head_multiple > 0) return options.head_multiple;
  return config.head_dim >= 64 ? 16 : 4;
}

// The sizes that a component of size `full` may have, ascending; the last one
// is `full`.
std::vector<size_t> AllowedSizes(size_t full, size_t multiple) {
  std::vector<size_t> sizes;
  for (size_t size = multiple; size < full; size += multiple) {
    sizes.push_back(size);
  }
  sizes.push_back(full);
  return sizes;
}

// What belongs to x by straight lines through (0, 0) and `points`, sorted by x,
// the last of them going on.
double Interpolated(const std::vector<std::pair<double, double>>& points,
                    double x) {
  double x0 = 0, y0 = 0, slope = 0;
  for (const auto& [x1, y1] : points) {
    if (x1 > x0) slope = (y1 - y0) / (x1 - x0);
    if (x <= x1) break;
    x0 = x1;
    y0 = y1;
  }
  return y0 + slope * (x - x0);
}

size_t Nearest(const std::vector<size_t>& sizes, double wanted) {
  return *std::min_element(sizes.begin(), sizes.end(), [&](size_t a, size_t b) {
    return std::fabs(static_cast<double>(a) - wanted) <
           std::fabs(static_cast<double>(b) - wanted);
  });
}

// The weights of one layer, widened; q, k, v and gate, up stacked.
struct BlockWeights {
  Matrix<float> qkv, o, gate_up, down;
  std::vector<float> qkv_bias, gate_up_bias;
};

Result<std::vector<float>> LoadBiases(const WeightSource& weights,
                                      const ProductSpec& product) {
  std::vector<float> stacked;
  for (const TensorShape& bias : product.biases) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> part,
                               weights.Vector(bias.name, bias.cols));
    stacked.insert(stacked.end(), part.begin(), part.end());
  }
  return stacked;
}

Result<BlockWeights> LoadBlock(const WeightSource& weights,
                               const BlockSpec& spec) {
  BlockWeights block;
  const auto load = [&](const ProjectionSpec& projection) {
    return LoadWeights(weights, projection.direct.front().tensors);
  };
  RANKFORGE_ASSIGN_OR_RETURN(block.qkv, load(spec.qkv));
  RANKFORGE_ASSIGN_OR_RETURN(block.o, load(spec.o));
  RANKFORGE_ASSIGN_OR_RETURN(block.gate_up, load(spec.gate_up));
  RANKFORGE_ASSIGN_OR_RETURN(block.down, load(spec.down));
  RANKFORGE_ASSIGN_OR_RETURN(block.qkv_bias,
                             LoadBiases(weights, spec.qkv.direct.front()));
  RANKFORGE_ASSIGN_OR_RETURN(block.gate_up_bias,
                             LoadBiases(weights, spec.gate_up.direct.front()));
  return block;
}

// Columns [begin, begin + count), widened.
Matrix<double> Columns(const Matrix<float>& matrix, size_t begin,
                       size_t count) {
  Matrix<double> columns(matrix.rows, count);
  for (size_t i = 0; i < matrix.rows; ++i) {
    std::copy_n(matrix.row(i) + begin, count, columns.row(i));
  }
  return columns;
}

// The closed-form solutions of one layer for every size. `config` is that of
// the layer alone.
class LayerSolutions {
 public:
  static Result<LayerSolutions> Make(const ModelConfig& config,
                                     const BlockWeights& weights,
                                     const BlockMoments& moments,
                                     bool group_outputs) {
    LayerSolutions solutions;
    const size_t vo = config.vo_dim(0);
    const size_t group = config.heads / config.kv_heads;
    for (size_t kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
      RANKFORGE_ASSIGN_OR_RETURN(
          ShrunkScores scores,
          ShrunkScores::Make(moments.q[kv_head], moments.k[kv_head],
                             config.rotated(0)));
      solutions.scores_.push_back(std::move(scores));

      Matrix<double> outputs(vo, vo);  // of the heads, W_o^T W_o
      Matrix<double> inputs(vo, vo);   // mean over the heads
      for (size_t head = kv_head * group; head < (kv_head + 1) * group;
           ++head) {
        const Matrix<double> o = Columns(weights.o, head * vo, vo);
        const Matrix<double> square = TransposedProduct(o, o);
        for (size_t i = 0; i < square.values.size(); ++i) {
          outputs.values[i] += square.values[i];
          inputs.values[i] +=
              moments.z[head].values[i] / static_cast<double>(group);
        }
      }
      // One head reads what it attends to; several differ in that, and the
      // paper takes the values themselves for all of them.
      RANKFORGE_ASSIGN_OR_RETURN(
          SharedSpace values,
          SharedSpace::Make(
              group == 1 || group_outputs ? inputs : moments.v[kv_head],
              outputs));
      solutions.values_.push_back(std::move(values));
    }
    solutions.channels_ = ChannelScores(moments.channels, weights.down);
    return solutions;
  }

  const std::vector<ShrunkScores>& scores() const { return scores_; }
  const std::vector<SharedSpace>& values() const { return values_; }
  const std::vector<double>& channels() const { return channels_; }

  // The split of so many elements that loses least over all heads.
  QkSplit BestSplit(size_t elements) const {
    const size_t unrotated = scores_.front().unrotated();
    QkSplit best;
    double best_loss = -1;
    for (size_t pairs = 0;
         pairs <= scores_.front().pairs() && 2 * pairs <= elements; ++pairs) {
      const QkSplit split{pairs, elements - 2 * pairs};
      if (split.unrotated > unrotated) continue;
      const double loss = ScoreLoss(split);
      if (best_loss < 0 || loss < best_loss) {
        best = split;
        best_loss = loss;
      }
    }
    return best;
  }

  // Squared error of scores or of what is added to the residual stream, summed
  // over the heads. Size 0: all of it.
  double Loss(Component component, size_t size) const {
    switch (component) {
      case Component::kQk:
        return ScoreLoss(size == 0 ? QkSplit{} : BestSplit(size));
      case Component::kOv: {
        double loss = 0;
        for (const SharedSpace& space : values_) loss += space.Loss(size);
        return loss;
      }
      case Component::kMlp: {
        std::vector<double> sorted = channels_;
        std::sort(sorted.begin(), sorted.end());
        return std::accumulate(sorted.begin(),
                               sorted.end() - static_cast<std::ptrdiff_t>(size),
                               0.0);
      }
    }
    return 0;
  }

 private:
  double ScoreLoss(const QkSplit& split) const {
    double loss = 0;
    for (const ShrunkScores& scores : scores_) {
      loss += scores.Loss(split.pairs, split.unrotated);
    }
    return loss;
  }

  std::vector<ShrunkScores> scores_;  // by KV head
  std::vector<SharedSpace> values_;   // by KV head
  std::vector<double> channels_;
};

Matrix<double> Identity(size_t n) {
  Matrix<double> identity(n, n);
  for (size_t i = 0; i < n; ++i) identity.row(i)[i] = 1;
  return identity;
}

// A smaller layer.
struct ShrunkBlock {
  BlockWeights weights;
  LayerDims dims;
  // By KV head, which of the layer's pairs are left.
  std::vector<std::vector<size_t>> pairs;
};

// A layer in place of `weights`.
class BlockShrinker {
 public:
  BlockShrinker(const ModelConfig& config, const BlockWeights& weights,
                const BlockMoments& moments, const LayerSolutions& solutions,
                const std::set<A3Refinement>& without)
      : config_(config),
        weights_(weights),
        moments_(moments),
        solutions_(solutions),
        without_(without) {}

  Result<ShrunkBlock> Shrink(const Sizes& sizes) const {
    ShrunkBlock small;
    small.dims = {.qk = sizes[Index(Component::kQk)],
                  .vo = sizes[Index(Component::kOv)],
                  .mlp = sizes[Index(Component::kMlp)]};
    const QkSplit split = solutions_.BestSplit(small.dims.qk);
    for (const ShrunkScores& scores : solutions_.scores()) {
      small.pairs.push_back(scores.Pairs(split.pairs));
    }
    small.dims.rotary_pairs = RotaryPairs(small.pairs);
    const ModelConfig shrunk = ConfigOf(small);
    ShrinkQkv(shrunk, split, small.weights);
    RANKFORGE_ASSIGN_OR_RETURN(small.weights.o, ShrinkO(shrunk));
    RANKFORGE_RETURN_IF_ERROR(ShrinkMlp(small.dims.mlp, small.weights));
    return small;
  }

  // The layer in the shape of `weights`, zeros in place of what it lacks: it
  // computes the same.
  BlockWeights Padded(const ShrunkBlock& small) const {
    BlockWeights padded = {
        .qkv = Matrix<float>(weights_.qkv.rows, weights_.qkv.cols),
        .o = Matrix<float>(weights_.o.rows, weights_.o.cols),
        .gate_up = Matrix<float>(weights_.gate_up.rows, weights_.gate_up.cols),
        .down = Matrix<float>(weights_.down.rows, weights_.down.cols),
        .qkv_bias = std::vector<float>(weights_.qkv_bias.size()),
        .gate_up_bias = std::vector<float>(weights_.gate_up_bias.size())};
    const ModelConfig shrunk = ConfigOf(small);
    const HeadOffsets from(shrunk, 0), to(config_, 0);
    const auto put_rows = [](const Matrix<float>& rows,
                             const std::vector<float>& bias, size_t source,
                             size_t target, Matrix<float>& all,
                             std::vector<float>& all_bias) {
      std::copy_n(rows.row(source), rows.cols, all.row(target));
      if (!bias.empty()) all_bias[target] = bias[source];
    };
    const auto put_head = [&](size_t source, size_t target,
                              const std::vector<size_t>& places) {
      for (size_t i = 0; i < places.size(); ++i) {
        put_rows(small.weights.qkv, small.weights.qkv_bias, source + i,
                 target + places[i], padded.qkv, padded.qkv_bias);
      }
    };
    std::vector<size_t> values(small.dims.vo);
    std::iota(values.begin(), values.end(), size_t{0});
    for (size_t kv_head = 0; kv_head < config_.kv_heads; ++kv_head) {
      const std::vector<size_t> places = PlacesOf(small, kv_head);
      for (size_t head = kv_head * group(); head < (kv_head + 1) * group();
           ++head) {
        put_head(from.q(head), to.q(head), places);
        for (size_t row = 0; row < padded.o.rows; ++row) {
          std::copy_n(small.weights.o.row(row) + head * small.dims.vo,
                      small.dims.vo,
                      padded.o.row(row) + head * config_.vo_dim(0));
        }
      }
      put_head(from.k(kv_head), to.k(kv_head), places);
      put_head(from.v(kv_head), to.v(kv_head), values);
    }
    const size_t width = small.dims.mlp;
    for (size_t row = 0; row < small.weights.gate_up.rows; ++row) {
      put_rows(small.weights.gate_up, small.weights.gate_up_bias, row,
               row / width * config_.mlp_width(0) + row % width, padded.gate_up,
               padded.gate_up_bias);
    }
    for (size_t row = 0; row < padded.down.rows; ++row) {
      std::copy_n(small.weights.down.row(row), width, padded.down.row(row));
    }
    return padded;
  }

 private:
  bool Refines(A3Refinement refinement) const {
    return !without_.contains(refinement);
  }
  size_t group() const { return config_.heads / config_.kv_heads; }

  ModelConfig ConfigOf(const ShrunkBlock& small) const {
    ModelConfig shrunk = config_;
    shrunk.layer_dims = {small.dims};
    return shrunk;
  }

  // Where the elements of a smaller query or key lie among all of a head.
  std::vector<size_t> PlacesOf(const ShrunkBlock& small, size_t kv_head) const {
    const size_t rotated = config_.rotated(0);
    const std::vector<size_t>& pairs = small.pairs[kv_head];
    std::vector<size_t> places = pairs;
    for (const size_t pair : pairs) places.push_back(rotated / 2 + pair);
    for (size_t i = 0; places.size() < small.dims.qk; ++i) {
      places.push_back(rotated + i);
    }
    return places;
  }

  // Empty: all of the model's, as before.
  std::vector<std::vector<uint16_t>> RotaryPairs(
      const std::vector<std::vector<size_t>>& pairs) const {
    const std::vector<std::vector<uint16_t>> had =
        config_.layer_dims.empty() ? std::vector<std::vector<uint16_t>>{}
                                   : config_.layer_dims[0].rotary_pairs;
    if (2 * pairs.front().size() == config_.rotated(0)) return had;
    std::vector<std::vector<uint16_t>> lists;
    for (size_t head = 0; head < config_.kv_heads; ++head) {
      std::vector<uint16_t>& list = lists.emplace_back();
      for (const size_t pair : pairs[head]) {
        list.push_back(had.empty() ? static_cast<uint16_t>(pair)
                                   : had[head][pair]);
      }
    }
    return lists;
  }

  // (vo, kept) of a KV head: what new values and new columns of o are made by.
  Matrix<double> ValueMap(size_t kv_head, size_t kept) const {
    const size_t vo = config_.vo_dim(0);
    return kept == vo ? Identity(vo) : solutions_.values()[kv_head].Left(kept);
  }
  Matrix<double> OutputMap(size_t kv_head, size_t kept) const {
    const size_t vo = config_.vo_dim(0);
    return kept == vo ? Identity(vo) : solutions_.values()[kv_head].Right(kept);
  }

  void ShrinkQkv(const ModelConfig& shrunk, const QkSplit& split,
                 BlockWeights& small) const {
    small.qkv = Matrix<float>(shrunk.qkv_rows(0), config_.hidden);
    small.qkv_bias.resize(weights_.qkv_bias.empty() ? 0 : small.qkv.rows);
    const HeadOffsets from(config_, 0), to(shrunk, 0);
    // Rows [to, to + map.cols) = map^T rows [from, from + map.rows).
    const auto apply = [&](size_t from_row, size_t to_row,
                           const Matrix<double>& map) {
      Matrix<double> rows(map.rows, config_.hidden);
      for (size_t i = 0; i < map.rows; ++i) {
        std::copy_n(weights_.qkv.row(from_row + i), rows.cols, rows.row(i));
      }
      const Matrix<double> mapped = TransposedProduct(map, rows);
      std::copy(mapped.values.begin(), mapped.values.end(),
                small.qkv.row(to_row));
      if (small.qkv_bias.empty()) return;
      for (size_t j = 0; j < map.cols; ++j) {
        double sum = 0;
        for (size_t i = 0; i < map.rows; ++i) {
          sum += map.row(i)[j] *
                 static_cast<double>(weights_.qkv_bias[from_row + i]);
        }
        small.qkv_bias[to_row + j] = static_cast<float>(sum);
      }
    };
    for (size_t kv_head = 0; kv_head < config_.kv_heads; ++kv_head) {
      const ShrunkScores& scores = solutions_.scores()[kv_head];
      const Matrix<double> queries =
          scores.QueryMap(split.pairs, split.unrotated);
      for (size_t i = 0; i < group(); ++i) {
        const size_t head = kv_head * group() + i;
        apply(from.q(head), to.q(head), queries);
      }
      apply(from.k(kv_head), to.k(kv_head),
            scores.KeyMap(split.pairs, split.unrotated));
      apply(from.v(kv_head), to.v(kv_head),
            ValueMap(kv_head, shrunk.vo_dim(0)));
    }
  }

  Result<Matrix<float>> ShrinkO(const ModelConfig& shrunk) const {
    const size_t vo = config_.vo_dim(0), kept = shrunk.vo_dim(0);
    if (kept == vo) return weights_.o;
    Matrix<double> o(config_.hidden, shrunk.o_cols(0));
    for (size_t head = 0; head < config_.heads; ++head) {
      const Matrix<double> columns = Product(Columns(weights_.o, head * vo, vo),
                                             OutputMap(head / group(), kept));
      for (size_t i = 0; i < o.rows; ++i) {
        std::copy_n(columns.row(i), kept, o.row(i) + head * kept);
      }
    }
    if (Refines(A3Refinement::kRefitO)) {
      RANKFORGE_ASSIGN_OR_RETURN(o, RefitO(o, kept));
    }
    return Narrowed(o);
  }

  // With R the moments of what o reads and T the value maps of all heads on its
  // diagonal, new inputs T^T z have moments T^T R T, and o's outputs correlate
  // with them by W_o R T.
  Result<Matrix<double>> RefitO(const Matrix<double>& o, size_t kept) const {
    const size_t vo = config_.vo_dim(0), heads = config_.heads;
    Matrix<double> cross(heads * vo, heads * kept);  // R T
    Matrix<double> inner(heads * kept, heads * kept);
    for (size_t head = 0; head < heads; ++head) {
      const Matrix<double> map = ValueMap(head / group(), kept);
      Multiply(cross.rows, kept, vo,
               {.data = moments_.all_z.values.data() + head * vo,
                .stride = moments_.all_z.cols},
               {.data = map.values.data(), .stride = kept}, 0.0,
               cross.values.data() + head * kept, cross.cols);
    }
    for (size_t head = 0; head < heads; ++head) {
      const Matrix<double> map = ValueMap(head / group(), kept);
      Multiply(kept, inner.cols, vo,
               {.data = map.values.data(), .stride = kept, .transposed = true},
               {.data = cross.row(head * vo), .stride = cross.cols}, 0.0,
               inner.row(head * kept), inner.cols);
    }
    Matrix<double> residual = Product(Widen(weights_.o), cross);
    const Matrix<double> had = Product(o, inner);
    for (size_t i = 0; i < residual.values.size(); ++i) {
      residual.values[i] -= had.values[i];
    }
    return RefitWeights(o, residual, inner, kRidge);
  }

  Status ShrinkMlp(size_t width, BlockWeights& small) const {
    if (width == config_.mlp_width(0)) {
      small.gate_up = weights_.gate_up;
      small.gate_up_bias = weights_.gate_up_bias;
      small.down = weights_.down;
      return {};
    }
    const std::vector<size_t> kept = LargestOf(solutions_.channels(), width);
    small.gate_up = Matrix<float>(
        weights_.gate_up.rows / config_.mlp_width(0) * width, config_.hidden);
    for (size_t row = 0; row < small.gate_up.rows; ++row) {
      const size_t from =
          row / width * config_.mlp_width(0) + kept[row % width];
      std::copy_n(weights_.gate_up.row(from), config_.hidden,
                  small.gate_up.row(row));
      if (!weights_.gate_up_bias.empty()) {
        small.gate_up_bias.push_back(weights_.gate_up_bias[from]);
      }
    }
    Matrix<double> down(config_.hidden, width);
    for (size_t row = 0; row < down.rows; ++row) {
      for (size_t i = 0; i < width; ++i) {
        down.row(row)[i] = weights_.down.row(row)[kept[i]];
      }
    }
    if (Refines(A3Refinement::kRefitDown)) {
      RANKFORGE_ASSIGN_OR_RETURN(down, RefitDown(down, kept));
    }
    small.down = Narrowed(down);
    return {};
  }

  // What the dropped channels add correlates with the kept ones by W_D R_DS.
  Result<Matrix<double>> RefitDown(const Matrix<double>& down,
                                   const std::vector<size_t>& kept) const {
    std::vector<size_t> dropped;
    for (size_t i = 0, next = 0; i < config_.mlp_width(0); ++i) {
      if (next < kept.size() && kept[next] == i) {
        ++next;
      } else {
        dropped.push_back(i);
      }
    }
    const auto gather = [&](const std::vector<size_t>& rows) {
      Matrix<double> gathered(rows.size(), kept.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        for (size_t j = 0; j < kept.size(); ++j) {
          gathered.row(i)[j] = moments_.all_channels.row(rows[i])[kept[j]];
        }
      }
      return gathered;
    };
    Matrix<double> lost(config_.hidden, dropped.size());
    for (size_t row = 0; row < lost.rows; ++row) {
      for (size_t i = 0; i < dropped.size(); ++i) {
        lost.row(row)[i] = weights_.down.row(row)[dropped[i]];
      }
    }
    return RefitWeights(down, Product(lost, gather(dropped)), gather(kept),
                        kRidge);
  }

  static Matrix<float> Narrowed(const Matrix<double>& wide) {
    Matrix<float> narrow(wide.rows, wide.cols);
    std::transform(wide.values.begin(), wide.values.end(),
                   narrow.values.begin(),
                   [](double value) { return static_cast<float>(value); });
    return narrow;
  }

  const ModelConfig& config_;
  const BlockWeights& weights_;
  const BlockMoments& moments_;
  const LayerSolutions& solutions_;
  const std::set<A3Refinement>& without_;
};

// Adds the tensors and biases of `product`, whose rows are stacked in `rows`
// and `bias`.
void AddTensors(const ProductSpec& product, const Matrix<float>& rows,
                const std::vector<float>& bias, NewTensors& tensors) {
  auto from = rows.values.begin();
  for (const TensorShape& tensor : product.tensors) {
    const auto end =
        from + static_cast<std::ptrdiff_t>(tensor.rows * tensor.cols);
    tensors[tensor.name] = {from, end};
    from = end;
  }
  if (bias.empty()) return;
  auto value = bias.begin();
  for (const TensorShape& tensor : product.biases) {
    const auto end = value + static_cast<std::ptrdiff_t>(tensor.cols);
    tensors[tensor.name] = {value, end};
    value = end;
  }
}

NewTensors TensorsOf(const BlockSpec& names, const BlockWeights& block) {
  NewTensors tensors;
  AddTensors(names.qkv.direct.front(), block.qkv, block.qkv_bias, tensors);
  AddTensors(names.o.direct.front(), block.o, {}, tensors);
  AddTensors(names.gate_up.direct.front(), block.gate_up, block.gate_up_bias,
             tensors);
  AddTensors(names.down.direct.front(), block.down, {}, tensors);
  return tensors;
}

// New tensors in place of those of `base`.
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

class Run {
 public:
  Run(const Checkpoint& checkpoint, const A3Options& options)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        options_(options),
        spec_(DescribeModel(config_, nullptr)) {}

  Result<A3Summary> To(std::span<const int> ids, const std::string& out) {
    RANKFORGE_RETURN_IF_ERROR(CheckOptions());
    RANKFORGE_ASSIGN_OR_RETURN(
        sample_, SampleWindows(ids, options_.window,
                               options_.calibration_tokens, options_.seed));
    RANKFORGE_ASSIGN_OR_RETURN(type_, StoredType(checkpoint_));
    RANKFORGE_ASSIGN_OR_RETURN(NewFolder folder, NewFolder::Create(out));
    const bool mixed = !options_.uniform && Refines(A3Refinement::kMixedRanks);
    total_ = config_.layers * (mixed ? 2 : 1);
    if (mixed) {
      RANKFORGE_RETURN_IF_ERROR(Survey());
    } else {
      UniformSizes();
    }
    RANKFORGE_RETURN_IF_ERROR(Write(folder.temporary()));
    RANKFORGE_RETURN_IF_ERROR(
        CopySettings(checkpoint_.directory(), folder.temporary()));
    RANKFORGE_RETURN_IF_ERROR(folder.Commit());
    return std::move(summary_);
  }

 private:
  bool Refines(A3Refinement refinement) const {
    return !options_.without.contains(refinement);
  }
  double KeepOf(Component component) const {
    if (!options_.components.contains(component)) return 1;
    return options_.component_keep[Index(component)].value_or(options_.keep);
  }
  void Step(const std::string& what) {
    if (options_.progress) options_.progress(++done_, total_, what);
  }

  Status CheckOptions() const {
    std::vector<double> keeps = {options_.keep};
    for (const auto& keep : options_.component_keep) {
      if (keep) keeps.push_back(*keep);
    }
    for (const double keep : keeps) {
      if (!(keep > 0 && keep <= 1)) {
        return UsageError(fmt::format(
            "keep {}: ask for a share of the parameters in (0, 1]", keep));
      }
    }
    if (options_.components.empty()) {
      return UsageError("components: name at least one of qk, ov, mlp");
    }
    for (const Component component :
         {Component::kQk, Component::kOv, Component::kMlp}) {
      if (options_.component_keep[Index(component)] &&
          !options_.components.contains(component)) {
        return UsageError(fmt::format(
            "keep of {0}: it is not one of the components; add it to them",
            ComponentNames()[Index(component)]));
      }
    }
    if (options_.head_multiple % 2 != 0) {
      return UsageError(fmt::format(
          "head multiple {}: rotated elements come in pairs, ask for an even "
          "number",
          options_.head_multiple));
    }
    if (options_.window > config_.max_positions) {
      return UsageError(fmt::format(
          "calibration windows of {} tokens: the model has {} positions",
          options_.window, config_.max_positions));
    }
    if (options_.threads == 0) {
      return UsageError("threads 0: ask for at least one");
    }
    return {};
  }

  std::vector<size_t> Allowed(size_t layer, Component component) const {
    return AllowedSizes(SizesOf(config_, layer)[Index(component)],
                        MultipleOf(config_, options_, component));
  }

  void UniformSizes() {
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      Sizes& sizes = sizes_.emplace_back(SizesOf(config_, layer));
      for (const Component component : options_.components) {
        size_t& size = sizes[Index(component)];
        size = Nearest(Allowed(layer, component),
                       KeepOf(component) * static_cast<double>(size));
      }
    }
  }

  // Moments and solutions of `layer`, which `hidden` is run through.
  struct Surveyed {
    ModelConfig config;  // of the layer alone
    BlockWeights weights;
    BlockMoments moments;
    LayerSolutions solutions;
  };
  Result<Surveyed> RunThrough(size_t layer, bool correlations,
                              Matrix<float>& hidden) {
    Surveyed result;
    result.config = OneLayerConfig(config_, layer);
    const OneLayerWeights source(config_, layer, checkpoint_);
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(
            result.config, source, nullptr, Dispatcher(nullptr),
            {.type = type_, .lm_head_type = type_, .threads = options_.threads},
            MakeDefaultExecutor(options_.threads)));
    if (layer == 0) {
      RANKFORGE_RETURN_IF_ERROR(model.Embed(
          std::span(sample_).first(hidden.rows), hidden.values.data()));
    }
    RunLayer(model, options_.window, correlations, hidden, &result.moments);
    RANKFORGE_ASSIGN_OR_RETURN(result.weights,
                               LoadBlock(checkpoint_, spec_.blocks[layer]));
    RANKFORGE_ASSIGN_OR_RETURN(
        result.solutions,
        LayerSolutions::Make(result.config, result.weights, result.moments,
                             Refines(A3Refinement::kGroupOutputs)));
    return result;
  }

  size_t WholeWindows(size_t tokens) const {
    const size_t windows = std::max<size_t>(1, tokens / options_.window);
    return std::min(sample_.size(), windows * options_.window);
  }
  bool Correlations() const {
    return Refines(A3Refinement::kRefitDown) || Refines(A3Refinement::kRefitO);
  }

  // Sizes of all layers under one budget; components with a share of their own
  // have theirs.
  Status Survey() {
    Matrix<float> hidden(WholeWindows(kSurveyTokens), config_.hidden);
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(config_, checkpoint_, nullptr, Dispatcher(nullptr),
                      {.type = type_,
                       .lm_head_type = type_,
                       .threads = options_.threads,
                       .blocks_on_demand = true},
                      MakeDefaultExecutor(options_.threads)));
    Matrix<float> probed(
        WholeWindows(std::min(kProbeTokens, sample_.size() / 8)),
        config_.hidden);
    RANKFORGE_RETURN_IF_ERROR(model.Embed(std::span(sample_).first(probed.rows),
                                          probed.values.data()));
    RANKFORGE_ASSIGN_OR_RETURN(
        const Probe probe,
        Probe::Start(model, checkpoint_, options_.window, probed));
    std::array<std::vector<Layer>, kComponents> layers;
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      sizes_.push_back(SizesOf(config_, layer));
      // What the layer reads, before it is run through.
      if (layer > 0)
        std::copy_n(hidden.row(0), probed.values.size(), probed.row(0));
      RANKFORGE_ASSIGN_OR_RETURN(const Surveyed surveyed,
                                 RunThrough(layer, Correlations(), hidden));
      for (const Component component : options_.components) {
        RANKFORGE_ASSIGN_OR_RETURN(
            Layer entry,
            Candidates(layer, component, surveyed, probed, probe, model));
        layers[Index(component)].push_back(std::move(entry));
      }
      Step(fmt::format("survey of layer {}", layer));
    }
    std::set<Component> shared;
    for (const Component component : options_.components) {
      if (options_.component_keep[Index(component)]) {
        Spread({component}, KeepOf(component), layers);
      } else {
        shared.insert(component);
      }
    }
    Spread(shared, options_.keep, layers);
    return {};
  }

  // Sizes for the layers of these components under one budget.
  void Spread(const std::set<Component>& components, double keep,
              const std::array<std::vector<Layer>, kComponents>& layers) {
    std::vector<Layer> all;
    for (const Component component : components) {
      const std::vector<Layer>& some = layers[Index(component)];
      all.insert(all.end(), some.begin(), some.end());
    }
    if (all.empty()) return;
    const std::vector<Candidate> chosen = Allocate(all, keep);
    size_t next = 0;
    for (const Component component : components) {
      for (Sizes& sizes : sizes_) {
        size_t& size = sizes[Index(component)];
        size = static_cast<size_t>(
            std::lround(chosen[next++].cost * static_cast<double>(size)));
      }
    }
  }

  // What each size of a component loses: its share of the paper's objective,
  // in divergence of the model's predictions as measured at two sizes with
  // this component of this layer alone made smaller.
  Result<Layer> Candidates(size_t layer, Component component,
                           const Surveyed& surveyed,
                           const Matrix<float>& probed, const Probe& probe,
                           Model& model) const {
    const size_t full = SizesOf(config_, layer)[Index(component)];
    const std::vector<size_t> allowed = Allowed(layer, component);
    const std::vector<size_t> smaller(allowed.begin(), allowed.end() - 1);
    const BlockShrinker shrinker(surveyed.config, surveyed.weights,
                                 surveyed.moments, surveyed.solutions,
                                 options_.without);
    std::vector<std::pair<double, double>> points;  // loss, divergence
    std::vector<Matrix<float>> hidden;              // behind the smaller layer
    for (const double share : kProbeShares) {
      if (smaller.empty()) break;
      Sizes sizes = SizesOf(config_, layer);
      sizes[Index(component)] =
          Nearest(smaller, share * static_cast<double>(full));
      RANKFORGE_ASSIGN_OR_RETURN(const ShrunkBlock small,
                                 shrinker.Shrink(sizes));
      RANKFORGE_RETURN_IF_ERROR(model.AdaptBlock(
          layer,
          TensorsOver(checkpoint_,
                      TensorsOf(spec_.blocks[layer], shrinker.Padded(small))),
          nullptr));
      points.emplace_back(
          surveyed.solutions.Loss(component, sizes[Index(component)]), 0);
      RunBlock(model, layer, options_.window, hidden.emplace_back(probed));
    }
    model.DropBlock(layer);
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                               probe.Divergences(layer + 1, hidden));
    for (size_t i = 0; i < points.size(); ++i) {
      points[i].second = std::max(0.0, divergences[i]);
    }
    Layer entry;
    entry.dense_cost =
        static_cast<double>(full * UnitParameters(config_)[Index(component)]);
    for (const size_t size : allowed) {
      entry.candidates.push_back(
          {.cost = static_cast<double>(size) / static_cast<double>(full),
           .loss =
               Interpolated(points, surveyed.solutions.Loss(component, size))});
    }
    return entry;
  }

  // The config with sizes_; the frequencies are not known yet.
  ModelConfig ShrunkConfig() const {
    ModelConfig config = config_;
    config.layer_dims.clear();
    bool alike = config_.layer_dims.empty();
    for (const Sizes& sizes : sizes_) {
      const auto [qk, vo, mlp] = sizes;
      config.layer_dims.push_back({.qk = qk, .vo = vo, .mlp = mlp});
      alike = alike && qk == config_.head_dim && vo == config_.head_dim &&
              mlp == sizes_[0][Index(Component::kMlp)];
    }
    if (alike) {  // an ordinary model
      config.mlp = sizes_[0][Index(Component::kMlp)];
      config.layer_dims.clear();
    }
    return config;
  }

  Status Write(const std::string& folder) {
    ModelConfig config = ShrunkConfig();
    const ModelSpec small = DescribeModel(config, nullptr);
    Matrix<float> hidden(sample_.size(), config_.hidden);
    const auto layer_tensors = [&](size_t layer) -> Result<NewTensors> {
      RANKFORGE_ASSIGN_OR_RETURN(const Surveyed surveyed,
                                 RunThrough(layer, Correlations(), hidden));
      RANKFORGE_ASSIGN_OR_RETURN(
          const ShrunkBlock block,
          BlockShrinker(surveyed.config, surveyed.weights, surveyed.moments,
                        surveyed.solutions, options_.without)
              .Shrink(sizes_[layer]));
      if (!config.layer_dims.empty()) config.layer_dims[layer] = block.dims;
      auto& losses = summary_.losses.emplace_back();
      for (size_t i = 0; i < kComponents; ++i) {
        const auto component = static_cast<Component>(i);
        losses[i] = surveyed.solutions.Loss(component, sizes_[layer][i]) /
                    surveyed.solutions.Loss(component, 0);
      }
      Step(fmt::format("layer {}", layer));
      return TensorsOf(small.blocks[layer], block.weights);
    };
    RANKFORGE_RETURN_IF_ERROR(
        WriteTensors(checkpoint_, config, layer_tensors, folder));
    RANKFORGE_RETURN_IF_ERROR(WriteConfigs(checkpoint_, config, folder));
    summary_.linear_flops_ratio = static_cast<double>(config.LinearMacs()) /
                                  static_cast<double>(config_.LinearMacs());
    summary_.calibration_tokens = sample_.size();
    summary_.config = std::move(config);
    return {};
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const A3Options& options_;
  ModelSpec spec_;
  WeightType type_ = WeightType::kF32;
  std::vector<int> sample_;  // whole windows
  std::vector<Sizes> sizes_;
  A3Summary summary_;
  size_t done_ = 0;
  size_t total_ = 0;
};

}  // namespace

const std::vector<std::string>& ComponentNames() {
  static const std::vector<std::string> names = {"qk", "ov", "mlp"};
  return names;
}

const std::vector<std::string>& A3RefinementNames() {
  static const std::vector<std::string> names = {
      "refit-down", "refit-o", "mixed-ranks", "group-outputs"};
  return names;
}

Result<A3Summary> ShrinkCheckpoint(const Checkpoint& checkpoint,
                                   std::span<const int> ids,
                                   const A3Options& options,
                                   const std::string& out) {
  try {
    return Run(checkpoint, options).To(ids, out);
  } catch (const std::bad_alloc&) {
    return EnvironmentError(
        "not enough memory for the moments of a layer; use fewer --tokens, or "
        "leave out refit-down and refit-o");
  }
}

}  // namespace rankforge
