#include "runtime/model/use/layer_comparison.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/layer/activation.h"
#include "kernels/mask/mask.h"
#include "runtime/model/forward/projection.h"
#include "runtime/model/weights/adapter_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

// The sums whose ratio is LayerFigures::error.
struct ErrorSums {
  double error = 0;
  double reference = 0;

  double Relative() const { return reference > 0 ? error / reference : 0; }
};

// What a mask keeps of the values that it reads: z of a rank adapter, or the
// inputs of the projection.
struct MaskFigures {
  std::string module;
  size_t offset = 0;  // where its values begin
  std::vector<float> tau;
  std::vector<uint64_t> kept;  // how many tokens keep a channel
  uint64_t tokens = 0;
  // Of rank adapters, by bin: how many pairs (token, rank) are in it, how many
  // of them are kept, and the energy of all of them.
  bool ranks = false;
  std::array<uint64_t, RankContributions::kBins> by_bin = {}, kept_by_bin = {};
  std::array<double, RankContributions::kBins> energy_by_bin = {};

  void Add(const float* values);
};

size_t BinOf(double contribution) {
  const double bin = (std::log10(contribution) - RankContributions::kLowest) /
                     RankContributions::kBinWidth;
  if (!(bin > 0)) return 0;
  return std::min(static_cast<size_t>(bin), RankContributions::kBins - 1);
}

void MaskFigures::Add(const float* values) {
  ++tokens;
  double sum = 0;
  for (size_t i = 0; i < tau.size(); ++i) {
    sum += static_cast<double>(values[i]) * values[i];
  }
  for (size_t i = 0; i < tau.size(); ++i) {
    const bool keep = Keeps(values[i], tau[i]);
    kept[i] += keep;
    if (!ranks || sum <= 0) continue;
    const double energy = static_cast<double>(values[i]) * values[i];
    const size_t bin = BinOf(energy * static_cast<double>(tau.size()) / sum);
    ++by_bin[bin];
    kept_by_bin[bin] += keep;
    energy_by_bin[bin] += energy;
  }
}

RankContributions Shares(const MaskFigures& mask) {
  double ranks = 0, energy = 0;
  for (size_t bin = 0; bin < RankContributions::kBins; ++bin) {
    ranks += static_cast<double>(mask.by_bin[bin]);
    energy += mask.energy_by_bin[bin];
  }
  RankContributions shares;
  if (ranks == 0) return shares;
  for (size_t bin = 0; bin < RankContributions::kBins; ++bin) {
    shares.ranks[bin] = static_cast<double>(mask.by_bin[bin]) / ranks;
    shares.kept[bin] = static_cast<double>(mask.kept_by_bin[bin]) / ranks;
    shares.energy[bin] = mask.energy_by_bin[bin] / energy;
  }
  return shares;
}

// Outputs [offset, offset + rows) that one module computes.
struct Part {
  std::string module;
  size_t offset = 0;
  size_t rows = 0;
  ErrorSums sums;

  // Adds one token: the adapted output, the dense output, and the bias (may be
  // empty).
  void Add(const float* y, const float* dense, const std::vector<float>& bias);
};

void Part::Add(const float* y, const float* dense,
               const std::vector<float>& bias) {
  for (size_t i = offset; i < offset + rows; ++i) {
    const double difference = static_cast<double>(y[i]) - dense[i];
    const double reference =
        static_cast<double>(dense[i]) - (bias.empty() ? 0 : bias[i]);
    sums.error += difference * difference;
    sums.reference += reference * reference;
  }
}

struct ComparedProjection {
  size_t rows = 0;
  size_t cols = 0;
  std::optional<Projection> dense;
  std::vector<float> bias;      // (rows,) or none
  std::vector<Part> parts;      // adapted
  std::optional<Projection> b;  // of its rank adapters
  size_t z_size = 0;
  std::vector<MaskFigures> masks;
  std::vector<float> reference;  // (tokens, rows), what `dense` makes of x
};

struct ComparedBlock {
  BySite<ComparedProjection> projections;
  std::optional<Part> mlp;           // none: no layer of the MLP is adapted
  std::vector<float> mlp_reference;  // (tokens, hidden)

  ComparedProjection& operator[](Site site) { return projections[site]; }
};

MaskFigures FiguresOf(const MaskSpec& spec, bool ranks, double tau_scale) {
  MaskFigures figures;
  figures.module = spec.module;
  figures.offset = spec.offset;
  figures.tau = ThresholdsOf(spec, tau_scale);
  figures.kept.resize(spec.cols);
  figures.ranks = ranks;
  return figures;
}

// What `spec` adapts. Load adds the weights.
ComparedProjection Compared(const ProjectionSpec& spec, double tau_scale) {
  ComparedProjection compared;
  compared.rows = spec.rows;
  compared.cols = spec.cols;
  for (size_t i = 0; i < spec.a.size(); ++i) {
    compared.parts.push_back({spec.rank_masks[i].module,
                              spec.a[i].output_offset,
                              spec.a[i].rows(),
                              {}});
    compared.masks.push_back(FiguresOf(spec.rank_masks[i], true, tau_scale));
  }
  if (spec.input_mask) {
    compared.parts.push_back({spec.input_mask->module, 0, spec.rows, {}});
    compared.masks.push_back(FiguresOf(*spec.input_mask, false, tau_scale));
  }
  return compared;
}

}  // namespace

struct LayerComparison::Impl {
  Status Load(const ProjectionSpec& dense, const ProjectionSpec& adapted,
              ProductFactory& factory, ComparedProjection& compared) const;
  void Run(Projection& projection, const float* x, size_t tokens, float* y) {
    projection.Run(x, tokens, y, model->executor(), *scratch);
  }
  void RunMlp(ComparedBlock& block, size_t tokens);

  Model* model = nullptr;
  std::vector<ComparedBlock> blocks;
  std::optional<ProductScratch> scratch;
  std::vector<float> z;       // (tokens, z_size)
  std::vector<float> hidden;  // (tokens, mlp)
};

Status LayerComparison::Impl::Load(const ProjectionSpec& dense,
                                   const ProjectionSpec& adapted,
                                   ProductFactory& factory,
                                   ComparedProjection& compared) const {
  const WeightType type = model->options().type;
  RANKFORGE_ASSIGN_OR_RETURN(compared.dense,
                             Projection::Create(dense, type, factory));
  for (const TensorShape& bias : dense.direct.front().biases) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> values,
                               factory.source.Vector(bias.name, bias.cols));
    compared.bias.insert(compared.bias.end(), values.begin(), values.end());
  }
  if (adapted.b) {
    ProjectionSpec b;
    b.name = adapted.name;
    b.rows = compared.z_size = adapted.b->rows();
    b.cols = adapted.cols;
    b.direct = {*adapted.b};
    RANKFORGE_ASSIGN_OR_RETURN(compared.b,
                               Projection::Create(b, type, factory));
  }
  return {};
}

LayerComparison::LayerComparison(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
LayerComparison::~LayerComparison() = default;

Result<std::unique_ptr<LayerComparison>> LayerComparison::Create(
    Model& model, const WeightSource& weights, const Adapter& adapter) {
  const ModelConfig& config = model.config();
  RANKFORGE_RETURN_IF_ERROR(CheckAdapter(config, adapter));
  // The same model in the same bases, with nothing adapted.
  Adapter rotated;
  rotated.rotation = adapter.rotation;
  const ModelSpec dense = DescribeModel(config, &rotated);
  const ModelSpec adapted = DescribeModel(config, &adapter);
  const AdapterWeights with_ranks(weights, &adapter);
  const FoldedWeights source(config, with_ranks, &rotated);
  const Dispatcher defaults(nullptr);
  const double tau_scale = model.options().tau_scale;
  ProductFactory factory{source,
                         defaults,
                         model.options().threads,
                         1,
                         model.options().stored_types.get(),
                         model.options().activations,
                         {}};
  auto impl = std::make_unique<Impl>();
  impl->model = &model;
  size_t most_inputs = 0;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const BlockSpec& before = dense.blocks[layer];
    const BlockSpec& after = adapted.blocks[layer];
    ComparedBlock block;
    for (const Site site : kSites) {
      block[site] = Compared(after[site], tau_scale);
      most_inputs = std::max(most_inputs, before[site].cols);
    }
    const std::string& down = before[Site::kMlpHidden].name;
    if (after[Site::kMlpInput].gate_mask ||
        !block[Site::kMlpInput].parts.empty() ||
        !block[Site::kMlpHidden].parts.empty()) {
      block.mlp = {down.substr(0, down.rfind('.')), 0, config.hidden, {}};
    }
    for (const Site site : kSites) {
      const bool in_mlp = site == Site::kMlpInput || site == Site::kMlpHidden;
      if (block[site].parts.empty() && !(in_mlp && block.mlp)) continue;
      RANKFORGE_RETURN_IF_ERROR(
          impl->Load(before[site], after[site], factory, block[site]));
    }
    impl->blocks.push_back(std::move(block));
  }
  impl->scratch.emplace(model.executor().threads(), most_inputs, 1, 1);
  return std::unique_ptr<LayerComparison>(new LayerComparison(std::move(impl)));
}

void LayerComparison::Impl::RunMlp(ComparedBlock& block, size_t tokens) {
  const ModelConfig& config = model->config();
  const ComparedProjection& gate_up = block[Site::kMlpInput];
  const size_t neurons = block[Site::kMlpHidden].cols;
  hidden.resize(tokens * neurons);
  for (size_t token = 0; token < tokens; ++token) {
    const float* const gate = gate_up.reference.data() + token * gate_up.rows;
    Activate(config.activation, gate,
             config.gated_mlp ? gate + neurons : nullptr, neurons,
             hidden.data() + token * neurons);
  }
  block.mlp_reference.resize(tokens * config.hidden);
  Run(*block[Site::kMlpHidden].dense, hidden.data(), tokens,
      block.mlp_reference.data());
}

void LayerComparison::Observe(size_t layer, Site site, const float* x,
                              size_t tokens, size_t) {
  ComparedBlock& block = impl_->blocks[layer];
  ComparedProjection& compared = block[site];
  if (compared.dense) {
    compared.reference.resize(tokens * compared.rows);
    impl_->Run(*compared.dense, x, tokens, compared.reference.data());
  }
  if (site == Site::kMlpInput && block.mlp) impl_->RunMlp(block, tokens);
  if (compared.b) {
    impl_->z.resize(tokens * compared.z_size);
    impl_->Run(*compared.b, x, tokens, impl_->z.data());
  }
  for (MaskFigures& mask : compared.masks) {
    const float* const values = mask.ranks ? impl_->z.data() : x;
    const size_t pitch = mask.ranks ? compared.z_size : compared.cols;
    for (size_t token = 0; token < tokens; ++token) {
      mask.Add(values + token * pitch + mask.offset);
    }
  }
}

void LayerComparison::ObserveOutput(size_t layer, Site site, const float* y,
                                    size_t tokens, size_t width) {
  ComparedBlock& block = impl_->blocks[layer];
  ComparedProjection& compared = block[site];
  for (size_t token = 0; token < tokens; ++token) {
    const size_t at = token * width;
    for (Part& part : compared.parts) {
      part.Add(y + at, compared.reference.data() + at, compared.bias);
    }
    if (site == Site::kMlpHidden && block.mlp) {
      block.mlp->Add(y + at, block.mlp_reference.data() + at, compared.bias);
    }
  }
}

std::map<std::string, LayerFigures> LayerComparison::Figures() const {
  std::map<std::string, LayerFigures> figures;
  for (const ComparedBlock& block : impl_->blocks) {
    if (block.mlp) {
      figures[block.mlp->module].error = block.mlp->sums.Relative();
    }
    for (const ComparedProjection& projection : block.projections) {
      for (size_t i = 0; i < projection.parts.size(); ++i) {
        const MaskFigures& mask = projection.masks[i];
        LayerFigures& layer = figures[mask.module];
        layer.error = projection.parts[i].sums.Relative();
        for (const uint64_t kept : mask.kept) {
          layer.keep_frequency.push_back(
              mask.tokens == 0 ? 0
                               : static_cast<double>(kept) /
                                     static_cast<double>(mask.tokens));
        }
        if (mask.ranks) layer.contributions = Shares(mask);
      }
    }
  }
  return figures;
}

}  // namespace rankforge
