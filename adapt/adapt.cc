#include "adapt/adapt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "adapt/calibration.h"
#include "adapt/cats.h"
#include "adapt/method.h"
#include "adapt/mixture.h"
#include "adapt/rana.h"
#include "adapt/uniform.h"
#include "runtime/model/content_hash.h"
#include "runtime/model/modules.h"
#include "runtime/table.h"

namespace rankforge {
namespace {

constexpr Method kMethods[] = {
    {"rana", SmallestMixtureKeep, MakeMixturePlanner},
    {"rana-paper", SmallestRanaKeep, MakePaperPlanner},
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
constexpr int kAttempts = 3;

// Halves stay halves: their values are the same as f32's in half the bytes.
WeightType TypeFor(SourceMatrix::Type source) {
  switch (source) {
    case SourceMatrix::Type::kBf16:
      return WeightType::kBf16;
    case SourceMatrix::Type::kF16:
      return WeightType::kF16;
    case SourceMatrix::Type::kF32:
    case SourceMatrix::Type::kGgmlQ8_0:
    case SourceMatrix::Type::kGgmlQ4_0:
      break;
  }
  return WeightType::kF32;
}

Result<Model> CreateModel(const Checkpoint& checkpoint, const Adapter* adapter,
                          const AdaptOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(const WeightType type, StoredType(checkpoint));
  return Model::Create(
      checkpoint.config(), checkpoint, adapter, Dispatcher(nullptr),
      {.type = type, .lm_head_type = type, .threads = options.threads},
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

// linear_flops_ratio of the adapted model on `ids`, whole windows.
Result<double> MeasureRatio(const Checkpoint& checkpoint,
                            const Adapter& adapter, std::span<const int> ids,
                            const AdaptOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(Model model,
                             CreateModel(checkpoint, &adapter, options));
  KvCache cache(model.config(), model.options().kv_type, options.window);
  model.ResetCounters();
  for (size_t begin = 0; begin < ids.size() && begin < kMeasureTokens;
       begin += options.window) {
    cache.Clear();
    RANKFORGE_RETURN_IF_ERROR(
        model.Forward(ids.subspan(begin, options.window), cache, {}));
  }
  const ForwardCounters counters = model.counters();
  const double dense = static_cast<double>(counters.tokens) *
                       static_cast<double>(model.config().LinearMacs());
  return counters.block_macs / dense;
}

// What the adapted model costs relative to the dense one, in the unit of the
// objective.
double AchievedRatio(const ModelConfig& config, const Adapter& adapter,
                     const AdaptOptions& options) {
  if (!options.times) return adapter.linear_flops_ratio;
  return BlockCost(DescribeModel(config, &adapter), *options.times) /
         BlockCost(DescribeModel(config, nullptr), *options.times);
}

// Reports steps of a total that is an estimate: another attempt extends it.
class Progress {
 public:
  explicit Progress(const AdaptOptions& options) : report_(options.progress) {}
  void Step(const std::string& what) {
    if (report_) report_(++done_, total_, what);
  }
  void Extend(size_t steps) { total_ += steps; }

 private:
  const decltype(AdaptOptions::progress)& report_;
  size_t done_ = 0;
  size_t total_ = 0;
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

const std::vector<std::string>& RefinementNames() {
  static const std::vector<std::string> names = {
      "refit", "behind", "cross-layer", "rank-adapters", "input-masks"};
  return names;
}

double BlockCost(const ModelSpec& spec, const CostModel& costs) {
  double cost = 0;
  for (const BlockSpec& block : spec.blocks) {
    ForEachProduct(block, [&](const ProductSpec& product) {
      const auto rows = static_cast<double>(product.rows());
      const auto cols = static_cast<double>(product.cols());
      switch (product.operation) {
        case Operation::kDense:
          cost += costs.Dense(product.rows(), product.cols());
          break;
        case Operation::kRowMask:  // as fewer rows: no table says otherwise
          cost += costs.dense.Of(product.density * rows, product.cols());
          break;
        case Operation::kColumnMask:
          cost += costs.Masked(product.rows(), product.density * cols);
          break;
      }
    });
  }
  return cost;
}

Result<WeightType> StoredType(const Checkpoint& checkpoint) {
  const TensorShape tensor = DescribeModel(checkpoint.config(), nullptr)
                                 .blocks.front()
                                 .o.direct.front()
                                 .tensors.front();
  RANKFORGE_ASSIGN_OR_RETURN(
      const SourceMatrix source,
      checkpoint.Matrix(tensor.name, tensor.rows, tensor.cols));
  return TypeFor(source.type);
}

Result<Matrix<float>> LoadWeights(const WeightSource& weights,
                                  const std::vector<TensorShape>& tensors) {
  std::vector<std::string> names;
  std::vector<size_t> rows;
  for (const TensorShape& tensor : tensors) {
    names.push_back(tensor.name);
    rows.push_back(tensor.rows);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const PackedMatrix packed,
                             weights.Pack(names, rows, tensors.front().cols,
                                          WeightType::kF32, Layout::kOutIn));
  Matrix<float> matrix(packed.rows(), packed.cols());
  packed.WidenTile(0, packed.rows(), matrix.values.data());
  return matrix;
}

Result<Adapter> Adapt(const Checkpoint& checkpoint, std::span<const int> ids,
                      const AdaptOptions& options) {
  const ModelConfig& config = checkpoint.config();
  RANKFORGE_ASSIGN_OR_RETURN(const Method* method,
                             CheckOptions(config, options));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> sample,
      SampleWindows(ids, options.window, options.calibration_tokens,
                    options.seed));
  RANKFORGE_ASSIGN_OR_RETURN(Model model,
                             CreateModel(checkpoint, nullptr, options));
  const ModelSpec spec = DescribeModel(config, nullptr);
  Progress progress(options);
  const std::unique_ptr<Planner> planner =
      method->make({checkpoint, spec, model, sample, options,
                    [&](const std::string& what) { progress.Step(what); }});

  Adapter adapter;
  double planned = options.keep;
  for (int attempt = 1;; ++attempt) {
    adapter = Adapter();
    progress.Extend(planner->steps() + 1);
    RANKFORGE_RETURN_IF_ERROR(planner->Plan(planned, adapter));
    RANKFORGE_ASSIGN_OR_RETURN(
        adapter.linear_flops_ratio,
        MeasureRatio(checkpoint, adapter, sample, options));
    progress.Step("measured");
    const double missed =
        options.keep - AchievedRatio(config, adapter, options);
    if (std::fabs(missed) <= kTolerance * options.keep ||
        attempt == kAttempts) {
      break;
    }
    planned = std::clamp(planned + missed,
                         method->smallest_keep(config, options), 1.0);
  }

  adapter.method = method->name;
  adapter.keep = options.keep;
  adapter.checkpoint_hash = checkpoint.Identity();
  adapter.checkpoint_full_hash = checkpoint.FullHash();
  adapter.calibration_hash = HashBytes(std::as_bytes(ids));
  adapter.calibration_tokens = sample.size();
  adapter.parameters["planned_keep"] = fmt::format("{:.6f}", planned);
  if (options.times) {
    adapter.parameters["objective"] = "time";
    adapter.parameters["predicted_time_ratio"] =
        fmt::format("{:.6f}", AchievedRatio(config, adapter, options));
  }
  adapter.parameters["window"] = std::to_string(options.window);
  adapter.parameters["seed"] = std::to_string(options.seed);
  adapter.parameters["split_tokens"] = std::to_string(options.split_tokens);
  adapter.parameters["round_d"] = options.round_d ? "true" : "false";
  for (const Refinement left_out : options.without) {
    adapter.parameters["without"] +=
        " " + RefinementNames()[static_cast<size_t>(left_out)];
  }
  return adapter;
}

}  // namespace rankforge
