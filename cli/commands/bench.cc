// `rankforge bench`: decodes with the dense and the adapted model in turn, in
// one run, and holds both against what this machine can read.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>

#include "base/files.h"
#include "base/statistics.h"
#include "cli/compare/compare.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "cli/support/token_ids.h"
#include "runtime/model/use/decode_times.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/synthetic.h"
#include "runtime/table/cpu.h"
#include "runtime/threads/executor.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

struct BenchArguments {
  CommonOptions common;
  std::string model;
  std::string preset;
  std::string text;
  double keep = 0.56;
  std::vector<size_t> contexts = {256};
  size_t tokens = 32;
  CompareOptions compare;
};

// What is to be run: shape, weights and adapter, from files or made up.
struct Task {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::optional<Adapter> adapter;
  std::unique_ptr<WeightSource> pack;  // of the adapted model; null: none
  ModelOptions options;
  bool synthetic = false;
  size_t full_layers = 0;  // before a preset was cut to fit the memory
};

// The first value of a line "MemAvailable: N kB"; without it, no limit.
size_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    size_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::numeric_limits<size_t>::max();
}

// The first `layers` layers, and of the lm_head the same share, so that it
// weighs as much as in the whole model.
ModelConfig Cut(const ModelConfig& full, size_t layers) {
  ModelConfig config = full;
  config.layers = layers;
  config.vocab = full.vocab * layers / full.layers;
  return config;
}

Result<Task> PresetTask(const BenchArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(const ModelConfig full,
                             FindPreset(arguments.preset));
  // The dense and the adapted weights are in memory together; a tenth and two
  // gigabytes are for padding, caches and the read loops.
  constexpr size_t kReserve = size_t{2} << 30;
  const size_t available = AvailableMemory();
  for (size_t layers = full.layers;; layers = (layers + 1) / 2) {
    Task task;
    task.config = Cut(full, layers);
    task.synthetic = true;
    task.full_layers = full.layers;
    RANKFORGE_ASSIGN_OR_RETURN(task.options,
                               ForModel(arguments.common, nullptr, {}));
    RANKFORGE_ASSIGN_OR_RETURN(task.adapter,
                               SyntheticAdapter(task.config, arguments.keep));
    const size_t bytes =
        WeightBytes(ModelWorkloads(task.config, nullptr, task.options)) +
        WeightBytes(ModelWorkloads(task.config, &*task.adapter, task.options));
    if (bytes + bytes / 10 + kReserve > available && layers > 1) continue;
    task.weights =
        std::make_unique<SyntheticWeights>(task.config, arguments.common.seed);
    return task;
  }
}

Result<Task> CheckpointTask(const BenchArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint opened,
                             OpenCheckpoint(arguments.model));
  auto checkpoint = std::make_unique<Checkpoint>(std::move(opened));
  Task task;
  task.config = checkpoint->config();
  task.full_layers = task.config.layers;
  RANKFORGE_ASSIGN_OR_RETURN(task.adapter,
                             OpenAdapter(*checkpoint, arguments.common));
  RANKFORGE_ASSIGN_OR_RETURN(
      task.pack, OpenPack(*checkpoint, task.adapter, arguments.common));
  RANKFORGE_ASSIGN_OR_RETURN(
      task.options, ForModel(arguments.common, checkpoint.get(), task.adapter));
  task.weights = std::move(checkpoint);
  return task;
}

// `count` ids to decode. Masks of a real model must see text like that which
// they were made for, or they keep more; a synthetic one takes any ids.
Result<std::vector<int>> DrawIds(const BenchArguments& arguments,
                                 const Task& task, Model& dense, size_t count) {
  if (task.synthetic) {
    return SyntheticIds(task.config, count, arguments.common.seed);
  }
  if (arguments.text.empty()) {
    return SampleIds(dense, count, arguments.common.seed);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Tokenizer tokenizer,
                             OpenTokenizer(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(arguments.text, kMaxTextBytes));
  std::vector<int> ids = tokenizer.Encode(text);
  if (ids.size() < count) {
    return Failed(fmt::format(
        "{}: has {} tokens, {} are needed; use a longer text, a shorter "
        "--context or fewer tokens",
        arguments.text, ids.size(), count));
  }
  ids.resize(count);
  return ids;
}

// Puts `ids` into the cache. What keys and values a synthetic model holds makes
// no difference to the time, so there the cache counts zeros as its context.
Status FillContext(const Task& task, std::span<const int> ids,
                   TimedModel& timed) {
  timed.cache.Clear();
  if (task.synthetic) {
    timed.cache.Advance(ids.size());
  } else {
    RANKFORGE_RETURN_IF_ERROR(timed.model.Forward(ids, timed.cache, {}));
  }
  return timed.model.EndPrompt(timed.cache);
}

// The share of `dispatcher`'s answers since `before` that come from the table.
double TunedShare(const Dispatcher& dispatcher,
                  const std::array<size_t, kSources>& before) {
  size_t from_table = 0;
  size_t all = 0;
  for (size_t source = 0; source < kSources; ++source) {
    const size_t answers = dispatcher.counts()[source] - before[source];
    all += answers;
    switch (static_cast<DecisionSource>(source)) {
      case DecisionSource::kTable:
      case DecisionSource::kNearest:
        from_table += answers;
        break;
      default:
        break;
    }
  }
  return all == 0 ? 0
                  : static_cast<double>(from_table) / static_cast<double>(all);
}

// The dense model, and the adapted one where there is an adapter, or where
// layers are left out.
struct Contest {
  TimedModels models;
  std::vector<double> tuned;  // of each, the share of products from the table
  size_t bytes = 0;           // of all weights

  const TimedModel& dense() const { return *models.front(); }
  const TimedModel& adapted() const { return *models.back(); }
};

Result<Contest> PackModels(const BenchArguments& arguments, const Task& task,
                           const SessionTable& table, size_t capacity) {
  std::vector<const Adapter*> adapters = {nullptr};
  if (task.adapter) {
    adapters.push_back(&*task.adapter);
  } else if (!task.options.skip.empty()) {
    adapters.push_back(nullptr);
  }
  // One team for all: the helpers of two would spin on the same CPUs, and those
  // of the model that is not running keep the others waiting.
  const std::shared_ptr<Executor> executor =
      MakeDefaultExecutor(arguments.common.threads);
  Contest contest;
  Progress progress("pack");
  for (size_t i = 0; i < adapters.size(); ++i) {
    progress.Update(i, adapters.size(), i == 0 ? "dense" : "adapted");
    const bool from_pack = task.pack && i + 1 == adapters.size();
    const auto before = table.dispatcher().counts();
    ModelOptions options = task.options;
    if (i == 0) options.skip = {};
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(task.config, from_pack ? *task.pack : *task.weights,
                      adapters[i], table.dispatcher(), options, executor));
    contest.tuned.push_back(TunedShare(table.dispatcher(), before));
    contest.bytes += model.packed_bytes();
    contest.models.push_back(
        std::make_unique<TimedModel>(std::move(model), capacity));
  }
  table.LogLookups();
  if (task.synthetic) {
    constexpr size_t kFitTokens = 32;
    RANKFORGE_RETURN_IF_ERROR(contest.models.back()->model.FitThresholds(
        SyntheticIds(task.config, kFitTokens, arguments.common.seed + 1)));
  }
  progress.Update(adapters.size(), adapters.size(), "");
  return contest;
}

// A table that was tuned for the layers of the adapted model alone makes it
// look quicker than it is.
void SayWhatIsUntuned(const Contest& contest) {
  const double dense = contest.tuned.front();
  const double adapted = contest.tuned.back();
  if (dense >= adapted) return;
  PrintMessage(fmt::format(
      "the table has {:.0f} % of the dense model's products and {:.0f} % of "
      "the adapted model's: the speedup is over a dense model that runs "
      "untuned; `rankforge tune` with this model and --adapter measures both",
      100 * dense, 100 * adapted));
}

// One turn of the contest with `text`, of which the first `context` tokens are
// in the caches when timing starts. The read loops take turns with the tokens.
Status MeasureAt(const Task& task, std::span<const int> text, size_t context,
                 Contest& contest, ReadBandwidthMeter& meter) {
  for (auto& timed : contest.models) {
    RANKFORGE_RETURN_IF_ERROR(FillContext(task, text.first(context), *timed));
  }
  constexpr size_t kReadRounds = 8;
  const size_t tokens = text.size() - context;
  const size_t tokens_per_round = std::max<size_t>(tokens / kReadRounds, 1);
  Progress progress("decode");
  RANKFORGE_RETURN_IF_ERROR(DecodeInTurns(
      text, context, contest.models, [&](size_t done, size_t total) {
        progress.Update(done, total, "tokens");
        if (done % tokens_per_round == 0) meter.Round();
      }));
  progress.Update(tokens, tokens, "tokens");
  return {};
}

Json ToJson(const std::map<std::string, KindDensity>& kinds) {
  Json json = Json::object();
  for (const auto& [name, kind] : kinds) {
    json[name] = {{"density", Rounded(kind.density)},
                  {"mean_kept", Rounded(kind.mean_kept)}};
  }
  return json;
}

Json ToJson(const StageTimes& stages, double read_gbps) {
  Json json = Json::object();
  for (const auto& [name, stage] : stages.kinds) {
    json[name] = {{"ms_per_token", Rounded(stage.ms_per_token)},
                  {"bytes_per_token", Rounded(stage.bytes_per_token, 9)},
                  {"useful_gbps", Rounded(stage.useful_gbps)},
                  {"roofline", Rounded(stage.useful_gbps / read_gbps)}};
  }
  json["between"] = {{"ms_per_token", Rounded(stages.between_ms_per_token)}};
  return json;
}

Json Report(const BenchArguments& arguments, const Task& task, size_t context,
            const Contest& contest, const ReadBandwidth& read, bool in_cache) {
  const TimedModel& dense = contest.dense();
  const TimedModel& adapted = contest.adapted();
  const DecodeTiming dense_timing = TimingOf(dense);
  const DecodeTiming timing = TimingOf(adapted);
  const double speedup = PairedRatio(dense.seconds, adapted.seconds).median;
  Json report =
      RunToJson(arguments.preset.empty() ? arguments.model : arguments.preset,
                task.adapter, arguments.common);
  report.update(Json{
      {"decode_ms_per_token", Rounded(timing.ms_per_token)},
      {"dense_ms_per_token", Rounded(dense_timing.ms_per_token)},
      {"speedup", Rounded(speedup)},
      {"ceiling",
       Rounded(dense_timing.bytes_per_token / timing.bytes_per_token)},
      {"read_gbps", Rounded(read.gbps)},
      {"useful_gbps", Rounded(timing.useful_gbps)},
      {"roofline", Rounded(timing.useful_gbps / read.gbps)},
      {"dense_useful_gbps", Rounded(dense_timing.useful_gbps)},
      {"dense_roofline", Rounded(dense_timing.useful_gbps / read.gbps)},
      {"read_gbps_mad", Rounded(read.mad)},
      {"read_loop", read.loop},
      {"bytes_per_token", Rounded(timing.bytes_per_token, 9)},
      {"dense_bytes_per_token", Rounded(dense_timing.bytes_per_token, 9)},
      {"density", ToJson(DensityByKind(adapted.model.counters()))},
      {"stages", ToJson(StagesOf(adapted), read.gbps)},
      {"dense_stages", ToJson(StagesOf(dense), read.gbps)},
      {"threads", arguments.common.threads},
      {"context", context},
      {"kv_bytes_per_position", dense.cache.position_bytes()},
      {"tokens", dense.seconds.size()},
      {"layers", task.config.layers},
      {"full_layers", task.full_layers},
      {"synthetic", task.synthetic},
      {"activations", ActivationsToJson(adapted.model)},
      {"dense_activations", ActivationsToJson(dense.model)},
      {"in_cache", in_cache},
      {"tuned", Rounded(contest.tuned.back())},
      {"dense_tuned", Rounded(contest.tuned.front())},
  });
  report["time_saved"] = Rounded(1 - 1 / speedup);
  report["bytes_saved"] =
      Rounded(1 - timing.bytes_per_token / dense_timing.bytes_per_token);
  if (const auto& decision = adapted.cache.decision()) {
    report.update(ToJson(*decision));
  }
  return report;
}

// "f32 and i8".
std::string NamesOf(const Json& activations) {
  std::vector<std::string> names;
  for (const auto& [name, share] : activations.items()) names.push_back(name);
  return fmt::format("{}", fmt::join(names, " and "));
}

void PrintWhatRan(const BenchArguments& arguments, const Json& report) {
  if (report["synthetic"].get<bool>()) {
    Print(
        "{}: synthetic weights and masks, good for time, meaningless for "
        "quality\n",
        arguments.preset);
  }
  if (report["layers"] != report["full_layers"]) {
    Print(
        "{0} of {1} layers, lm_head scaled to {0}/{1}: the rest does not fit "
        "the memory\n",
        report["layers"].get<size_t>(), report["full_layers"].get<size_t>());
  }
  Print(
      "{} threads, {}, {} activations, KV context {}, medians of {} tokens, "
      "weights {}\n",
      arguments.common.threads, arguments.common.dtype_name(),
      NamesOf(report["activations"]), report["context"].get<size_t>(),
      report["tokens"].get<size_t>(),
      report["in_cache"].get<bool>() ? "in cache" : "cold");
  for (const auto& [module, kept] : report["density"].items()) {
    Print("  {:<20} keeps {:.4f}, {:.1f} on average\n", module,
          kept["density"].get<double>(), kept["mean_kept"].get<double>());
  }
}

// A row of the table of both models; the keys of the dense one start with
// "dense_".
void PrintModel(const char* name, const std::string& prefix,
                const Json& report) {
  const auto number = [&](const std::string& key) {
    return report[key].get<double>();
  };
  Print("{:<10}{:>14.2f}{:>14.1f}{:>14.2f}{:>12.3f}\n", name,
        number((prefix.empty() ? "decode_" : prefix) + "ms_per_token"),
        number(prefix + "bytes_per_token") / 1e6,
        number(prefix + "useful_gbps"), number(prefix + "roofline"));
}

void PrintStages(const char* name, const Json& stages) {
  Print("{} products, means\n", name);
  for (const auto& [kind, stage] : stages.items()) {
    Print("  {:<22}{:>8.2f} ms", kind, stage["ms_per_token"].get<double>());
    if (stage.contains("useful_gbps")) {
      Print("{:>9.1f} MB{:>8.2f} GB/s{:>8.3f}",
            stage["bytes_per_token"].get<double>() / 1e6,
            stage["useful_gbps"].get<double>(),
            stage["roofline"].get<double>());
    }
    Print("\n");
  }
}

void PrintContexts(const Json& by_context) {
  if (by_context.size() < 2) return;
  Print("{:<10}{:>14}{:>14}{:>14}\n", "context", "dense ms", "adapted ms",
        "speedup");
  for (const Json& at : by_context) {
    Print("{:<10}{:>14.2f}{:>14.2f}{:>14.3f}\n", at["context"].get<size_t>(),
          at["dense_ms_per_token"].get<double>(),
          at["decode_ms_per_token"].get<double>(), at["speedup"].get<double>());
  }
}

void PrintReport(const BenchArguments& arguments, const Json& report) {
  PrintWhatRan(arguments, report);
  Print("{:<10}{:>14}{:>14}{:>14}{:>12}\n", "", "ms per token", "MB per token",
        "useful GB/s", "roofline");
  PrintModel("dense", "dense_", report);
  PrintModel("adapted", "", report);
  PrintStages("dense", report["dense_stages"]);
  PrintStages("adapted", report["stages"]);
  Print("speedup {:.3f}, ceiling {:.3f} (ratio of bytes read)\n",
        report["speedup"].get<double>(), report["ceiling"].get<double>());
  Print("read bandwidth in this run {:.2f} GB/s, MAD {:.2f} ({})\n",
        report["read_gbps"].get<double>(),
        report["read_gbps_mad"].get<double>(),
        report["read_loop"].get<std::string>());
  if (report.contains("skipped_layers")) {
    const LayerDecision decision{
        .skipped = report["skipped_layers"].get<std::vector<size_t>>(),
        .freed_bytes = report["kv_bytes_freed"].get<size_t>()};
    Print("{}: {:.1f} % of the time saved, with {:.1f} % of the bytes\n",
          Described(decision, report["layers"].get<size_t>()),
          100 * report["time_saved"].get<double>(),
          100 * report["bytes_saved"].get<double>());
  }
  PrintContexts(report["by_context"]);
}

// Of the report at one context, what a context changes.
Json AtContext(const Json& report) {
  Json at;
  for (const char* key :
       {"context", "decode_ms_per_token", "dense_ms_per_token", "speedup",
        "roofline", "dense_roofline"}) {
    at[key] = report[key];
  }
  if (report.contains("skipped_layers")) {
    at["skipped_layers"] = report["skipped_layers"];
  }
  return at;
}

Status RunBench(const BenchArguments& arguments) {
  if (!arguments.compare.program.empty()) {
    return CompareBench(arguments.compare, arguments.common.json);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Task task, arguments.preset.empty()
                                                  ? CheckpointTask(arguments)
                                                  : PresetTask(arguments));
  const SessionTable table(arguments.common);
  const size_t longest = std::ranges::max(arguments.contexts);
  const size_t count = longest + arguments.tokens;
  if (count > task.config.max_positions) {
    return UsageError(fmt::format(
        "--context {} and -n {}: the model has {} positions; use fewer",
        longest, arguments.tokens, task.config.max_positions));
  }
  RANKFORGE_ASSIGN_OR_RETURN(Contest contest,
                             PackModels(arguments, task, table, count));
  SayWhatIsUntuned(contest);
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> ids,
      DrawIds(arguments, task, contest.models.front()->model, count));
  // The roofline of models that fit the cache is what the cache gives.
  const bool in_cache = contest.bytes < 2 * CpuInfo::Detect().l3_bytes;
  ReadBandwidthMeter meter(arguments.common.threads,
                           std::min(contest.bytes, size_t{1} << 30));
  Json report;
  Json by_context = Json::array();
  for (const size_t context : arguments.contexts) {
    RANKFORGE_RETURN_IF_ERROR(
        MeasureAt(task, std::span(ids).first(context + arguments.tokens),
                  context, contest, meter));
    const Json at =
        Report(arguments, task, context, contest, meter.Best(), in_cache);
    by_context.push_back(AtContext(at));
    if (report.is_null()) report = at;
  }
  report["by_context"] = by_context;
  if (arguments.common.json) {
    PrintJson(report);
  } else {
    PrintReport(arguments, report);
  }
  for (const Json& at : report["by_context"]) {
    for (const char* key : {"roofline", "dense_roofline"}) {
      RANKFORGE_RETURN_IF_ERROR(CheckRoofline(key, at[key].get<double>()));
    }
  }
  return {};
}

}  // namespace

void AddBench(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "bench", "Decode timings of the adapted against the dense model");
  auto arguments = std::make_shared<BenchArguments>();
  CLI::Option_group* source = command->add_option_group("what to run");
  CLI::Option* model = AddModel(*source, arguments->model);
  CLI::Option* preset = AddPreset(*source, arguments->preset);
  source->require_option(1);
  AddKeep(*command, arguments->keep)->needs(preset);
  AddAdapter(*command, arguments->common)->needs(model);
  AddLayerSkip(*command, arguments->common);
  command
      ->add_option("--text", arguments->text,
                   "Text to decode; not given: one that the model samples")
      ->check(CLI::ExistingFile)
      ->needs(model);
  command
      ->add_option("--context", arguments->contexts,
                   "Tokens in the KV cache when timing starts; several, "
                   "separated by commas, are timed one after another")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command
      ->add_option("-n", arguments->tokens,
                   "Tokens to decode; the first two warm up and are not timed")
      ->check(CLI::Range(4, 1 << 20));
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddPackOption(*command, arguments->common)->needs(model);
  AddOptimized(*command, arguments->common)->needs(model);
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddCompare(*command, arguments->compare);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunBench, arguments);
}

}  // namespace rankforge
