#include "adapt/a3/block_shrinker.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "adapt/calibrate/load_weights.h"
#include "runtime/model/forward/attention.h"

namespace rankforge {
namespace {

// A refit adds this to the diagonal of the matrix that it inverts, relative to
// the mean of that diagonal.
constexpr double kRidge = 1e-3;

size_t Index(Component component) { return static_cast<size_t>(component); }

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

// Columns [begin, begin + count), widened.
Matrix<double> Columns(const Matrix<float>& matrix, size_t begin,
                       size_t count) {
  return MatrixOf<double>(MatrixView(matrix).Columns(begin, count));
}

Matrix<double> Identity(size_t n) {
  Matrix<double> identity(n, n);
  for (size_t i = 0; i < n; ++i) identity.row(i)[i] = 1;
  return identity;
}

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

}  // namespace

Sizes SizesOf(const ModelConfig& config, size_t layer) {
  return {config.qk_dim(layer), config.vo_dim(layer), config.mlp_width(layer)};
}

Result<BlockWeights> LoadBlock(const WeightSource& weights,
                               const BlockSpec& spec) {
  BlockWeights block;
  const auto load = [&](const ProjectionSpec& projection) {
    return LoadWeights(weights, projection.direct.front().tensors);
  };
  RANKFORGE_ASSIGN_OR_RETURN(block.qkv, load(spec[Site::kAttentionInput]));
  RANKFORGE_ASSIGN_OR_RETURN(block.o, load(spec[Site::kAttentionOutput]));
  RANKFORGE_ASSIGN_OR_RETURN(block.gate_up, load(spec[Site::kMlpInput]));
  RANKFORGE_ASSIGN_OR_RETURN(block.down, load(spec[Site::kMlpHidden]));
  RANKFORGE_ASSIGN_OR_RETURN(
      block.qkv_bias,
      LoadBiases(weights, spec[Site::kAttentionInput].direct.front()));
  RANKFORGE_ASSIGN_OR_RETURN(
      block.gate_up_bias,
      LoadBiases(weights, spec[Site::kMlpInput].direct.front()));
  return block;
}

NewTensors TensorsOf(const BlockSpec& names, const BlockWeights& block) {
  NewTensors tensors;
  AddTensors(names[Site::kAttentionInput].direct.front(), block.qkv,
             block.qkv_bias, tensors);
  AddTensors(names[Site::kAttentionOutput].direct.front(), block.o, {},
             tensors);
  AddTensors(names[Site::kMlpInput].direct.front(), block.gate_up,
             block.gate_up_bias, tensors);
  AddTensors(names[Site::kMlpHidden].direct.front(), block.down, {}, tensors);
  return tensors;
}

Result<LayerSolutions> LayerSolutions::Make(const ModelConfig& config,
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

    Matrix<double> outputs(vo, vo);  // W_o^T W_o, summed over the heads
    Matrix<double> inputs(vo, vo);   // mean over the heads
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const Matrix<double> o = Columns(weights.o, head * vo, vo);
      const Matrix<double> square = Product(Transposed(o), o);
      for (size_t i = 0; i < square.values.size(); ++i) {
        outputs.values[i] += square.values[i];
        inputs.values[i] +=
            moments.z[head].values[i] / static_cast<double>(group);
      }
    }
    // What o reads are the outputs of attention. Heads that share values attend
    // differently: `group_outputs` takes the mean of their outputs' moments,
    // the paper the moments of the values themselves.
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

QkSplit LayerSolutions::BestSplit(size_t elements) const {
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

double LayerSolutions::Loss(Component component, size_t size) const {
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

double LayerSolutions::ScoreLoss(const QkSplit& split) const {
  double loss = 0;
  for (const ShrunkScores& scores : scores_) {
    loss += scores.Loss(split.pairs, split.unrotated);
  }
  return loss;
}

Result<ShrunkBlock> BlockShrinker::Shrink(const Sizes& sizes) const {
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

BlockWeights BlockShrinker::Padded(const ShrunkBlock& small) const {
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

ModelConfig BlockShrinker::ConfigOf(const ShrunkBlock& small) const {
  ModelConfig shrunk = config_;
  shrunk.layer_dims = {small.dims};
  return shrunk;
}

// Where the elements of a smaller query or key lie in the full head.
std::vector<size_t> BlockShrinker::PlacesOf(const ShrunkBlock& small,
                                            size_t kv_head) const {
  const size_t rotated = config_.rotated(0);
  const std::vector<size_t>& pairs = small.pairs[kv_head];
  std::vector<size_t> places = pairs;
  for (const size_t pair : pairs) places.push_back(rotated / 2 + pair);
  for (size_t i = 0; places.size() < small.dims.qk; ++i) {
    places.push_back(rotated + i);
  }
  return places;
}

// LayerDims::rotary_pairs of the smaller layer. If it keeps all pairs, that is
// the list that the layer had, which may be empty.
std::vector<std::vector<uint16_t>> BlockShrinker::RotaryPairs(
    const std::vector<std::vector<size_t>>& pairs) const {
  std::vector<std::vector<uint16_t>> had =
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

// (vo, kept) of a KV head. Its new values are the old ones times ValueMap, its
// new columns of o are the old ones times OutputMap.
Matrix<double> BlockShrinker::ValueMap(size_t kv_head, size_t kept) const {
  const size_t vo = config_.vo_dim(0);
  return kept == vo ? Identity(vo) : solutions_.values()[kv_head].Left(kept);
}
Matrix<double> BlockShrinker::OutputMap(size_t kv_head, size_t kept) const {
  const size_t vo = config_.vo_dim(0);
  return kept == vo ? Identity(vo) : solutions_.values()[kv_head].Right(kept);
}

void BlockShrinker::ShrinkQkv(const ModelConfig& shrunk, const QkSplit& split,
                              BlockWeights& small) const {
  small.qkv = Matrix<float>(shrunk.qkv_rows(0), config_.hidden);
  small.qkv_bias.resize(weights_.qkv_bias.empty() ? 0 : small.qkv.rows);
  const HeadOffsets from(config_, 0), to(shrunk, 0);
  // Rows [to, to + map.cols) = map^T rows [from, from + map.rows).
  const auto apply = [&](size_t from_row, size_t to_row,
                         const Matrix<double>& map) {
    const Matrix<double> rows =
        MatrixOf<double>(MatrixView(weights_.qkv).Rows(from_row, map.rows));
    const Matrix<double> mapped = Product(Transposed(map), rows);
    Copy(MatrixView(mapped), MatrixView(small.qkv).Rows(to_row, map.cols));
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
    apply(from.v(kv_head), to.v(kv_head), ValueMap(kv_head, shrunk.vo_dim(0)));
  }
}

Result<Matrix<float>> BlockShrinker::ShrinkO(const ModelConfig& shrunk) const {
  const size_t vo = config_.vo_dim(0), kept = shrunk.vo_dim(0);
  if (kept == vo) return weights_.o;
  Matrix<double> o(config_.hidden, shrunk.o_cols(0));
  for (size_t head = 0; head < config_.heads; ++head) {
    Multiply(Columns(weights_.o, head * vo, vo),
             OutputMap(head / group(), kept),
             MatrixView(o).Columns(head * kept, kept));
  }
  if (Refines(Refinement::kRefitO)) {
    RANKFORGE_ASSIGN_OR_RETURN(o, RefitO(o, kept));
  }
  return Narrow(o);
}

// R are the moments of what o reads, and T has the value maps of all heads on
// its diagonal. The new inputs T^T z have the moments T^T R T. Their
// correlation with o's outputs is W_o R T.
Result<Matrix<double>> BlockShrinker::RefitO(const Matrix<double>& o,
                                             size_t kept) const {
  const size_t vo = config_.vo_dim(0), heads = config_.heads;
  Matrix<double> cross(heads * vo, heads * kept);  // R T
  Matrix<double> inner(heads * kept, heads * kept);
  for (size_t head = 0; head < heads; ++head) {
    const Matrix<double> map = ValueMap(head / group(), kept);
    Multiply(MatrixView(moments_.all_z).Columns(head * vo, vo), map,
             MatrixView(cross).Columns(head * kept, kept));
  }
  for (size_t head = 0; head < heads; ++head) {
    const Matrix<double> map = ValueMap(head / group(), kept);
    const MatrixView<const double> rows(cross);
    Multiply(Transposed(map), rows.Rows(head * vo, vo),
             MatrixView(inner).Rows(head * kept, kept));
  }
  Matrix<double> residual = Product(executor_, Widen(weights_.o), cross);
  const Matrix<double> had = Product(executor_, o, inner);
  for (size_t i = 0; i < residual.values.size(); ++i) {
    residual.values[i] -= had.values[i];
  }
  return RefitWeights(o, residual, inner, kRidge, executor_);
}

Status BlockShrinker::ShrinkMlp(size_t width, BlockWeights& small) const {
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
    const size_t from = row / width * config_.mlp_width(0) + kept[row % width];
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
  if (Refines(Refinement::kRefitDown)) {
    RANKFORGE_ASSIGN_OR_RETURN(down, RefitDown(down, kept));
  }
  small.down = Narrow(down);
  return {};
}

// The output of the dropped channels D correlates with the kept channels S by
// W_D R_DS, where R are the moments of all channels.
Result<Matrix<double>> BlockShrinker::RefitDown(
    const Matrix<double>& down, const std::vector<size_t>& kept) const {
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
  return RefitWeights(down, Product(executor_, lost, gather(dropped)),
                      gather(kept), kRidge, executor_);
}

}  // namespace rankforge
