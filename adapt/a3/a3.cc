#include "adapt/a3/a3.h"

#include <fmt/format.h>

#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "adapt/a3/block_shrinker.h"
#include "adapt/a3/checkpoint_folder.h"
#include "adapt/a3/layer_solver.h"
#include "adapt/a3/size_search.h"
#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/executor.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

size_t Index(Component component) { return static_cast<size_t>(component); }

Status CheckA3Options(const AdaptOptions& options) {
  if (options.components.empty()) {
    return UsageError("components: name at least one of qk, ov, mlp");
  }
  for (size_t i = 0; i < kComponents; ++i) {
    const auto component = static_cast<Component>(i);
    const std::optional<double>& keep = options.component_keep[i];
    if (!keep) continue;
    if (!(*keep > 0 && *keep <= 1)) {
      return UsageError(fmt::format(
          "keep {} of {}: ask for a share of the parameters in (0, 1]", *keep,
          NameOf(component)));
    }
    if (!options.components.contains(component)) {
      return UsageError(fmt::format(
          "keep of {0}: it is not one of the components; add it to them",
          NameOf(component)));
    }
  }
  if (options.head_multiple % 2 != 0) {
    return UsageError(fmt::format(
        "head multiple {}: rotated elements come in pairs, ask for an even "
        "number",
        options.head_multiple));
  }
  return {};
}

Result<A3Run> StartRun(const Checkpoint& checkpoint, std::span<const int> ids,
                       const AdaptOptions& options, AdaptState& state) {
  RANKFORGE_ASSIGN_OR_RETURN(
      std::vector<int> sample,
      SampleWindows(ids, options.window, options.calibration_tokens,
                    options.seed));
  RANKFORGE_ASSIGN_OR_RETURN(const WeightType type, StoredType(checkpoint));
  return A3Run{checkpoint,
               checkpoint.config(),
               options,
               DescribeModel(checkpoint.config(), nullptr),
               type,
               MakeDefaultExecutor(options.threads),
               std::move(sample),
               state,
               WorkMeter(options.progress, options.cancelled)};
}

// The config with these sizes. Its rotary pairs are set as layers are made.
ModelConfig ShrunkConfig(const ModelConfig& dense,
                         const std::vector<Sizes>& all_sizes) {
  ModelConfig config = dense;
  config.layer_dims.clear();
  const size_t first_mlp = all_sizes[0][Index(Component::kMlp)];
  bool alike = dense.layer_dims.empty();
  for (const Sizes& sizes : all_sizes) {
    const auto [qk, vo, mlp] = sizes;
    config.layer_dims.push_back({.qk = qk, .vo = vo, .mlp = mlp});
    alike = alike && qk == dense.head_dim && vo == dense.head_dim &&
            mlp == first_mlp;
  }
  if (alike) {  // an ordinary model
    config.mlp = first_mlp;
    config.layer_dims.clear();
  }
  return config;
}

// Makes the layers with their sizes, in order. Layers that earlier runs have
// finished are not made again: their tensors are read from the state.
class LayerWriter {
 public:
  LayerWriter(A3Run& run, const std::vector<Sizes>& sizes)
      : run_(run),
        sizes_(sizes),
        config_(ShrunkConfig(run.config, sizes)),
        names_(DescribeModel(config_, nullptr)),
        hidden_(run.sample.size(), run.config.hidden) {
    for (size_t layer = 0; layer < sizes.size(); ++layer) {
      run_.meter.Extend(1, WorkOf(layer));
    }
  }

  // Writes model.safetensors and config.json.
  Status Write(const std::string& folder) {
    RANKFORGE_RETURN_IF_ERROR(Restore());
    RANKFORGE_RETURN_IF_ERROR(WriteTensors(
        run_.checkpoint, config_,
        [&](size_t layer) {
          return layer < finished_ ? Finished(layer) : Make(layer);
        },
        folder));
    return WriteConfigs(run_.checkpoint, config_, folder);
  }

  A3Summary Summary() && {
    A3Summary summary;
    summary.linear_flops_ratio = static_cast<double>(config_.LinearMacs()) /
                                 static_cast<double>(run_.config.LinearMacs());
    summary.calibration_tokens = run_.sample.size();
    summary.config = std::move(config_);
    summary.losses = std::move(losses_);
    return summary;
  }

 private:
  double WorkOf(size_t layer) const {
    return run_.SolveWork(layer, run_.sample.size());
  }
  static std::string TensorsName(size_t layer) {
    return fmt::format("block.{}", layer);
  }
  static Status NotOfThisModel() {
    return Failed(
        "unfinished work: its layers are not those of this model; remove the "
        "folder to start from the beginning");
  }

  Result<NewTensors> Make(size_t layer) {
    RANKFORGE_ASSIGN_OR_RETURN(const SolvedLayer solved,
                               SolveLayer(run_, layer, hidden_));
    RANKFORGE_ASSIGN_OR_RETURN(
        const ShrunkBlock block,
        BlockShrinker(solved.config, solved.weights, solved.moments,
                      solved.solutions, run_.options.without, *run_.executor)
            .Shrink(sizes_[layer]));
    if (!config_.layer_dims.empty()) config_.layer_dims[layer] = block.dims;
    auto& losses = losses_.emplace_back();
    for (size_t i = 0; i < kComponents; ++i) {
      const auto component = static_cast<Component>(i);
      losses[i] = solved.solutions.Loss(component, sizes_[layer][i]) /
                  solved.solutions.Loss(component, 0);
    }
    NewTensors tensors = TensorsOf(names_.blocks[layer], block.weights);
    RANKFORGE_RETURN_IF_ERROR(Save(layer, tensors));
    RANKFORGE_RETURN_IF_ERROR(
        run_.meter.Step(fmt::format("layer {}", layer), WorkOf(layer)));
    return tensors;
  }

  Result<NewTensors> Finished(size_t layer) const {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(TensorsName(layer)));
    if (!snapshot) return NotOfThisModel();
    NewTensors tensors;
    for (auto& [name, matrix] : snapshot->matrices) {
      tensors[name] = std::move(matrix.values);
    }
    return tensors;
  }

  Status Save(size_t layer, const NewTensors& tensors) const {
    if (!run_.state.stored()) return {};
    Snapshot made;
    for (const auto& [name, values] : tensors) {
      Matrix<float>& matrix = made.matrices[name];
      matrix = Matrix<float>(1, values.size());
      matrix.values = values;
    }
    RANKFORGE_RETURN_IF_ERROR(
        run_.state.SaveSnapshot(TensorsName(layer), made));
    Json pairs = Json::array();
    for (size_t i = 0; i <= layer && !config_.layer_dims.empty(); ++i) {
      pairs.push_back(config_.layer_dims[i].rotary_pairs);
    }
    return run_.state.SaveSnapshot(
        kSnapshot,
        {{{"hidden", hidden_}},
         Json{{"layer", layer + 1}, {"losses", losses_}, {"pairs", pairs}}
             .dump()});
  }

  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return {};
    Matrix<float>& hidden = snapshot->matrices["hidden"];
    if (hidden.rows != hidden_.rows || hidden.cols != hidden_.cols) {
      return NotOfThisModel();
    }
    hidden_ = std::move(hidden);
    try {
      const Json place = Json::parse(snapshot->text);
      finished_ = place.at("layer").get<size_t>();
      place.at("losses").get_to(losses_);
      const Json& pairs = place.at("pairs");
      if (losses_.size() != finished_ || finished_ > sizes_.size()) {
        return NotOfThisModel();
      }
      for (size_t i = 0; i < finished_; ++i) {
        run_.meter.Skip(WorkOf(i));
        if (config_.layer_dims.empty()) continue;
        pairs.at(i).get_to(config_.layer_dims[i].rotary_pairs);
      }
    } catch (const Json::exception&) {
      return NotOfThisModel();
    }
    return {};
  }

  static constexpr char kSnapshot[] = "place";

  A3Run& run_;
  const std::vector<Sizes>& sizes_;
  ModelConfig config_;
  ModelSpec names_;
  size_t finished_ = 0;   // layers, by earlier runs
  Matrix<float> hidden_;  // what the next layer reads
  std::vector<std::array<double, kComponents>> losses_;
};

}  // namespace

double SmallestA3Keep(const ModelConfig&, const AdaptOptions&) { return 0; }

Result<A3Summary> ShrinkCheckpoint(const Checkpoint& checkpoint,
                                   std::span<const int> ids,
                                   const AdaptOptions& options,
                                   AdaptState& state, const std::string& out) {
  try {
    RANKFORGE_RETURN_IF_ERROR(CheckA3Options(options));
    RANKFORGE_ASSIGN_OR_RETURN(A3Run run,
                               StartRun(checkpoint, ids, options, state));
    RANKFORGE_ASSIGN_OR_RETURN(NewFolder folder, NewFolder::Create(out));
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<Sizes> sizes,
                               ChooseSizes(run));
    LayerWriter writer(run, sizes);
    RANKFORGE_RETURN_IF_ERROR(writer.Write(folder.temporary()));
    RANKFORGE_RETURN_IF_ERROR(folder.Commit());
    return std::move(writer).Summary();
  } catch (const std::bad_alloc&) {
    return EnvironmentError(
        "not enough memory for the moments of a layer; use fewer --tokens, or "
        "leave out refit-down and refit-o");
  }
}

}  // namespace rankforge
