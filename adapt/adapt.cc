#include "adapt/adapt.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "adapt/methods/cats.h"
#include "adapt/methods/layer_choice.h"
#include "adapt/methods/mask_gains.h"
#include "adapt/methods/rana.h"
#include "adapt/methods/rana_paper.h"
#include "adapt/methods/rotated.h"
#include "adapt/methods/teal_greedy.h"
#include "adapt/methods/uniform.h"
#include "adapt/run/adapt_state.h"
#include "adapt/run/attempt.h"
#include "adapt/run/budget.h"
#include "base/content_hash.h"
#include "runtime/model/format/family.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

// The relative tolerance of the achieved keep.
constexpr double kTolerance = 0.005;

Status CheckRefinements(const Method& method, const AdaptOptions& options) {
  for (const Refinement left_out : options.without) {
    if (method.refinements.contains(left_out)) continue;
    std::vector<std::string> names;
    for (const Refinement refinement : method.refinements) {
      names.push_back(NameOf(refinement));
    }
    return UsageError(fmt::format(
        "without {}: method {} has nothing of this name to leave out, {}",
        NameOf(left_out), method.name,
        names.empty() ? "nor anything else"
                      : fmt::format("only {}", fmt::join(names, ", "))));
  }
  return {};
}

// What of this model's blocks the method cannot adapt; null: nothing.
const char* UnknownPart(const Method& method, const ModelConfig& config) {
  const ModelFamily& family = FamilyOf(config);
  if (method.splits_gate_and_up && config.gated_mlp &&
      family.gate_up.tensors.size() == 1) {
    return "gate and up in one tensor";
  }
  // What A3 does not know of, either.
  if (!CanRotate(config) &&
      (method.rotates || method.makes == Makes::kCheckpoint)) {
    return "norms after attention and the MLP";
  }
  if (method.makes != Makes::kCheckpoint) return nullptr;
  if (config.qk_norm != QkNorm::kNone) return "a norm of queries and keys";
  return config.score_cap > 0 ? "capped scores" : nullptr;
}

// The method, where it can do what `options` ask of this model.
Result<const Method*> CheckOptions(const ModelConfig& config,
                                   const AdaptOptions& options) {
  const Method* const method = MethodNamed(options.method);
  if (method == nullptr) {
    std::vector<std::string> names;
    for (const Method& known : Methods()) names.push_back(known.name);
    return UsageError(fmt::format("method {}: unknown, use one of {}",
                                  options.method, fmt::join(names, ", ")));
  }
  if (const char* const part = UnknownPart(*method, config)) {
    return UsageError(
        fmt::format("method {}: model family {} has {}, which it cannot adapt; "
                    "use another method or family",
                    method->name, config.family, part));
  }
  if (!(options.keep > 0 && options.keep <= 1)) {
    return UsageError(fmt::format(
        "keep {}: ask for a share of what is dense in (0, 1]", options.keep));
  }
  if (options.group_blocks == 0) {
    return UsageError("group_blocks 0: ask for at least one");
  }
  const double smallest = method->smallest_keep(config, options);
  if (options.keep < smallest) {
    return UsageError(fmt::format(
        "keep {}: {} cannot go below {:.4f} on this model, whose dense layers "
        "count in full",
        options.keep, method->name, std::ceil(smallest * 1e4) / 1e4));
  }
  if (options.window > config.max_positions) {
    return UsageError(fmt::format(
        "calibration windows of {} tokens: the model has {} positions",
        options.window, config.max_positions));
  }
  if (options.threads == 0) {
    return UsageError("threads 0: ask for at least one");
  }
  if (method->makes == Makes::kLayers &&
      (options.skip == 0 || options.skip + 2 > config.layers)) {
    return UsageError(fmt::format(
        "skip {}: ask for 1 to {} of this model's {} layers, of which the "
        "first and the last always run",
        options.skip, std::max<size_t>(config.layers, 2) - 2, config.layers));
  }
  RANKFORGE_RETURN_IF_ERROR(CheckRefinements(*method, options));
  return method;
}

Result<const Method*> CheckAdapterOptions(const ModelConfig& config,
                                          const AdaptOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(const Method* method,
                             CheckOptions(config, options));
  if (method->makes != Makes::kCheckpoint) return method;
  return UsageError(
      fmt::format("method {}: makes a checkpoint, no adapter", method->name));
}

// Dense, without its blocks: calibration packs one at a time.
Result<Model> CreateModel(const Checkpoint& checkpoint,
                          const AdaptOptions& options) {
  const ModelConfig& config = checkpoint.config();
  // A missing tensor is an error here, not hours later.
  for (const TensorShape& tensor : CheckpointTensors(config)) {
    RANKFORGE_RETURN_IF_ERROR(
        checkpoint.Matrix(tensor.name, tensor.rows, tensor.cols).status());
  }
  RANKFORGE_ASSIGN_OR_RETURN(const WeightType type, StoredType(checkpoint));
  return Model::Create(config, checkpoint, nullptr, Dispatcher(nullptr),
                       {.type = type,
                        .lm_head_type = type,
                        .threads = options.threads,
                        .blocks_on_demand = true},
                       MakeDefaultExecutor(options.threads));
}

// What the adapted model costs relative to the dense one, in the unit of the
// objective.
double AchievedRatio(const ModelConfig& config, const Adapter& adapter,
                     const AdaptOptions& options) {
  if (!options.times) return adapter.linear_flops_ratio;
  return BlockCost(DescribeModel(config, &adapter), *options.times) /
         BlockCost(DescribeModel(config, nullptr), *options.times);
}

// Records in `adapter`, whose blocks are done, what it is and where it comes
// from.
void Describe(const Method& method, const AdaptOptions& options,
              std::span<const int> ids, Adapter& adapter) {
  adapter.method = method.name;
  adapter.keep = options.keep;
  adapter.calibration_hash = HashBytes(std::as_bytes(ids));
  for (auto& [name, text] : RecordedOptions(options)) {
    adapter.parameters[name] = text;
  }
}

// The adapter, and the attempt that its blocks are of.
struct Adapted {
  Adapter adapter;
  size_t attempt = 1;
};

Result<Adapted> AdaptInto(AdaptState& state, const Checkpoint& checkpoint,
                          std::span<const int> ids, const Method& method,
                          const std::string& full_hash,
                          const AdaptOptions& options) {
  const ModelConfig& config = checkpoint.config();
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> sample,
      SampleWindows(ids, options.window, options.calibration_tokens,
                    options.seed));
  RANKFORGE_ASSIGN_OR_RETURN(Model model, CreateModel(checkpoint, options));
  const ModelSpec spec = DescribeModel(config, nullptr);
  WorkMeter meter(options.progress, options.cancelled);
  const AdaptRun run{checkpoint, spec, model, sample, options, state, meter};
  const std::unique_ptr<Planner> planner = method.make(run);

  Adapted result;
  Adapter& adapter = result.adapter;
  const std::string identity = checkpoint.Identity();
  adapter.checkpoint_hash = identity;
  const GainSchedule gains =
      method.refinements.contains(Refinement::kGains) &&
              !options.without.contains(Refinement::kGains)
          ? GainSchedule::Of(config, options, sample.size())
          : GainSchedule();
  // Their steps are announced when they begin. The time left knows them now.
  const double later = gains.Work(config, sample.size());
  meter.Extend(0, later);
  Attempt attempt(run, method);
  RANKFORGE_RETURN_IF_ERROR(attempt.Restore(identity, adapter));
  for (;;) {
    RANKFORGE_RETURN_IF_ERROR(attempt.Run(*planner, adapter));
    adapter.linear_flops_ratio = attempt.Ratio();
    const double missed =
        options.keep - AchievedRatio(config, adapter, options);
    if (std::fabs(missed) <= kTolerance * options.keep ||
        attempt.number() == kAttempts) {
      break;
    }
    adapter = Adapter();
    adapter.checkpoint_hash = identity;
    RANKFORGE_RETURN_IF_ERROR(
        attempt.Begin(attempt.number() + 1,
                      std::clamp(attempt.planned() + missed,
                                 method.smallest_keep(config, options), 1.0)));
  }
  result.attempt = attempt.number();
  meter.Extend(0, -later);
  RANKFORGE_RETURN_IF_ERROR(LearnGains(
      run, gains, result.attempt,
      options.times ? adapter.linear_flops_ratio : options.keep, adapter));

  Describe(method, options, ids, adapter);
  adapter.checkpoint_full_hash = full_hash;
  adapter.calibration_tokens = sample.size();
  adapter.parameters["planned_keep"] = fmt::format("{:.6f}", attempt.planned());
  if (options.times) {
    adapter.parameters["objective"] = "time";
    adapter.parameters["predicted_time_ratio"] =
        fmt::format("{:.6f}", AchievedRatio(config, adapter, options));
  }
  return result;
}

// Of methods that read no keep.
double NoKeep(const ModelConfig&, const AdaptOptions&) { return 0; }

// The share of the linear layers' multiply-adds that is left without `layers`.
double ShareWithout(const ModelConfig& config,
                    const std::vector<size_t>& layers) {
  size_t left_out = 0;
  for (const size_t layer : layers) left_out += config.BlockMacs(layer);
  return 1 - static_cast<double>(left_out) /
                 static_cast<double>(config.LinearMacs());
}

// The adapter of a method of Makes::kLayers.
Result<Adapter> ChooseLayers(const Checkpoint& checkpoint,
                             std::span<const int> ids, const Method& method,
                             const AdaptOptions& options) {
  std::vector<int> sample;
  std::optional<Model> model;
  if (method.needs_text) {
    RANKFORGE_ASSIGN_OR_RETURN(
        sample, SampleWindows(ids, options.window, options.calibration_tokens,
                              options.seed));
    RANKFORGE_ASSIGN_OR_RETURN(model, CreateModel(checkpoint, options));
  }
  WorkMeter meter(options.progress, options.cancelled);
  RANKFORGE_ASSIGN_OR_RETURN(
      LayerChoice choice, method.choose({checkpoint, model ? &*model : nullptr,
                                         sample, options, meter}));
  Adapter adapter;
  adapter.method = method.name;
  adapter.keep = adapter.linear_flops_ratio =
      ShareWithout(checkpoint.config(), choice.layers);
  adapter.checkpoint_hash = checkpoint.Identity();
  adapter.checkpoint_full_hash = checkpoint.FullHash();
  adapter.calibration_tokens = sample.size();
  adapter.parameters = std::move(choice.parameters);
  if (method.Reads("seed")) {
    adapter.parameters["seed"] = std::to_string(options.seed);
  }
  adapter.parameters["skip"] = std::to_string(options.skip);
  if (method.needs_text) {
    adapter.calibration_hash = HashBytes(std::as_bytes(ids));
    adapter.parameters["window"] = std::to_string(options.window);
    if (!options.bos.empty()) adapter.parameters["bos"] = options.bos;
  }
  adapter.skip.layers = std::move(choice.layers);
  return adapter;
}

// Removes a state that no run goes on from: what was asked for is not possible,
// or nothing was done.
void RemoveUnlessNeeded(const Status& status, AdaptState& state) {
  if (status.code() == StatusCode::kUsage || state.untouched()) state.Remove();
}

}  // namespace

const std::vector<Method>& Methods() {
  using enum Refinement;
  static const std::vector<Method> methods = {
      {"rana",
       Makes::kAdapter,
       {"keep_of", "round_d", "probe_blocks", "probe_tokens", "effort"},
       {kSinks, kFisher, kRefit, kBehind, kCrossLayer, kRankAdapters,
        kInputMasks, kSearch, kRotation, kGains},
       SmallestRanaKeep,
       MakeRanaPlanner},
      {"rana-paper",
       Makes::kAdapter,
       {"keep_of", "round_d", "split_tokens"},
       {},
       SmallestRanaPaperKeep,
       MakeRanaPaperPlanner,
       true},
      {"teal",
       Makes::kAdapter,
       {"keep_of"},
       {kSinks},
       SmallestUniformKeep<Form::kMagnitude>,
       MakeUniformPlanner<Form::kMagnitude>},
      {"teal-greedy",
       Makes::kAdapter,
       {"keep_of"},
       {kSinks},
       SmallestTealGreedyKeep,
       MakeTealGreedyPlanner},
      {"wina",
       Makes::kAdapter,
       {"keep_of"},
       {kSinks},
       SmallestUniformKeep<Form::kWeighted>,
       MakeUniformPlanner<Form::kWeighted>},
      {"neurons",
       Makes::kAdapter,
       {"keep_of"},
       {kSinks},
       SmallestUniformKeep<Form::kWeighted, Where::kMlps>,
       MakeUniformPlanner<Form::kWeighted, Where::kMlps>},
      {"cats",
       Makes::kAdapter,
       {"keep_of"},
       {kSinks},
       SmallestCatsKeep,
       MakeCatsPlanner,
       true},
      {"svd",
       Makes::kAdapter,
       {"keep_of", "round_d"},
       {kSinks},
       SmallestUniformKeep<Form::kLowRank>,
       MakeUniformPlanner<Form::kLowRank>},
      {"rotated",
       Makes::kAdapter,
       {"keep_of", "group_blocks"},
       {kSinks},
       SmallestRotatedKeep,
       [](const AdaptRun& run) {
         return MakeRotatedPlanner(run, run.options.group_blocks);
       },
       false,
       true},
      {.name = "unified-skip",
       .makes = Makes::kLayers,
       .options = {"skip"},
       .refinements = {},
       .smallest_keep = NoKeep,
       .make = nullptr,
       .choose = UnifiedLayers,
       .needs_text = false},
      {.name = "random-skip",
       .makes = Makes::kLayers,
       .options = {"skip", "seed"},
       .refinements = {},
       .smallest_keep = NoKeep,
       .make = nullptr,
       .choose = RandomLayers,
       .needs_text = false},
      {.name = "angular-skip",
       .makes = Makes::kLayers,
       .options = {"skip"},
       .refinements = {},
       .smallest_keep = NoKeep,
       .make = nullptr,
       .choose = AngularLayers},
      {"a3",
       Makes::kCheckpoint,
       {"components", "component_keep", "uniform", "head_multiple",
        "mlp_multiple"},
       {kRefitDown, kRefitO, kMixedRanks, kGroupOutputs},
       SmallestA3Keep,
       nullptr,
       true},
  };
  return methods;
}

const Method* MethodNamed(std::string_view name) {
  for (const Method& method : Methods()) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

Result<Adapter> Adapt(const Checkpoint& checkpoint, std::span<const int> ids,
                      const AdaptOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(const Method* method,
                             CheckAdapterOptions(checkpoint.config(), options));
  if (method->makes == Makes::kLayers) {
    return ChooseLayers(checkpoint, ids, *method, options);
  }
  AdaptState state;
  RANKFORGE_ASSIGN_OR_RETURN(Adapted adapted,
                             AdaptInto(state, checkpoint, ids, *method,
                                       checkpoint.FullHash(), options));
  return std::move(adapted.adapter);
}

Result<Adapter> AdaptToFile(const Checkpoint& checkpoint,
                            std::span<const int> ids,
                            const AdaptOptions& options,
                            const std::string& state_folder,
                            const std::string& out) {
  RANKFORGE_ASSIGN_OR_RETURN(const Method* method,
                             CheckAdapterOptions(checkpoint.config(), options));
  if (method->makes == Makes::kLayers) {
    RANKFORGE_ASSIGN_OR_RETURN(Adapter adapter,
                               ChooseLayers(checkpoint, ids, *method, options));
    RANKFORGE_RETURN_IF_ERROR(SaveAdapter(adapter, out));
    return adapter;
  }
  const std::string full_hash = checkpoint.FullHash();
  RANKFORGE_ASSIGN_OR_RETURN(
      AdaptState state,
      AdaptState::Open(state_folder, IdentityOf(full_hash, ids, options)));
  Result<Adapted> adapted =
      AdaptInto(state, checkpoint, ids, *method, full_hash, options);
  if (!adapted.ok()) {
    RemoveUnlessNeeded(adapted.status(), state);
    return adapted.status();
  }
  RANKFORGE_RETURN_IF_ERROR(
      state.WriteAdapter(adapted->attempt, adapted->adapter, out));
  state.Remove();
  return std::move(adapted->adapter);
}

Result<A3Summary> ShrinkToFolder(const Checkpoint& checkpoint,
                                 std::span<const int> ids,
                                 const AdaptOptions& options,
                                 const std::string& state_folder,
                                 const std::string& out) {
  RANKFORGE_RETURN_IF_ERROR(
      CheckOptions(checkpoint.config(), options).status());
  AdaptState state;
  if (!state_folder.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        state, AdaptState::Open(state_folder, IdentityOf(checkpoint.FullHash(),
                                                         ids, options)));
  }
  Result<A3Summary> summary =
      ShrinkCheckpoint(checkpoint, ids, options, state, out);
  if (summary.ok()) {
    state.Remove();
  } else {
    RemoveUnlessNeeded(summary.status(), state);
  }
  return summary;
}

}  // namespace rankforge
