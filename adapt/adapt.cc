#include "adapt/adapt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/methods/cats.h"
#include "adapt/methods/rana.h"
#include "adapt/methods/rana_paper.h"
#include "adapt/methods/uniform.h"
#include "adapt/run/adapt_state.h"
#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "base/content_hash.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

constexpr Method kMethods[] = {
    {"rana", SmallestRanaKeep, MakeRanaPlanner},
    {"rana-paper", SmallestRanaPaperKeep, MakeRanaPaperPlanner},
    {"teal", SmallestUniformKeep<Form::kMagnitude>,
     MakeUniformPlanner<Form::kMagnitude>},
    {"wina", SmallestUniformKeep<Form::kWeighted>,
     MakeUniformPlanner<Form::kWeighted>},
    {"neurons", SmallestUniformKeep<Form::kWeighted, Where::kMlps>,
     MakeUniformPlanner<Form::kWeighted, Where::kMlps>},
    {"cats", SmallestCatsKeep, MakeCatsPlanner},
    {"svd", SmallestUniformKeep<Form::kLowRank>,
     MakeUniformPlanner<Form::kLowRank>},
};

// Tokens over which the work of the adapted model is measured: its mean over
// 8192 tokens is known to about 0.1 %.
constexpr size_t kMeasureTokens = 8192;
// Masked layers change what later layers read, and with it how much of it their
// thresholds keep. Blocks are planned again when that moves the total by more.
constexpr double kTolerance = 0.005;
constexpr size_t kAttempts = 3;

// Dense, without its blocks: calibration packs one at a time.
Result<Model> CreateModel(const Checkpoint& checkpoint,
                          const AdaptOptions& options) {
  const ModelConfig& config = checkpoint.config();
  // What is missing shall not be noticed hours later.
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

Result<const Method*> CheckOptions(const ModelConfig& config,
                                   const AdaptOptions& options) {
  const auto method =
      std::find_if(std::begin(kMethods), std::end(kMethods),
                   [&](const Method& m) { return m.name == options.method; });
  if (method == std::end(kMethods)) {
    return UsageError(fmt::format("method {}: unknown, use one of {}",
                                  options.method,
                                  fmt::join(AdaptMethods(), ", ")));
  }
  if (!(options.keep > 0 && options.keep <= 1)) {
    return UsageError(fmt::format(
        "keep {}: ask for a share of the dense multiply-adds in (0, 1]",
        options.keep));
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
  if (options.method != "rana" && !options.without.empty()) {
    return UsageError(
        fmt::format("method {}: only rana has something to leave "
                    "out",
                    options.method));
  }
  if (options.threads == 0) {
    return UsageError("threads 0: ask for at least one");
  }
  return &*method;
}

std::string LeftOut(const AdaptOptions& options) {
  std::string names;
  for (const Refinement left_out : options.without) {
    names += " " + RefinementNames()[static_cast<size_t>(left_out)];
  }
  return names;
}

// What the adapted model costs relative to the dense one, in the unit of the
// objective.
double AchievedRatio(const ModelConfig& config, const Adapter& adapter,
                     const AdaptOptions& options) {
  if (!options.times) return adapter.linear_flops_ratio;
  return BlockCost(DescribeModel(config, &adapter), *options.times) /
         BlockCost(DescribeModel(config, nullptr), *options.times);
}

// What keep is a share of.
std::string UnitOf(const AdaptOptions& options) {
  if (!options.times) return "multiply-adds";
  const auto text = [](const ProductCost& cost) {
    return fmt::format("{} + n * ({} + {} * length)", cost.fixed, cost.per_run,
                       cost.per_weight);
  };
  return fmt::format("time: dense {}, column_mask {}",
                     text(options.times->dense),
                     text(options.times->column_mask));
}

// Everything that the adapter depends on, but for this program.
AdaptIdentity IdentityOf(const std::string& checkpoint_hash,
                         std::span<const int> ids,
                         const AdaptOptions& options) {
  return {{"checkpoint", checkpoint_hash},
          {"calibration", HashBytes(std::as_bytes(ids))},
          {"method", options.method},
          {"without", LeftOut(options)},
          {"keep", fmt::format("{}", options.keep)},
          {"keep_of", UnitOf(options)},
          {"window", std::to_string(options.window)},
          {"tokens", std::to_string(options.calibration_tokens)},
          {"split_tokens", std::to_string(options.split_tokens)},
          {"round_d", options.round_d ? "true" : "false"},
          {"seed", std::to_string(options.seed)},
          {"probe_blocks", std::to_string(options.probe_blocks)},
          {"probe_tokens", std::to_string(options.probe_tokens)}};
}

// The blocks of one attempt, one after the other. What it knows between two
// blocks is what is saved.
class Attempt {
 public:
  Attempt(const AdaptRun& run, const Method& method)
      : run_(run), method_(method) {}

  // Goes on where the state is, or begins with the first attempt.
  Status Restore(const std::string& checkpoint_hash, Adapter& adapter) {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return Begin(1, run_.options.keep);
    try {
      const auto place = nlohmann::json::parse(snapshot->text);
      number_ = place.at("attempt").get<size_t>();
      planned_ = place.at("planned").get<double>();
      macs_ = place.at("macs").get<double>();
      const size_t layer = place.at("layer").get<size_t>();
      Continue(calibration_, std::move(snapshot->matrices["hidden"]), layer);
      if (snapshot->matrices.contains("adapted")) {
        Continue(adapted_, std::move(snapshot->matrices["adapted"]), layer);
      }
    } catch (const nlohmann::json::exception& error) {
      return Failed(fmt::format(
          "unfinished work: {}; remove the folder to start from the beginning",
          std::string_view(error.what())));
    }
    if (number_ < 1 || number_ > kAttempts || !Fits(calibration_) ||
        (adapted_ && !Fits(adapted_))) {
      return Failed(
          "unfinished work: what the next block reads is not of this model; "
          "remove the folder to start from the beginning");
    }
    // The attempts before this one were steps, too.
    const size_t before = (number_ - 1) * run_.spec.blocks.size();
    run_.meter.Extend(before, 0);
    for (size_t step = 0; step < before; ++step) run_.meter.Skip(0);
    for (size_t layer = 0; layer < calibration_->layer(); ++layer) {
      RANKFORGE_RETURN_IF_ERROR(
          run_.state.LoadBlock(number_, layer, checkpoint_hash, adapter));
    }
    return {};
  }

  Status Begin(size_t number, double planned) {
    number_ = number;
    planned_ = planned;
    macs_ = 0;
    adapted_.reset();
    RANKFORGE_ASSIGN_OR_RETURN(
        calibration_,
        Calibration::Start(run_.model, run_.sample, run_.options.window));
    return {};
  }

  // All blocks that are not done yet.
  Status Run(Planner& planner, Adapter& adapter) {
    const size_t layers = run_.spec.blocks.size();
    double work = 0;
    for (size_t layer = 0; layer < layers; ++layer) {
      work += BlockWork(planner, layer);
    }
    // Before planning, which may be most of the work: the time left is that of
    // both.
    run_.meter.Extend(layers, work);
    RANKFORGE_RETURN_IF_ERROR(planner.Prepare(planned_, adapter));
    for (size_t layer = 0; layer < calibration_->layer(); ++layer) {
      run_.meter.Skip(BlockWork(planner, layer));
    }
    while (calibration_->layer() < layers) {
      RANKFORGE_RETURN_IF_ERROR(RunBlock(planner, adapter));
    }
    return {};
  }

  // linear_flops_ratio of the blocks so far, on the calibration tokens.
  double Ratio() const {
    const ModelConfig& config = run_.model.config();
    const Matrix<float>& hidden =
        (adapted_ ? *adapted_ : *calibration_).hidden();
    return macs_ / (static_cast<double>(hidden.rows) *
                    static_cast<double>(config.LinearMacs()));
  }
  size_t number() const { return number_; }
  double planned() const { return planned_; }

 private:
  void Continue(std::optional<Calibration>& calibration, Matrix<float> hidden,
                size_t layer) {
    calibration = Calibration::Continue(run_.model, std::move(hidden),
                                        run_.options.window, layer);
  }

  // Whole windows of hidden values.
  bool Fits(const std::optional<Calibration>& calibration) const {
    const Matrix<float>& hidden = calibration->hidden();
    return calibration->layer() <= run_.spec.blocks.size() &&
           hidden.cols == run_.model.config().hidden && hidden.rows > 0 &&
           hidden.rows <= run_.sample.size() &&
           hidden.rows % run_.options.window == 0;
  }

  double BlockWork(const Planner& planner, size_t layer) const {
    const ModelConfig& config = run_.model.config();
    const double macs = static_cast<double>(config.BlockMacs(layer));
    // The forward pass, and as much again for statistics.
    double work = 2 * macs * static_cast<double>(run_.sample.size());
    if (!planner.behind()) {
      work += macs * static_cast<double>(kMeasureTokens) +
              1.5 * BasesWork(static_cast<double>(config.hidden));
    }
    return work;
  }

  Status RunBlock(Planner& planner, Adapter& adapter) {
    const size_t layer = calibration_->layer();
    Adapter block;
    block.method = method_.name;
    block.checkpoint_hash = adapter.checkpoint_hash;
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
    RANKFORGE_RETURN_IF_ERROR(planner.AdaptBlock(*calibration_, block));
    if (!planner.behind()) {
      RANKFORGE_RETURN_IF_ERROR(RunAdapted(layer, block));
    }
    macs_ += run_.model.counters().block_macs;
    run_.model.DropBlock(layer);
    run_.checkpoint.ReleasePages();
    RANKFORGE_RETURN_IF_ERROR(
        run_.state.SaveBlock(number_, layer, std::move(block), adapter));
    RANKFORGE_RETURN_IF_ERROR(Save());
    run_.meter.Step(fmt::format("layer {}", layer), BlockWork(planner, layer));
    return {};
  }

  // Where calibration ran through the dense block: the adapted one, behind
  // adapted blocks.
  Status RunAdapted(size_t layer, const Adapter& block) {
    if (!adapted_) {
      const size_t window = run_.options.window;
      const size_t tokens =
          std::max(kMeasureTokens / window, size_t{1}) * window;
      RANKFORGE_ASSIGN_OR_RETURN(
          adapted_,
          Calibration::Start(
              run_.model,
              run_.sample.first(std::min(tokens, run_.sample.size())), window));
    }
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, &block));
    adapted_->SkipBlock();
    return {};
  }

  Status Save() const {
    if (!run_.state.stored()) return {};
    Snapshot snapshot;
    snapshot.text = nlohmann::json{
        {"attempt", number_},
        {"planned", planned_},
        {"layer", calibration_->layer()},
        {"macs", macs_}}.dump();
    snapshot.matrices["hidden"] = calibration_->hidden();
    if (adapted_) snapshot.matrices["adapted"] = adapted_->hidden();
    return run_.state.SaveSnapshot(kSnapshot, snapshot);
  }

  static constexpr char kSnapshot[] = "place";

  const AdaptRun& run_;
  const Method& method_;
  size_t number_ = 1;
  double planned_ = 1;
  double macs_ = 0;  // of the blocks so far
  std::optional<Calibration> calibration_;
  std::optional<Calibration> adapted_;
};

}  // namespace

const std::vector<std::string>& AdaptMethods() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const Method& method : kMethods) result.push_back(method.name);
    return result;
  }();
  return names;
}

namespace {

// The attempt whose blocks make up the adapter, too.
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
  WorkMeter meter(options.progress);
  const AdaptRun run{checkpoint, spec, model, sample, options, state, meter};
  const std::unique_ptr<Planner> planner = method.make(run);

  Adapted result;
  Adapter& adapter = result.adapter;
  const std::string identity = checkpoint.Identity();
  adapter.checkpoint_hash = identity;
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

  adapter.method = method.name;
  adapter.keep = options.keep;
  adapter.checkpoint_full_hash = full_hash;
  adapter.calibration_hash = HashBytes(std::as_bytes(ids));
  adapter.calibration_tokens = sample.size();
  adapter.parameters["planned_keep"] = fmt::format("{:.6f}", attempt.planned());
  if (options.times) {
    adapter.parameters["objective"] = "time";
    adapter.parameters["predicted_time_ratio"] =
        fmt::format("{:.6f}", AchievedRatio(config, adapter, options));
  }
  adapter.parameters["window"] = std::to_string(options.window);
  adapter.parameters["seed"] = std::to_string(options.seed);
  adapter.parameters["split_tokens"] = std::to_string(options.split_tokens);
  adapter.parameters["round_d"] = options.round_d ? "true" : "false";
  if (!options.without.empty()) {
    adapter.parameters["without"] = LeftOut(options);
  }
  return result;
}

}  // namespace

Result<Adapter> Adapt(const Checkpoint& checkpoint, std::span<const int> ids,
                      const AdaptOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(const Method* method,
                             CheckOptions(checkpoint.config(), options));
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
                             CheckOptions(checkpoint.config(), options));
  const std::string full_hash = checkpoint.FullHash();
  RANKFORGE_ASSIGN_OR_RETURN(
      AdaptState state,
      AdaptState::Open(state_folder, IdentityOf(full_hash, ids, options)));
  Result<Adapted> adapted =
      AdaptInto(state, checkpoint, ids, *method, full_hash, options);
  if (!adapted.ok()) {
    // What was asked for cannot be had, or nothing was done: there is nothing
    // to go on from.
    if (adapted.status().code() == StatusCode::kUsage || state.untouched()) {
      state.Remove();
    }
    return adapted.status();
  }
  RANKFORGE_RETURN_IF_ERROR(
      state.WriteAdapter(adapted->attempt, adapted->adapter, out));
  state.Remove();
  return std::move(adapted->adapter);
}

}  // namespace rankforge
