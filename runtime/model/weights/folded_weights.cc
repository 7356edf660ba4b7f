#include "runtime/model/weights/folded_weights.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace rankforge {
namespace {

// Rows or columns of a matrix that are multiplied at once: 2 MiB of the widest
// streams.
constexpr size_t kTile = 128;

blasint N(size_t value) { return static_cast<blasint>(value); }

// Takes the mean of each column of `values` (rows, cols) away; rows of it are
// `stride` apart.
void CentreColumns(size_t rows, size_t cols, size_t stride, float* values) {
  std::vector<double> means(cols);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) means[j] += values[i * stride + j];
  }
  for (double& mean : means) mean /= static_cast<double>(rows);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) {
      values[i * stride + j] -= static_cast<float>(means[j]);
    }
  }
}

}  // namespace

FoldedWeights::FoldedWeights(const ModelConfig& config,
                             const WeightSource& base, const Adapter* adapter)
    : WeightsOver(base),
      hidden_(config.hidden),
      norm_offset_(config.norm_offset),
      centred_(config.norm == NormKind::kLayer) {
  if (adapter == nullptr) return;
  const Rotation& rotation = adapter->rotation;
  const bool gains = std::ranges::any_of(adapter->masks, [](const auto& mask) {
    return !mask.second.gain.empty();
  });
  if (rotation.empty() && !gains) return;
  for (const TensorShape& tensor : CheckpointTensors(config)) {
    stored_.insert(tensor.name);
  }
  const ModelSpec dense = DescribeModel(config, nullptr);
  const ModelSpec adapted = DescribeModel(config, adapter);
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const RotationGroup* const group = rotation.Of(layer);
    if (group == nullptr) continue;
    lacks_bases_ = lacks_bases_ || group->q.empty();
    const BlockSpec& block = adapted.blocks[layer];
    if (block.enter) {
      turns_[block.enter->name] = {
          layer == 0 ? nullptr : rotation.Of(layer - 1), group};
    }
    if (block.leave) turns_[block.leave->name] = {group, nullptr};
    AddRotated(dense.blocks[layer], block, group);
  }
  for (const BlockSpec& block : adapted.blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      const auto mask = adapter->masks.find(projection.name);
      if (mask == adapter->masks.end() || mask->second.gain.empty()) continue;
      AddGains(projection, mask->second);
    }
  }
}

void FoldedWeights::AddGains(const ProjectionSpec& projection,
                             const InputMask& mask) {
  for (const ProductSpec& product : projection.direct) {
    for (const TensorShape& tensor : product.tensors) {
      matrices_[tensor.name].gain = &mask.gain;
    }
    size_t row = product.output_offset;
    for (const TensorShape& bias : product.biases) {
      // What rotation makes of it stays.
      const auto [entry, added] = biases_.try_emplace(bias.name);
      if (added) entry->second.stored = stored_.contains(bias.name);
      entry->second.added = std::span(mask.bias).subspan(row, bias.cols);
      row += bias.cols;
    }
  }
}

void FoldedWeights::AddRotated(const BlockSpec& dense, const BlockSpec& rotated,
                               const RotationGroup* group) {
  for (const auto& [site, norm] :
       {std::pair(Site::kAttentionInput, &dense.attention_norm),
        std::pair(Site::kMlpInput, &dense.mlp_norm)}) {
    const Fold fold{.reads = group, .norm = *norm};
    // B of a rank adapter is made for its block.
    for (const TensorShape& tensor : dense[site].direct.front().tensors) {
      matrices_[tensor.name] = fold;
      if (norm->bias.empty()) continue;
      const std::string name = ModuleOf(tensor) + ".bias";
      biases_[name] = {fold, tensor, stored_.contains(name)};
    }
  }
  const Fold fold{.writes = group};
  const auto add = [&](const ProductSpec& product) {
    for (const TensorShape& tensor : product.tensors) {
      matrices_[tensor.name] = fold;
    }
    for (const TensorShape& bias : product.biases) {
      biases_[bias.name] = {
          .fold = fold, .tensor = {}, .stored = stored_.contains(bias.name)};
    }
  };
  for (const Site site : {Site::kAttentionOutput, Site::kMlpHidden}) {
    for (const ProductSpec& product : rotated[site].direct) add(product);
    for (const ProductSpec& product : rotated[site].a) add(product);
  }
}

Result<std::vector<float>> FoldedWeights::Factors(const NormSpec& norm) const {
  if (norm.weight.empty()) return std::vector<float>(hidden_, 1.0f);
  RANKFORGE_ASSIGN_OR_RETURN(std::vector<float> factors,
                             base().Vector(norm.weight, hidden_));
  for (float& factor : factors) factor += norm_offset_;
  return factors;
}

Result<std::vector<float>> FoldedWeights::Matrix(
    std::span<const std::string> names, std::span<const size_t> rows,
    size_t cols) const {
  std::vector<float> values(
      std::accumulate(rows.begin(), rows.end(), size_t{0}) * cols);
  float* out = values.data();
  for (size_t i = 0; i < names.size(); ++i) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const PackedMatrix stored,
        base().Pack(names.subspan(i, 1), rows.subspan(i, 1), cols,
                    WeightType::kF32, Layout::kOutIn));
    stored.WidenTile(0, rows[i], out);
    out += rows[i] * cols;
  }
  return values;
}

Status FoldedWeights::CheckBases() const {
  if (!lacks_bases_ || base().HasPacked()) return {};
  return Failed(
      "adapter: the bases of its rotated blocks were not loaded, and nothing "
      "else has the rotated weights; load it with its matrices, or give the "
      "pack that was made with it");
}

// w (rows, hidden) = w diag(factors) Q, a tile of rows after the other.
Status FoldedWeights::ReadStream(const Fold& fold, size_t rows,
                                 float* w) const {
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> factors,
                             Factors(fold.norm));
  std::vector<float> tile(kTile * hidden_);
  for (size_t begin = 0; begin < rows; begin += kTile) {
    const size_t count = std::min(kTile, rows - begin);
    float* const from = w + begin * hidden_;
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < hidden_; ++j) {
        tile[i * hidden_ + j] = from[i * hidden_ + j] * factors[j];
      }
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N(count), N(hidden_),
                N(hidden_), 1, tile.data(), N(hidden_), fold.reads->q.data(),
                N(hidden_), 0, from, N(hidden_));
  }
  return {};
}

// w (hidden, cols) = Q^T P w, a tile of columns after the other.
void FoldedWeights::WriteStream(const RotationGroup& group, size_t cols,
                                float* w) const {
  std::vector<float> tile(hidden_ * kTile);
  for (size_t begin = 0; begin < cols; begin += kTile) {
    const size_t count = std::min(kTile, cols - begin);
    for (size_t i = 0; i < hidden_; ++i) {
      std::copy_n(w + i * cols + begin, count, tile.data() + i * kTile);
    }
    if (centred_) CentreColumns(hidden_, count, kTile, tile.data());
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, N(hidden_), N(count),
                N(hidden_), 1, group.q.data(), N(hidden_), tile.data(),
                N(kTile), 0, w + begin, N(cols));
  }
}

// (hidden, hidden).
std::vector<float> FoldedWeights::TurnOf(const Turn& turn) const {
  const auto& [from, to] = turn;
  std::vector<float> matrix(hidden_ * hidden_);
  if (from != nullptr) {
    matrix = from->q;
  } else {
    for (size_t i = 0; i < hidden_; ++i) matrix[i * hidden_ + i] = 1;
  }
  if (to != nullptr) WriteStream(*to, hidden_, matrix.data());
  return matrix;
}

// values (rows of the tensor,) += W c.
Status FoldedWeights::AddNormBias(const BiasFold& bias,
                                  std::vector<float>& values) const {
  const NormSpec& norm = bias.fold.norm;
  if (norm.bias.empty()) return {};
  const TensorShape& tensor = bias.tensor;
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> c,
                             base().Vector(norm.bias, hidden_));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<float> w,
      Matrix({&tensor.name, 1}, {&tensor.rows, 1}, tensor.cols));
  cblas_sgemv(CblasRowMajor, CblasNoTrans, N(tensor.rows), N(tensor.cols), 1,
              w.data(), N(tensor.cols), c.data(), 1, 1, values.data(), 1);
  return {};
}

Result<std::vector<float>> FoldedWeights::Vector(const std::string& name,
                                                 size_t n) const {
  const auto found = biases_.find(name);
  if (found == biases_.end()) return base().Vector(name, n);
  const BiasFold& bias = found->second;
  std::vector<float> values(n);
  RANKFORGE_RETURN_IF_ERROR(CheckBases());
  if (base().HasPacked()) {
    RANKFORGE_ASSIGN_OR_RETURN(const PackedMatrix packed,
                               base().Pack({&name, 1}, std::array{size_t{1}}, n,
                                           WeightType::kF32, Layout::kOutIn));
    packed.WidenTile(0, 1, values.data());
    return values;
  }
  if (bias.stored) {
    RANKFORGE_ASSIGN_OR_RETURN(values, base().Vector(name, n));
  }
  for (size_t i = 0; i < bias.added.size(); ++i) values[i] += bias.added[i];
  if (bias.fold.writes != nullptr) {
    WriteStream(*bias.fold.writes, 1, values.data());
  } else {
    RANKFORGE_RETURN_IF_ERROR(AddNormBias(bias, values));
  }
  return values;
}

// w (rows, cols) becomes what `fold` says.
Status FoldedWeights::FoldMatrix(const Fold& fold, size_t rows, size_t cols,
                                 float* w) const {
  if (fold.reads != nullptr) {
    RANKFORGE_RETURN_IF_ERROR(ReadStream(fold, rows, w));
  }
  if (fold.writes != nullptr) WriteStream(*fold.writes, cols, w);
  if (fold.gain == nullptr) return {};
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) w[i * cols + j] *= (*fold.gain)[j];
  }
  return {};
}

Result<PackedMatrix> FoldedWeights::Pack(std::span<const std::string> names,
                                         std::span<const size_t> rows,
                                         size_t cols, WeightType type,
                                         Layout layout) const {
  // All names of a product are of the same kind, so the first one decides.
  const std::string& first = names.front();
  const auto turn = turns_.find(first);
  const auto fold = matrices_.find(first);
  const bool is_bias = biases_.contains(first);
  if (base().HasPacked() ||
      (turn == turns_.end() && fold == matrices_.end() && !is_bias)) {
    return base().Pack(names, rows, cols, type, layout);
  }
  RANKFORGE_RETURN_IF_ERROR(CheckBases());
  std::vector<float> values;
  if (turn != turns_.end()) {
    values = TurnOf(turn->second);
  } else if (is_bias) {
    RANKFORGE_ASSIGN_OR_RETURN(values, Vector(first, cols));
  } else {
    RANKFORGE_ASSIGN_OR_RETURN(values, Matrix(names, rows, cols));
    RANKFORGE_RETURN_IF_ERROR(
        FoldMatrix(fold->second, values.size() / cols, cols, values.data()));
  }
  const SourceMatrix source{
      .data = values.data(), .rows = values.size() / cols, .cols = cols};
  RANKFORGE_ASSIGN_OR_RETURN(PackedMatrix matrix,
                             PackedMatrix::Pack({&source, 1}, type, layout));
  if (!matrix.finite()) {
    RANKFORGE_RETURN_IF_ERROR(
        CheckWeights("adapted weights", first, source, type));
  }
  return matrix;
}

}  // namespace rankforge
