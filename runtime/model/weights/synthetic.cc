#include "runtime/model/weights/synthetic.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "meta/packing.h"
#include "meta/variant.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

namespace {

// The finaliser of MurmurHash3: an input bit changes half of the output bits on
// average.
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
  return x ^ (x >> 33);
}

// Weight (row, col) is a hash of its row's key plus its column's key. In every
// layout, one of the keys is constant along a contiguous run. The loop over the
// other is a dozen integer operations that the compiler vectorises.
struct WeightKeys {
  std::vector<uint32_t> rows;
  std::vector<uint32_t> cols;
  float scale = 0;
};

uint64_t TensorKey(std::string_view name, uint64_t seed) {
  return Mix(HashOf(name) ^ Mix(seed));
}

constexpr uint32_t RowKey(uint64_t tensor, size_t row) {
  return static_cast<uint32_t>(Mix(tensor + row));
}

constexpr uint32_t ColumnKey(size_t col) {
  return static_cast<uint32_t>(col) * 0x9e3779b1u;
}

// The largest magnitude s of a weight. Variance 1 / cols keeps the size of
// activations from layer to layer, and a uniform number in [-s, s] has variance
// s^2 / 3.
float ScaleOf(size_t cols) {
  return std::sqrt(3.0f / static_cast<float>(cols));
}

void AppendRowKeys(std::string_view name, uint64_t seed, size_t begin,
                   size_t count, std::vector<uint32_t>& keys) {
  const uint64_t tensor = TensorKey(name, seed);
  for (size_t row = begin; row < begin + count; ++row) {
    keys.push_back(RowKey(tensor, row));
  }
}

void SetColumns(size_t cols, WeightKeys& keys) {
  for (size_t col = 0; col < cols; ++col) keys.cols.push_back(ColumnKey(col));
  keys.scale = ScaleOf(cols);
}

// The bits of an f32 that is also a bf16 (the lower half is zero).
inline uint32_t WeightBits(uint32_t key, float scale) {
  key = (key ^ (key >> 16)) * 0x7feb352du;
  key = (key ^ (key >> 15)) * 0x846ca68bu;
  key ^= key >> 16;
  const float value =
      static_cast<float>(static_cast<int32_t>(key)) * (scale * 0x1p-31f);
  return std::bit_cast<uint32_t>(value) & 0xffff0000u;
}

void Fill(const WeightKeys& keys, PackedMatrix& matrix) {
  const bool by_row = RunsAreRows(matrix.layout());
  const std::vector<uint32_t>& along = by_row ? keys.cols : keys.rows;
  const std::vector<uint32_t>& across = by_row ? keys.rows : keys.cols;
  std::vector<float> run(RunWeights(along.size()));
  for (size_t i = 0; i < across.size(); ++i) {
    for (size_t j = 0; j < along.size(); ++j) {
      run[j] =
          std::bit_cast<float>(WeightBits(along[j] + across[i], keys.scale));
    }
    matrix.SetRun(i, run.data());
  }
}

bool IsVector(const TensorShape& tensor) { return tensor.rows == 1; }

// Norms multiply by 1. Biases are random and a tenth of the size of what they
// are added to, so that a run that forgets a bias gives visibly other results.
std::vector<float> VectorValues(const ModelConfig& config,
                                std::string_view name, size_t n,
                                uint64_t seed) {
  std::vector<float> values(n, 1 - config.norm_offset);
  if (!name.ends_with(".bias")) return values;
  const uint32_t row_key = RowKey(TensorKey(name, seed), 0);
  for (size_t i = 0; i < n; ++i) {
    values[i] = std::bit_cast<float>(WeightBits(ColumnKey(i) + row_key, 0.17f));
  }
  return values;
}

// All values are bf16 already.
uint16_t UpperHalf(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

Status WriteTensor(const ModelConfig& config, const TensorShape& tensor,
                   uint64_t seed, SafetensorsWriter& writer) {
  if (IsVector(tensor)) {
    std::vector<uint16_t> halves;
    for (const float value :
         VectorValues(config, tensor.name, tensor.cols, seed)) {
      halves.push_back(UpperHalf(value));
    }
    return writer.Append(std::as_bytes(std::span(halves)));
  }
  // A few megabytes at a time.
  const size_t rows_at_once =
      std::max<size_t>(1, (size_t{4} << 20) / tensor.cols);
  WeightKeys keys;
  SetColumns(tensor.cols, keys);
  std::vector<uint16_t> buffer;
  for (size_t begin = 0; begin < tensor.rows; begin += rows_at_once) {
    const size_t count = std::min(rows_at_once, tensor.rows - begin);
    keys.rows.clear();
    AppendRowKeys(tensor.name, seed, begin, count, keys.rows);
    buffer.resize(count * tensor.cols);
    uint16_t* out = buffer.data();
    for (const uint32_t row : keys.rows) {
      for (const uint32_t col : keys.cols) {
        *out++ = static_cast<uint16_t>(WeightBits(col + row, keys.scale) >> 16);
      }
    }
    RANKFORGE_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(buffer))));
  }
  return {};
}

// The rank adapter (rows, cols) whose multiply-adds are `keep` times the dense
// layer's: d * cols for B plus kept * rows for A.
RankAdapter SyntheticRank(const std::string& module, size_t rows, size_t cols,
                          double keep) {
  const auto m = static_cast<double>(rows);
  const auto n = static_cast<double>(cols);
  const auto kept = [&](double d) { return n * (keep - d / m); };
  // With d at three quarters of the input width, much of the budget is left for
  // the masked A. If that pays for fewer than cols / 16 kept ranks, B gets half
  // of the budget. If it pays for all d ranks, d is the input width.
  double d = 0.75 * n;
  if (kept(d) < n / 16) d = std::min(n, keep * m / 2);
  if (kept(d) >= d) d = n;
  RankAdapter rank;
  rank.module = module;
  rank.rows = rows;
  rank.cols = cols;
  const size_t multiple = d >= 1024 ? 64 : 16;
  rank.d =
      std::max<size_t>(multiple, static_cast<size_t>(d) / multiple * multiple);
  rank.density = std::clamp(
      kept(static_cast<double>(rank.d)) / static_cast<double>(rank.d), 0.0,
      1.0);
  return rank;
}

}  // namespace

SyntheticWeights::SyntheticWeights(const ModelConfig& config, uint64_t seed)
    : config_(config),
      seed_(seed),
      embedding_(FamilyOf(config).embedding + ".weight") {}

Result<PackedMatrix> SyntheticWeights::Pack(std::span<const std::string> names,
                                            std::span<const size_t> rows,
                                            size_t cols, WeightType type,
                                            Layout layout) const {
  WeightKeys keys;
  SetColumns(cols, keys);
  for (size_t i = 0; i < names.size(); ++i) {
    AppendRowKeys(names[i], seed_, 0, rows[i], keys.rows);
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      PackedMatrix::Zero(keys.rows.size(), cols, type, layout));
  Fill(keys, matrix);
  return matrix;
}

Result<std::vector<float>> SyntheticWeights::Vector(const std::string& name,
                                                    size_t n) const {
  return VectorValues(config_, name, n, seed_);
}

Status SyntheticWeights::Embedding(size_t row, std::span<float> out) const {
  const uint32_t row_key = RowKey(TensorKey(embedding_, seed_), row);
  const float scale = ScaleOf(config_.hidden);
  for (size_t col = 0; col < out.size(); ++col) {
    out[col] =
        std::bit_cast<float>(WeightBits(ColumnKey(col) + row_key, scale));
  }
  return {};
}

Status WriteSyntheticCheckpoint(const ModelConfig& config, uint64_t seed,
                                const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return Failed(
        fmt::format("{}: cannot create the folder: {}; choose a "
                    "writable place",
                    directory, error.message()));
  }
  const std::vector<TensorShape> tensors = CheckpointTensors(config);
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const TensorShape& tensor : tensors) {
    std::vector<size_t> shape = {tensor.rows, tensor.cols};
    if (IsVector(tensor)) shape = {tensor.cols};
    declared.push_back({tensor.name, "BF16", std::move(shape)});
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(directory + "/model.safetensors", declared,
                                {{"format", "pt"}}));
  for (const TensorShape& tensor : tensors) {
    RANKFORGE_RETURN_IF_ERROR(WriteTensor(config, tensor, seed, writer));
  }
  RANKFORGE_RETURN_IF_ERROR(writer.Commit());
  return SaveConfig(config, directory);
}

Result<Adapter> SyntheticAdapter(const ModelConfig& config, double keep) {
  if (!(keep > 0 && keep <= 1)) {
    return UsageError(
        fmt::format("--keep {}: it must be above 0 and at most 1", keep));
  }
  const ModelSpec spec = DescribeModel(config, nullptr);
  // A rank adapter pays where B (d, cols) is small beside W (rows, cols).
  const auto adapts_qkv = [](const BlockSpec& block) {
    return block[Site::kAttentionInput].rows >=
           2 * block[Site::kAttentionInput].cols;
  };
  const auto macs = [](const ProjectionSpec& projection) {
    return static_cast<double>(projection.rows * projection.cols);
  };
  double adapted = 0;
  for (const BlockSpec& block : spec.blocks) {
    adapted += macs(block[Site::kMlpInput]) + macs(block[Site::kMlpHidden]) +
               (adapts_qkv(block) ? macs(block[Site::kAttentionInput]) : 0);
  }
  const auto all = static_cast<double>(config.LinearMacs());
  // Layers that stay dense count in full, so the others keep less.
  const double adapted_keep = (keep * all - (all - adapted)) / adapted;
  constexpr double kLeast = 0.05;
  if (adapted_keep < kLeast) {
    return UsageError(fmt::format(
        "--keep {}: layers that stay dense and a twentieth of the others are "
        "{:.3f} of this model; give a larger value",
        keep, (all - adapted + kLeast * adapted) / all));
  }

  Adapter adapter;
  adapter.method = "synthetic";
  adapter.keep = keep;
  adapter.linear_flops_ratio = keep;
  for (const BlockSpec& block : spec.blocks) {
    const auto add_rank = [&](const std::string& module, size_t rows) {
      adapter.ranks[module] =
          SyntheticRank(module, rows, config.hidden, adapted_keep);
    };
    for (const TensorShape& tensor :
         block[Site::kMlpInput].direct.front().tensors) {
      add_rank(ModuleOf(tensor), tensor.rows);
    }
    if (adapts_qkv(block))
      add_rank(block[Site::kAttentionInput].name,
               block[Site::kAttentionInput].rows);
    InputMask down;
    down.module = block[Site::kMlpHidden].name;
    down.cols = block[Site::kMlpHidden].cols;
    down.density = adapted_keep;
    adapter.masks[down.module] = std::move(down);
  }
  return adapter;
}

std::vector<int> SyntheticIds(const ModelConfig& config, size_t count,
                              uint64_t seed) {
  std::vector<int> ids(count);
  for (size_t i = 0; i < count; ++i) {
    ids[i] = static_cast<int>(Mix(Mix(seed) + i) % config.vocab);
  }
  return ids;
}

}  // namespace rankforge
