#include "adapt/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/forms/input_mask.h"
#include "base/content_hash.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/use/layer_comparison.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/executor.h"

namespace rankforge {
namespace {

// Reads tensors and remembers which.
class StateFile {
 public:
  explicit StateFile(SafetensorsFile file) : file_(std::move(file)) {}

  const SafetensorsFile& file() const { return file_; }
  bool Has(const std::string& name) const {
    return file_.tensors().contains(name);
  }
  // Its shape as (rows, cols); an error unless it is there with two dimensions.
  Result<std::pair<size_t, size_t>> Shape(const std::string& name) const;
  // Row-major; F32, F16 or BF16.
  Result<std::vector<float>> Matrix(const std::string& name, size_t rows,
                                    size_t cols);
  // F32, at least 0.
  Result<std::vector<float>> NotNegative(const std::string& name, size_t count);
  // Fails if there is a tensor that was not read.
  Status CheckAllRead() const;

 private:
  Status Wrong(const std::string& name, const std::string& what) const {
    return Failed(fmt::format("{}: tensor '{:.120}' {}; see docs/import.md",
                              file_.path(), name, what));
  }
  Status CheckFinite(const std::string& name,
                     const std::vector<float>& values) const;

  SafetensorsFile file_;
  std::set<std::string> read_;
};

Result<std::pair<size_t, size_t>> StateFile::Shape(
    const std::string& name) const {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) return Wrong(name, "is missing");
  const std::vector<size_t>& shape = found->second.shape;
  if (shape.size() != 2 || shape[0] == 0 || shape[1] == 0) {
    return Wrong(name,
                 fmt::format("is {}, not a matrix", ToString(found->second)));
  }
  return std::pair(shape[0], shape[1]);
}

Status StateFile::CheckFinite(const std::string& name,
                              const std::vector<float>& values) const {
  for (const float value : values) {
    if (!std::isfinite(value)) {
      return Wrong(name, fmt::format("holds {}", value));
    }
  }
  return {};
}

Result<std::vector<float>> StateFile::Matrix(const std::string& name,
                                             size_t rows, size_t cols) {
  RANKFORGE_ASSIGN_OR_RETURN(const SourceMatrix source,
                             file_.Matrix(name, rows, cols));
  RANKFORGE_ASSIGN_OR_RETURN(
      const PackedMatrix packed,
      PackedMatrix::Pack({&source, 1}, WeightType::kF32, Layout::kOutIn));
  std::vector<float> values(rows * cols);
  packed.WidenTile(0, rows, values.data());
  read_.insert(name);
  RANKFORGE_RETURN_IF_ERROR(CheckFinite(name, values));
  return values;
}

Result<std::vector<float>> StateFile::NotNegative(const std::string& name,
                                                  size_t count) {
  if (!Has(name)) return Wrong(name, "is missing");
  RANKFORGE_ASSIGN_OR_RETURN(std::vector<float> values,
                             file_.Floats(name, {&count, 1}));
  read_.insert(name);
  RANKFORGE_RETURN_IF_ERROR(CheckFinite(name, values));
  for (const float value : values) {
    if (value < 0) return Wrong(name, fmt::format("holds {}", value));
  }
  return values;
}

Status StateFile::CheckAllRead() const {
  for (const auto& [name, info] : file_.tensors()) {
    if (!read_.contains(name)) {
      return Wrong(name,
                   "is none of <module>.rank.A, .rank.B, .rank.t, "
                   ".mask.t, .mask.norms, .gate.t of one module");
    }
  }
  return {};
}

// The names before `suffix`.
std::vector<std::string> ModulesWith(const SafetensorsFile& file,
                                     std::string_view suffix) {
  std::vector<std::string> modules;
  for (const auto& [name, info] : file.tensors()) {
    if (name.size() > suffix.size() && name.ends_with(suffix)) {
      modules.push_back(name.substr(0, name.size() - suffix.size()));
    }
  }
  return modules;
}

// (cols, rows) of a row-major (rows, cols).
std::vector<float> Transposed(const std::vector<float>& values, size_t rows,
                              size_t cols) {
  std::vector<float> transposed(values.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) {
      transposed[j * rows + i] = values[i * cols + j];
    }
  }
  return transposed;
}

// Modules with their shapes, checked against the model before anything large is
// read.
Result<Adapter> ReadShapes(const StateFile& state, const ModelConfig& config) {
  Adapter adapter;
  for (const std::string& module : ModulesWith(state.file(), ".rank.A")) {
    RankAdapter& rank = adapter.ranks[module];
    rank.module = module;
    RANKFORGE_ASSIGN_OR_RETURN(const auto a, state.Shape(module + ".rank.A"));
    RANKFORGE_ASSIGN_OR_RETURN(const auto b, state.Shape(module + ".rank.B"));
    rank.rows = a.first;
    rank.d = a.second;
    rank.cols = b.second;
  }
  std::map<std::string, size_t> inputs, neurons;
  const ModelSpec spec = DescribeModel(config, nullptr);
  for (const BlockSpec& block : spec.blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      inputs[projection.name] = projection.cols;
    }
    neurons[block[Site::kMlpInput].name] = block[Site::kMlpHidden].cols;
  }
  for (const std::string& module : ModulesWith(state.file(), ".mask.t")) {
    InputMask& mask = adapter.masks[module];
    mask.module = module;
    mask.cols = inputs.contains(module) ? inputs.at(module) : 0;
  }
  for (const std::string& module : ModulesWith(state.file(), ".gate.t")) {
    GateMask& gate = adapter.gates[module];
    gate.module = module;
    gate.cols = neurons.contains(module) ? neurons.at(module) : 0;
  }
  if (adapter.ranks.empty() && adapter.masks.empty() && adapter.gates.empty()) {
    return Failed(state.file().path() +
                  ": has none of '<module>.rank.A', '<module>.mask.t' and "
                  "'<module>.gate.t'; see docs/import.md for what a state "
                  "holds");
  }
  const Status fits = CheckAdapter(config, adapter);
  if (!fits.ok()) return Failed(state.file().path() + ": " + fits.message());
  return adapter;
}

Status ReadValues(StateFile& state, Adapter& adapter) {
  for (auto& [module, rank] : adapter.ranks) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::vector<float> a,
        state.Matrix(module + ".rank.A", rank.rows, rank.d));
    rank.a = Transposed(a, rank.rows, rank.d);
    RANKFORGE_ASSIGN_OR_RETURN(
        rank.b, state.Matrix(module + ".rank.B", rank.d, rank.cols));
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> t,
                               state.NotNegative(module + ".rank.t", 1));
    rank.tau.assign(rank.d, std::sqrt(t.front()));
  }
  for (auto& [module, mask] : adapter.masks) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> t,
                               state.NotNegative(module + ".mask.t", 1));
    std::vector<float> norms(mask.cols, 1.0f);
    if (state.Has(module + ".mask.norms")) {
      RANKFORGE_ASSIGN_OR_RETURN(
          norms, state.NotNegative(module + ".mask.norms", mask.cols));
    }
    mask.tau = FoldScales(t.front(), norms);
  }
  for (auto& [module, gate] : adapter.gates) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> t,
                               state.NotNegative(module + ".gate.t", 1));
    gate.tau.assign(gate.cols, t.front());
  }
  return state.CheckAllRead();
}

void AddLeftDense(const ModelConfig& config, Adapter& adapter) {
  const ModelSpec spec = DescribeModel(config, &adapter);
  for (const BlockSpec& block : spec.blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      const bool gated = block[Site::kMlpInput].gate_mask &&
                         (&projection == &block[Site::kMlpInput] ||
                          &projection == &block[Site::kMlpHidden]);
      if (projection.a.empty() && !projection.input_mask && !gated) {
        adapter.left_dense[projection.name] = "not in the imported state";
      }
    }
  }
}

// Tells `next` all it sees, and counts the neurons that gates keep: those whose
// value is not zero where down reads it.
class GateCounter : public ActivationObserver {
 public:
  GateCounter(ActivationObserver& next, size_t layers)
      : next_(next), kept_(layers), tokens_(layers, 0) {}

  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override {
    next_.Observe(layer, site, x, tokens, width);
    if (site != Site::kMlpHidden) return;
    tokens_[layer] += tokens;
    kept_[layer].resize(width, 0);
    for (size_t i = 0; i < tokens * width; ++i) {
      kept_[layer][i % width] += x[i] != 0;
    }
  }
  void ObserveOutput(size_t layer, Site site, const float* y, size_t tokens,
                     size_t width) override {
    next_.ObserveOutput(layer, site, y, tokens, width);
  }

  std::vector<float> Frequency(size_t layer) const {
    std::vector<float> frequency;
    for (const size_t kept : kept_[layer]) {
      frequency.push_back(static_cast<float>(kept) /
                          static_cast<float>(tokens_[layer]));
    }
    return frequency;
  }

 private:
  ActivationObserver& next_;
  std::vector<std::vector<size_t>> kept_;  // by layer and neuron
  std::vector<size_t> tokens_;             // by layer
};

// Densities, errors and the ratio, on whole windows of `sample`.
Status Measure(const Checkpoint& checkpoint, std::span<const int> sample,
               const ImportOptions& options, Adapter& adapter) {
  RANKFORGE_ASSIGN_OR_RETURN(
      Model model,
      Model::Create(checkpoint.config(), checkpoint, &adapter,
                    Dispatcher(nullptr), {.threads = options.threads},
                    MakeDefaultExecutor(options.threads)));
  RANKFORGE_ASSIGN_OR_RETURN(
      const auto comparison,
      LayerComparison::Create(model, checkpoint, adapter));
  GateCounter gates(*comparison, model.config().layers);
  model.set_observer(&gates);
  RANKFORGE_ASSIGN_OR_RETURN(
      const Evaluation evaluation,
      Evaluate(model, sample, {.window = options.window}, options.progress));
  const std::map<std::string, LayerFigures> figures = comparison->Figures();
  adapter.linear_flops_ratio = evaluation.linear_flops_ratio;
  const auto complete = [&](auto& modules) {
    for (auto& [name, module] : modules) {
      const LayerFigures& layer = figures.at(name);
      module.density = evaluation.density.at(name);
      module.density_quantiles = evaluation.density_quantiles.at(name);
      module.keep_frequency.assign(layer.keep_frequency.begin(),
                                   layer.keep_frequency.end());
      module.error = layer.error;
    }
  };
  complete(adapter.ranks);
  complete(adapter.masks);
  std::map<std::string, size_t> layers;  // of gates, by module
  const ModelSpec spec = DescribeModel(checkpoint.config(), &adapter);
  for (size_t layer = 0; layer < spec.blocks.size(); ++layer) {
    layers[spec.blocks[layer][Site::kMlpInput].name] = layer;
  }
  for (auto& [name, gate] : adapter.gates) {
    gate.density = evaluation.density.at(name);
    gate.density_quantiles = evaluation.density_quantiles.at(name);
    gate.keep_frequency = gates.Frequency(layers.at(name));
    // What dropping neurons costs shows only in the MLP's output.
    gate.error = figures.at(name.substr(0, name.rfind('.'))).error;
  }
  return {};
}

}  // namespace

Result<Adapter> ImportAdapter(const Checkpoint& checkpoint,
                              const std::string& path, std::span<const int> ids,
                              const ImportOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  StateFile state(std::move(file));
  RANKFORGE_ASSIGN_OR_RETURN(Adapter adapter,
                             ReadShapes(state, checkpoint.config()));
  RANKFORGE_RETURN_IF_ERROR(ReadValues(state, adapter));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> sample,
      SampleWindows(ids, options.window, options.tokens, options.seed));
  AddLeftDense(checkpoint.config(), adapter);
  RANKFORGE_RETURN_IF_ERROR(Measure(checkpoint, sample, options, adapter));

  const auto& metadata = state.file().metadata();
  const auto method = metadata.find("method");
  adapter.method = method == metadata.end() ? "imported" : method->second;
  adapter.keep = adapter.linear_flops_ratio;  // a state names no other
  adapter.checkpoint_hash = checkpoint.Identity();
  adapter.checkpoint_full_hash = checkpoint.FullHash();
  adapter.calibration_hash = HashBytes(std::as_bytes(ids));
  adapter.calibration_tokens = sample.size();
  adapter.parameters["imported_from"] =
      std::filesystem::path(path).filename().string();
  adapter.parameters["window"] = std::to_string(options.window);
  adapter.parameters["seed"] = std::to_string(options.seed);
  if (!options.bos.empty()) adapter.parameters["bos"] = options.bos;
  return adapter;
}

}  // namespace rankforge
