#include "cli/support/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "base/affinity.h"
#include "base/files.h"
#include "kernels/layer/attention.h"
#include "meta/types.h"
#include "runtime/model/format/config.h"

namespace rankforge {
namespace {

// Names as --help shows a choice, and as completions read it.
std::string InBraces(const std::vector<std::string>& names) {
  return fmt::format("{{{}}}", fmt::join(names, ","));
}

template <size_t n>
std::vector<std::string> NamesOf(const std::array<WeightType, n>& types) {
  std::vector<std::string> names;
  for (const WeightType type : types) names.emplace_back(Name(type));
  return names;
}

// "f32, bf16, ...", for messages.
template <size_t n>
std::string ListOf(const std::array<WeightType, n>& types) {
  return fmt::format("{}", fmt::join(NamesOf(types), ", "));
}

// What --dtype takes, with "i4" and whatever stands in `more`.
std::string WeightTypeChoice(const std::vector<std::string>& more = {}) {
  std::vector<std::string> names = NamesOf(kWeightTypes);
  names.push_back("i4");
  names.insert(names.end(), more.begin(), more.end());
  return InBraces(names);
}

CLI::Validator WeightTypeName() {
  return CLI::Validator(
      [](std::string& name) -> std::string {
        if (WeightTypeNamed(name)) return {};
        return fmt::format("no type '{}', there are {}", name,
                           WeightTypeList());
      },
      WeightTypeChoice());
}

// The same, or kStored.
CLI::Validator ModelTypeName() {
  return CLI::Validator(
      [](std::string& name) -> std::string {
        if (name == kStored || WeightTypeNamed(name)) return {};
        return fmt::format("no type '{}', there are {}, {}", name,
                           WeightTypeList(), kStored);
      },
      WeightTypeChoice({kStored}));
}

// The type of --dtype; of what no checkpoint stores (A and B of adapters) with
// kStored: 8 bits, which lose little and keep reads small.
WeightType TypeFor(const std::string& dtype) {
  return dtype == kStored ? WeightType::kI8Group32 : *WeightTypeNamed(dtype);
}

// "1,2"; none: it is something else.
std::optional<SkipOptions::AlwaysOn> ParseAlwaysOn(const std::string& text) {
  SkipOptions::AlwaysOn ends;
  const char* const end = text.data() + text.size();
  const auto [comma, error] = std::from_chars(text.data(), end, ends.first);
  if (error != std::errc() || comma == end || *comma != ',') return {};
  const auto [rest, wrong] = std::from_chars(comma + 1, end, ends.last);
  if (wrong != std::errc() || rest != end) return {};
  return ends;
}

CLI::Validator KvTypeName() {
  return CLI::Validator(
      [](std::string& name) -> std::string {
        if (FromName(kKvTypes, name)) return {};
        return fmt::format("no KV type '{}', there are {}", name,
                           ListOf(kKvTypes));
      },
      InBraces(NamesOf(kKvTypes)));
}

}  // namespace

std::optional<WeightType> WeightTypeNamed(std::string_view name) {
  return name == "i4" ? WeightType::kI4Group32 : FromName(kWeightTypes, name);
}

std::string WeightTypeList() {
  return ListOf(kWeightTypes) + ", i4 (i4_group32)";
}

CommonOptions::CommonOptions()
    // Not hardware_concurrency(): with glibc 2.36 it counts the CPUs of the
    // machine, whatever the affinity mask and the quotas of control groups.
    : threads(UsableThreads()) {}

const std::string& CommonOptions::dtype_name() const {
  static const std::string kChosen = "optimized";
  return types.empty() ? dtype : kChosen;
}

ModelOptions CommonOptions::ForModel() const {
  ModelOptions options;
  // The names were checked by ModelTypeName and KvTypeName.
  options.type = TypeFor(dtype);
  options.lm_head_type = TypeFor(lm_head_dtype.empty() ? dtype : lm_head_dtype);
  if (!types.empty()) {
    // Of what a types file does not name: products that turn the stream.
    options.type = WeightType::kBf16;
    options.lm_head_type = WeightType::kBf16;
  }
  options.kv_type = kv_dtype.empty() ? DefaultKvType(options.type)
                                     : *FromName(kKvTypes, kv_dtype);
  options.activations = activations;
  options.threads = threads;
  options.skip = skip;
  return options;
}

CLI::Validator TextInput() {
  return CLI::Validator(
      [](std::string& path) -> std::string {
        if (path == "-") path = kStandardInput;
        return CLI::ExistingFile(path);
      },
      "FILE");
}

CLI::Validator NumberFrom(double least, double most) {
  const std::string range =
      most == std::numeric_limits<double>::max()
          ? fmt::format("a number of at least {}", least)
          : fmt::format("a number from {} to {}", least, most);
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        char* end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        if (!text.empty() && *end == '\0' && value >= least && value <= most) {
          return {};
        }
        return fmt::format("{:.40} is not {}", text, range);
      },
      "");
}

CLI::Validator WholeFrom(uint64_t least, uint64_t most) {
  const std::string range = most == std::numeric_limits<uint64_t>::max()
                                ? fmt::format("of at least {}", least)
                                : fmt::format("from {} to {}", least, most);
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        uint64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && rest == end && value >= least &&
            value <= most) {
          return {};
        }
        return fmt::format("{:.40} is not a whole number {}", text, range);
      },
      "");
}

void AddJson(CLI::App& command, CommonOptions& options) {
  command.add_flag("--json", options.json, "One JSON document on stdout");
}

void AddThreads(CLI::App& command, CommonOptions& options) {
  const CommonOptions defaults;
  command.add_option("--threads", options.threads, "Threads to use")
      ->check(CLI::Range(size_t{1}, defaults.threads, "usable cores"))
      ->default_str("all");
}

CLI::Option* AddWeightType(CLI::App& command, CommonOptions& options) {
  return command
      .add_option("--dtype", options.dtype,
                  "Type of the weights inside the blocks")
      ->check(WeightTypeName());
}

void AddTypes(CLI::App& command, CommonOptions& options) {
  command
      .add_option("--dtype", options.dtype,
                  "Type of the weights inside the blocks; stored: what loses "
                  "least of each tensor as the checkpoint has it")
      ->check(ModelTypeName());
  command
      .add_option("--lm-head-dtype", options.lm_head_dtype,
                  "Type of the lm_head; not given: as --dtype")
      ->check(ModelTypeName());
  command
      .add_option("--kv-dtype", options.kv_dtype,
                  "Type of the KV cache; not given: f32 with --dtype f32, else "
                  "f16")
      ->check(KvTypeName());
  AddActivations(command, options);
}

CLI::Option* AddActivations(CLI::App& command, CommonOptions& options) {
  std::vector<std::string> names;
  for (const Activations activations : kActivations) {
    names.emplace_back(Name(activations));
  }
  const CLI::Validator known(
      [names](std::string& name) -> std::string {
        if (FromName(kActivations, name)) return {};
        return fmt::format("no activations '{}', there are {}", name,
                           fmt::join(names, ", "));
      },
      InBraces(names));
  return command
      .add_option_function<std::string>(
          "--activations",
          [&options](const std::string& name) {
            options.activations = FromName(kActivations, name);
          },
          "What products round their inputs to: f32 keeps them, i8 is for "
          "integer weights, bf16 for bf16 weights; not given: i8 for integer "
          "weights, else f32")
      ->check(known);
}

CLI::Option* AddTableOption(CLI::App& command, CommonOptions& options) {
  return command.add_option(
      "--table", options.table,
      "Dispatch table of `rankforge tune`; not given: the file "
      "that RANKFORGE_TABLE names, else untuned defaults");
}

CLI::Option* AddAdapter(CLI::App& command, CommonOptions& options) {
  return command
      .add_option("--adapter", options.adapter,
                  "Adapter of `rankforge adapt`; not given: dense")
      ->check(CLI::ExistingFile);
}

CLI::Option* AddPackOption(CLI::App& command, CommonOptions& options) {
  return command
      .add_option("--pack", options.pack,
                  "Packed weights of `rankforge pack`, made for this model, "
                  "adapter, table and types; not given: packed now")
      ->check(CLI::ExistingFile);
}

CLI::Option* AddOptimized(CLI::App& command, CommonOptions& options) {
  CLI::Option* const optimized =
      command
          .add_option_function<std::string>(
              "--optimized",
              [&options](const std::string& folder) {
                const std::string adapter = folder + "/" + kOptimizedAdapter;
                options.types = folder + "/" + kOptimizedTypes;
                options.table = folder + "/" + kOptimizedTable;
                if (FileExists(adapter)) options.adapter = adapter;
              },
              "Folder of `rankforge optimize`: its adapter, table and types "
              "of weights")
          ->check(CLI::ExistingDirectory);
  for (const char* name : {"--adapter", "--table", "--dtype", "--lm-head-dtype",
                           "--activations"}) {
    if (CLI::Option* other = command.get_option_no_throw(name)) {
      optimized->excludes(other);
    }
  }
  return optimized;
}

CLI::Option* AddSeed(CLI::App& command, CommonOptions& options) {
  return command
      .add_option("--seed", options.seed, "Seed of all random numbers")
      ->check(WholeFrom(0));
}

void AddTauScale(CLI::App& command, double& tau_scale) {
  command
      .add_option("--tau-scale", tau_scale,
                  "Factor on every threshold of the adapter")
      ->check(NumberFrom(0));
}

void AddLayerSkip(CLI::App& command, CommonOptions& options) {
  SkipOptions& skip = options.skip;
  CLI::Option* const layers =
      command
          .add_option("--skip-layers", skip.layers,
                      "Layers to leave out once the prompt has run, 7,9,12, "
                      "whatever the adapter says; the first is 0")
          ->delimiter(',')
          ->check(WholeFrom(0));
  command
      .add_option("--skip-threshold", skip.threshold,
                  "Leave out layers whose rho is below this; not given: as the "
                  "adapter's routers were trained for")
      ->check(NumberFrom(0, 1))
      ->excludes(layers);
  command
      .add_option("--max-skip", skip.most,
                  "Of them, at most so many, those of the smallest rho")
      ->check(WholeFrom(0))
      ->excludes(layers);
  command
      .add_option_function<std::string>(
          "--always-on",
          [&skip](const std::string& text) {
            skip.always_on = ParseAlwaysOn(text);
          },
          "FIRST,LAST: so many layers at each end always run; not given: 1,1")
      ->check(CLI::Validator(
          [](std::string& text) -> std::string {
            if (ParseAlwaysOn(text)) return {};
            return fmt::format("{:.40} is not two whole numbers, FIRST,LAST",
                               text);
          },
          ""));
}

void AddAllowNoise(CLI::App& command, bool& allow_noise) {
  command.add_flag("--allow-noise", allow_noise,
                   "Measure even where other work leaves less than half of a "
                   "CPU");
}

CLI::Option* AddKeep(CLI::App& command, double& keep) {
  const CLI::Validator in_range(
      [](std::string& text) -> std::string {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value > 0 && value <= 1) {
          return {};
        }
        return fmt::format(
            "{} is outside (0, 1], the share of the dense cost to keep", text);
      },
      "in (0, 1]");
  return command
      .add_option("--keep", keep,
                  "Cost of the blocks' linear layers relative to dense, in "
                  "multiply-adds unless --objective says otherwise")
      ->check(in_range);
}

CLI::Option* AddPreset(CLI::App& command, std::string& preset) {
  std::vector<std::string> names;
  for (const Preset& entry : Presets()) names.push_back(entry.name);
  const CLI::Validator known(
      [names](std::string& name) -> std::string {
        if (std::ranges::count(names, name) > 0) return {};
        return fmt::format("no preset '{}', there are {}", name,
                           fmt::join(names, ", "));
      },
      InBraces(names));
  return command
      .add_option("--preset", preset,
                  "Shape of a well-known model with synthetic weights")
      ->check(known);
}

CLI::Option* AddModel(CLI::App& command, std::string& model) {
  return command
      .add_option("--model", model,
                  "Folder of a Hugging Face checkpoint, or a GGUF file")
      ->check(CLI::ExistingPath);
}

}  // namespace rankforge
