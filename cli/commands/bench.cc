// `rankforge bench`: decodes with the dense and the adapted model in turn, in
// one run, and holds both against what this machine can read.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "base/affinity.h"
#include "base/files.h"
#include "base/statistics.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/use/generate.h"
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
};

// What is to be run: shape, weights and adapter, from files or made up.
struct Task {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::optional<Adapter> adapter;
  std::unique_ptr<WeightSource> pack;  // of the adapted model; null: none
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
    const ModelOptions options = arguments.common.ForModel();
    RANKFORGE_ASSIGN_OR_RETURN(task.adapter,
                               SyntheticAdapter(task.config, arguments.keep));
    const size_t bytes =
        WeightBytes(ModelWorkloads(task.config, nullptr, options)) +
        WeightBytes(ModelWorkloads(task.config, &*task.adapter, options));
    if (bytes + bytes / 10 + kReserve > available && layers > 1) continue;
    task.weights =
        std::make_unique<SyntheticWeights>(task.config, arguments.common.seed);
    return task;
  }
}

Result<Task> CheckpointTask(const BenchArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint opened,
                             Checkpoint::Open(arguments.model));
  auto checkpoint = std::make_unique<Checkpoint>(std::move(opened));
  Task task;
  task.config = checkpoint->config();
  task.full_layers = task.config.layers;
  RANKFORGE_ASSIGN_OR_RETURN(task.adapter,
                             OpenAdapter(*checkpoint, arguments.common));
  RANKFORGE_ASSIGN_OR_RETURN(
      task.pack, OpenPack(*checkpoint, task.adapter, arguments.common));
  task.weights = std::move(checkpoint);
  return task;
}

// One of the models that take turns.
struct Subject {
  Model model;
  KvCache cache;
  std::vector<double> seconds;  // of each timed token

  Subject(Model built, size_t capacity)
      : model(std::move(built)),
        cache(model.config(), model.options().kv_type, capacity) {}
};

// `count` ids that the model says itself, starting anew where it ends.
Result<std::vector<int>> SampleIds(Model& model, size_t count, uint64_t seed) {
  std::vector<int> ids = {std::max(model.config().bos_id, 0)};
  SamplingOptions sampling{.temperature = 1, .top_p = 1, .seed = seed};
  while (ids.size() < count) {
    RANKFORGE_ASSIGN_OR_RETURN(const Generation generation,
                               Generate(model, std::span(ids).first(1),
                                        count - ids.size(), sampling, {}));
    if (generation.ids.empty()) ids.push_back(ids.front());
    ids.insert(ids.end(), generation.ids.begin(), generation.ids.end());
    ++sampling.seed;
  }
  return ids;
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
                             Tokenizer::Load(arguments.model));
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
                   Subject& subject) {
  subject.cache.Clear();
  if (!task.synthetic) return subject.model.Forward(ids, subject.cache, {});
  subject.cache.Advance(ids.size());
  return {};
}

// Decodes ids[context] and on, each with every subject before the next; who
// goes first alternates. The read loops take turns with the tokens.
Status DecodeInTurns(std::span<const int> ids, size_t context,
                     std::vector<std::unique_ptr<Subject>>& subjects,
                     ReadBandwidthMeter& meter) {
  constexpr size_t kWarmUp = 2;
  constexpr size_t kReadRounds = 8;
  const size_t tokens_a_round =
      std::max<size_t>((ids.size() - context) / kReadRounds, 1);
  // The helpers keep to their CPUs, and so does this thread.
  const PinnedHere pin(UsableCpus().front());
  Progress progress("decode");
  std::vector<float> logits(subjects.front()->model.config().vocab);
  for (size_t i = context; i < ids.size(); ++i) {
    progress.Update(i - context, ids.size() - context, "tokens");
    if ((i - context) % tokens_a_round == 0) meter.Round();
    if (i == context + kWarmUp) {
      for (auto& subject : subjects) subject->model.ResetCounters();
    }
    for (size_t turn = 0; turn < subjects.size(); ++turn) {
      Subject& subject = *subjects[(turn + i) % subjects.size()];
      const auto start = std::chrono::steady_clock::now();
      RANKFORGE_RETURN_IF_ERROR(
          subject.model.Forward(ids.subspan(i, 1), subject.cache, logits));
      const std::chrono::duration<double> seconds =
          std::chrono::steady_clock::now() - start;
      if (i >= context + kWarmUp) subject.seconds.push_back(seconds.count());
    }
  }
  progress.Update(ids.size() - context, ids.size() - context, "tokens");
  return {};
}

struct DecodeTiming {
  double ms_per_token = 0;
  double bytes_per_token = 0;
  double useful_gbps = 0;
};

DecodeTiming TimingOf(const Subject& subject) {
  const ForwardCounters counters = subject.model.counters();
  const double seconds = Median(subject.seconds);
  const double bytes =
      counters.weight_bytes / static_cast<double>(counters.tokens);
  return {seconds * 1e3, bytes, bytes / seconds / 1e9};
}

// What a kind of module keeps, over all layers.
struct Kept {
  double kept = 0;
  double total = 0;
  size_t modules = 0;
};

std::map<std::string, Kept> KeptByKind(const ForwardCounters& counters) {
  std::map<std::string, Kept> kinds;
  for (const auto& [module, density] : counters.density) {
    Kept& kind = kinds[KindOf(module)];
    kind.kept += density.kept;
    kind.total += density.total;
    ++kind.modules;
  }
  return kinds;
}

Json DensityJson(const ForwardCounters& counters) {
  Json json = Json::object();
  for (const auto& [name, kind] : KeptByKind(counters)) {
    json[name] = {
        {"density", Rounded(kind.kept / kind.total)},
        {"mean_kept", Rounded(kind.kept / static_cast<double>(counters.tokens) /
                              static_cast<double>(kind.modules))}};
  }
  return json;
}

// Time by kind of stage; what is left of a token is attention, norms and the
// rest between the products.
Json StagesJson(const Subject& subject, double read_gbps) {
  const ForwardCounters counters = subject.model.counters();
  std::map<std::string, ForwardCounters::Stage> kinds;
  double seconds = 0;
  for (const auto& [layer, stage] : counters.stages) {
    ForwardCounters::Stage& kind = kinds[KindOf(layer)];
    kind.seconds += stage.seconds;
    kind.weight_bytes += stage.weight_bytes;
    seconds += stage.seconds;
  }
  const auto tokens = static_cast<double>(counters.tokens);
  Json json = Json::object();
  for (const auto& [name, kind] : kinds) {
    const double gbps = kind.weight_bytes / kind.seconds / 1e9;
    json[name] = {{"ms_per_token", Rounded(kind.seconds / tokens * 1e3)},
                  {"bytes_per_token", Rounded(kind.weight_bytes / tokens, 9)},
                  {"useful_gbps", Rounded(gbps)},
                  {"roofline", Rounded(gbps / read_gbps)}};
  }
  const double total =
      std::accumulate(subject.seconds.begin(), subject.seconds.end(), 0.0);
  json["between"] = {
      {"ms_per_token", Rounded((total - seconds) / tokens * 1e3)}};
  return json;
}

Json Report(const BenchArguments& arguments, const Task& task, size_t context,
            const std::vector<std::unique_ptr<Subject>>& subjects,
            const ReadBandwidth& read, bool in_cache) {
  const Subject& dense = *subjects.front();
  const Subject& adapted = *subjects.back();
  const DecodeTiming dense_timing = TimingOf(dense);
  const DecodeTiming timing = TimingOf(adapted);
  std::vector<double> ratios;
  for (size_t i = 0; i < dense.seconds.size(); ++i) {
    ratios.push_back(dense.seconds[i] / adapted.seconds[i]);
  }
  Json report =
      RunToJson(arguments.preset.empty() ? arguments.model : arguments.preset,
                task.adapter, arguments.common);
  report.update(Json{
      {"decode_ms_per_token", Rounded(timing.ms_per_token)},
      {"dense_ms_per_token", Rounded(dense_timing.ms_per_token)},
      {"speedup", Rounded(Median(ratios))},
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
      {"density", DensityJson(adapted.model.counters())},
      {"stages", StagesJson(adapted, read.gbps)},
      {"dense_stages", StagesJson(dense, read.gbps)},
      {"threads", arguments.common.threads},
      {"context", context},
      {"kv_bytes_per_position", dense.cache.bytes() / dense.cache.capacity()},
      {"tokens", dense.seconds.size()},
      {"layers", task.config.layers},
      {"full_layers", task.full_layers},
      {"synthetic", task.synthetic},
      {"in_cache", in_cache},
  });
  return report;
}

void PrintReport(const BenchArguments& arguments, const Json& report) {
  const auto number = [&](const char* key) {
    return report[key].get<double>();
  };
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
  Print("{} threads, {}, KV context {}, medians of {} tokens, weights {}\n",
        arguments.common.threads, arguments.common.dtype,
        report["context"].get<size_t>(), report["tokens"].get<size_t>(),
        report["in_cache"].get<bool>() ? "in cache" : "cold");
  for (const auto& [module, kept] : report["density"].items()) {
    Print("  {:<20} keeps {:.4f}, {:.1f} on average\n", module,
          kept["density"].get<double>(), kept["mean_kept"].get<double>());
  }
  Print("{:<10}{:>14}{:>14}{:>14}{:>12}\n", "", "ms per token", "MB per token",
        "useful GB/s", "roofline");
  Print("{:<10}{:>14.2f}{:>14.1f}{:>14.2f}{:>12.3f}\n", "dense",
        number("dense_ms_per_token"), number("dense_bytes_per_token") / 1e6,
        number("dense_useful_gbps"), number("dense_roofline"));
  Print("{:<10}{:>14.2f}{:>14.1f}{:>14.2f}{:>12.3f}\n", "adapted",
        number("decode_ms_per_token"), number("bytes_per_token") / 1e6,
        number("useful_gbps"), number("roofline"));
  for (const char* key : {"dense_stages", "stages"}) {
    Print("{} products, means\n", key[0] == 'd' ? "dense" : "adapted");
    for (const auto& [name, stage] : report[key].items()) {
      Print("  {:<22}{:>8.2f} ms", name, stage["ms_per_token"].get<double>());
      if (stage.contains("useful_gbps")) {
        Print("{:>9.1f} MB{:>8.2f} GB/s{:>8.3f}",
              stage["bytes_per_token"].get<double>() / 1e6,
              stage["useful_gbps"].get<double>(),
              stage["roofline"].get<double>());
      }
      Print("\n");
    }
  }
  Print("speedup {:.3f}, ceiling {:.3f} (ratio of bytes read)\n",
        number("speedup"), number("ceiling"));
  Print("read bandwidth in this run {:.2f} GB/s, MAD {:.2f} ({})\n",
        number("read_gbps"), number("read_gbps_mad"),
        report["read_loop"].get<std::string>());
  if (report["by_context"].size() < 2) return;
  Print("{:<10}{:>14}{:>14}{:>14}\n", "context", "dense ms", "adapted ms",
        "speedup");
  for (const Json& at : report["by_context"]) {
    Print("{:<10}{:>14.2f}{:>14.2f}{:>14.3f}\n", at["context"].get<size_t>(),
          at["dense_ms_per_token"].get<double>(),
          at["decode_ms_per_token"].get<double>(), at["speedup"].get<double>());
  }
}

// Of the report at one context, what a context changes.
Json AtContext(const Json& report) {
  Json at;
  for (const char* key :
       {"context", "decode_ms_per_token", "dense_ms_per_token", "speedup",
        "roofline", "dense_roofline"}) {
    at[key] = report[key];
  }
  return at;
}

Status RunBench(const BenchArguments& arguments) {
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
  std::vector<const Adapter*> adapters = {nullptr};
  if (task.adapter) adapters.push_back(&*task.adapter);
  std::vector<std::unique_ptr<Subject>> subjects;
  // One team for all: the helpers of two would spin on the same CPUs, and those
  // of the model that is not running keep the others waiting.
  const std::shared_ptr<Executor> executor =
      MakeDefaultExecutor(arguments.common.threads);
  size_t bytes = 0;
  {
    Progress progress("pack");
    for (size_t i = 0; i < adapters.size(); ++i) {
      progress.Update(i, adapters.size(), i == 0 ? "dense" : "adapted");
      const bool from_pack = task.pack && i + 1 == adapters.size();
      RANKFORGE_ASSIGN_OR_RETURN(
          Model model,
          BuildModel(task.config, from_pack ? *task.pack : *task.weights,
                     adapters[i], table, arguments.common.ForModel(),
                     executor));
      bytes += model.packed_bytes();
      subjects.push_back(std::make_unique<Subject>(std::move(model), count));
    }
    if (task.synthetic) {
      constexpr size_t kFitTokens = 32;
      RANKFORGE_RETURN_IF_ERROR(subjects.back()->model.FitThresholds(
          SyntheticIds(task.config, kFitTokens, arguments.common.seed + 1)));
    }
    progress.Update(adapters.size(), adapters.size(), "");
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> ids,
      DrawIds(arguments, task, subjects.front()->model, count));
  // Models that fit the cache are held against reading as much from the cache.
  const bool in_cache = bytes < 2 * CpuInfo::Detect().l3_bytes;
  ReadBandwidthMeter meter(arguments.common.threads,
                           std::min(bytes, size_t{1} << 30));
  Json report;
  Json by_context = Json::array();
  for (const size_t context : arguments.contexts) {
    const auto text = std::span(ids).first(context + arguments.tokens);
    for (auto& subject : subjects) {
      subject->seconds.clear();
      RANKFORGE_RETURN_IF_ERROR(
          FillContext(task, text.first(context), *subject));
    }
    RANKFORGE_RETURN_IF_ERROR(DecodeInTurns(text, context, subjects, meter));
    const Json at =
        Report(arguments, task, context, subjects, meter.Best(), in_cache);
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
  command
      ->add_option("--text", arguments->text,
                   "Text to decode along; not given: what the model samples")
      ->check(CLI::ExistingFile)
      ->needs(model);
  command
      ->add_option("--context", arguments->contexts,
                   "Tokens in the KV cache when timing starts; several, "
                   "separated by commas, are timed one after another")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("-n", arguments->tokens, "Tokens to time")
      ->check(CLI::Range(4, 1 << 20));
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddPackOption(*command, arguments->common)->needs(model);
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunBench, arguments);
}

}  // namespace rankforge
