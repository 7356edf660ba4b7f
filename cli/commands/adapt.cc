// `rankforge adapt`: calibrates on a text and writes an adapter or a smaller
// checkpoint.
#include "adapt/adapt.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/lock_file.h"
#include "cli/support/commands.h"
#include "cli/support/interrupt.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/choice.h"
#include "runtime/table/product_times.h"

namespace rankforge {
namespace {

struct AdaptArguments {
  CommonOptions common;
  AdaptOptions options;
  std::string model;
  TokenSource calibration;
  std::string objective = "flops";
  std::string out;
  std::string state;
  // Options that not all methods read, and the methods that do.
  std::vector<std::pair<const CLI::Option*, std::vector<std::string>>> readers;
};

// The two kinds, with what they are called.
auto Masks(const Adapter& adapter) {
  return std::array{std::pair{"mask", &adapter.masks},
                    std::pair{"gate", &adapter.gates}};
}

Json ToJson(const Adapter& adapter, const std::string& path) {
  Json modules = Json::object();
  for (const auto& [name, rank] : adapter.ranks) {
    modules[name] = {{"kind", "rank"},
                     {"rows", rank.rows},
                     {"cols", rank.cols},
                     {"d", rank.d},
                     {"density", Rounded(rank.density)},
                     {"error", Rounded(rank.error)}};
  }
  for (const auto& [kind, masks] : Masks(adapter)) {
    for (const auto& [name, mask] : *masks) {
      modules[name] = {{"kind", kind},
                       {"cols", mask.cols},
                       {"density", Rounded(mask.density)},
                       {"error", Rounded(mask.error)}};
    }
  }
  Json document = {{"method", adapter.method},
                   {"keep", adapter.keep},
                   {"linear_flops_ratio", Rounded(adapter.linear_flops_ratio)},
                   {"calibration_tokens", adapter.calibration_tokens},
                   {"modules", modules},
                   {"left_dense", adapter.left_dense},
                   {"adapter", path}};
  if (const auto time = adapter.parameters.find("predicted_time_ratio");
      time != adapter.parameters.end()) {
    document["objective"] = "time";
    document["predicted_time_ratio"] = std::stod(time->second);
  }
  if (!adapter.skip.layers.empty()) {
    document["skipped_layers"] = adapter.skip.layers;
  }
  return document;
}

void PrintSummary(const Adapter& adapter, const std::string& path) {
  if (!adapter.skip.layers.empty()) {
    Print(
        "{}: {}, decoding does without layers {}, linear_flops_ratio {:.3f}\n",
        path, adapter.method, fmt::join(adapter.skip.layers, ", "),
        adapter.linear_flops_ratio);
    return;
  }
  Print("{:<36} {:>7} {:>6} {:>9} {:>8}\n", "module", "rows", "d", "density",
        "error");
  for (const auto& [name, rank] : adapter.ranks) {
    Print("{:<36} {:>7} {:>6} {:>9.3f} {:>8.4f}\n", name, rank.rows, rank.d,
          rank.density, rank.error);
  }
  for (const auto& [kind, masks] : Masks(adapter)) {
    for (const auto& [name, mask] : *masks) {
      Print("{:<36} {:>7} {:>6} {:>9.3f} {:>8.4f}\n", name, "", kind,
            mask.density, mask.error);
    }
  }
  std::map<std::pair<std::string, std::string>, size_t> left_dense;
  for (const auto& [name, reason] : adapter.left_dense) {
    ++left_dense[{KindOf(name), reason}];
  }
  for (const auto& [kind, count] : left_dense) {
    Print("{} of {} layers stays dense: {}\n", kind.first, count, kind.second);
  }
  const auto time = adapter.parameters.find("predicted_time_ratio");
  Print(
      "{}: {}, linear_flops_ratio {:.3f}{} (asked for {:.3f}), calibrated on "
      "{} tokens\n",
      path, adapter.method, adapter.linear_flops_ratio,
      time == adapter.parameters.end() ? "" : ", of the time " + time->second,
      adapter.keep, adapter.calibration_tokens);
}

Json ToJson(const A3Summary& summary, const std::string& out) {
  Json layers = Json::array();
  for (size_t layer = 0; layer < summary.config.layers; ++layer) {
    Json lost = Json::object();
    for (size_t i = 0; i < kComponents; ++i) {
      lost[NameOf(static_cast<Component>(i))] =
          Rounded(summary.losses[layer][i]);
    }
    layers.push_back({{"qk", summary.config.qk_dim(layer)},
                      {"ov", summary.config.vo_dim(layer)},
                      {"mlp", summary.config.mlp_width(layer)},
                      {"lost", lost}});
  }
  return {{"method", "a3"},
          {"linear_flops_ratio", Rounded(summary.linear_flops_ratio)},
          {"calibration_tokens", summary.calibration_tokens},
          {"layers", layers},
          {"model", out}};
}

void PrintSummary(const A3Summary& summary, const std::string& out) {
  Print("{:>5} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9}\n", "layer", "qk", "ov",
        "mlp", "qk lost", "ov lost", "mlp lost");
  for (size_t layer = 0; layer < summary.config.layers; ++layer) {
    const auto& [qk, ov, mlp] = summary.losses[layer];
    Print("{:>5} {:>6} {:>6} {:>7} {:>9.4f} {:>9.4f} {:>9.4f}\n", layer,
          summary.config.qk_dim(layer), summary.config.vo_dim(layer),
          summary.config.mlp_width(layer), qk, ov, mlp);
  }
  Print(
      "{}: {:.3f} of the parameters of the linear layers, calibrated on {} "
      "tokens\n",
      out, summary.linear_flops_ratio, summary.calibration_tokens);
}

// --objective: bytes are multiply-adds times what a weight takes, which is the
// same in all layers.
Result<std::optional<CostModel>> TimesOf(const AdaptArguments& arguments) {
  const std::string& path = arguments.common.table;
  if (arguments.objective != "time") {
    if (const auto activations = arguments.common.activations) {
      return UsageError(fmt::format(
          "--activations {}: says which times --objective time asks for; "
          "leave it out with --objective {}",
          Name(*activations), arguments.objective));
    }
    if (path.empty()) return std::optional<CostModel>();
    return UsageError(fmt::format("--table {}: --objective {} asks no table",
                                  path, arguments.objective));
  }
  if (path.empty()) {
    return UsageError(
        "--objective time: name the --table that `rankforge tune` wrote for "
        "this model with an adapter");
  }
  // Of whatever CPU: the adapter is made for that one.
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable table,
                             DispatchTable::LoadUnbound(path));
  const WeightType type = *WeightTypeNamed(arguments.common.dtype);
  const Activations activations =
      arguments.common.activations.value_or(DefaultActivations(type));
  RANKFORGE_RETURN_IF_ERROR(CheckWeightsTake(activations, {&type, 1}));
  RANKFORGE_ASSIGN_OR_RETURN(const ProductTimes times,
                             FitProductTimes(path, table, type, activations,
                                             arguments.common.threads));
  const double bytes = WeightBytes(type, 1);
  const auto cost = [&](const ProductTime& time) {
    return ProductCost{time.fixed_ns, time.ns_per_run,
                       time.ns_per_byte * bytes};
  };
  return std::optional(CostModel{cost(times.dense), cost(times.column_mask)});
}

// An option that changes nothing is a mistake of who gave it.
Status CheckReaders(const AdaptArguments& arguments) {
  const std::string& method = arguments.options.method;
  for (const auto& [option, readers] : arguments.readers) {
    if (option->count() == 0 ||
        std::find(readers.begin(), readers.end(), method) != readers.end()) {
      continue;
    }
    return UsageError(
        fmt::format("{}: method {} has no use for it, only {}; leave it out",
                    option->get_name(), method, fmt::join(readers, ", ")));
  }
  return {};
}

// A text for methods that calibrate on one, and for no others.
Status CheckText(const AdaptArguments& arguments, const Method& method) {
  const TokenSource& source = arguments.calibration;
  const bool given = !source.text.empty() || !source.ids.empty();
  if (method.needs_text && !given) {
    return UsageError(
        fmt::format("method {}: calibrates on a text; give --calibration or "
                    "--calibration-ids (see --help)",
                    method.name));
  }
  if (!method.needs_text && (given || source.bos != BosMode::kAuto)) {
    return UsageError(fmt::format(
        "--calibration, --calibration-ids, --bos: method {} has no use for "
        "them; leave them out",
        method.name));
  }
  return {};
}

// Prints what `made`, a Result of what `path` now holds, says of it.
template <class Made>
Status Report(const Made& made, const std::string& path, bool json) {
  RANKFORGE_RETURN_IF_ERROR(made.status());
  if (json) {
    PrintJson(ToJson(*made, path));
  } else {
    PrintSummary(*made, path);
  }
  return {};
}

Status RunAdapt(const AdaptArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckReaders(arguments));
  const Method& method = *MethodNamed(arguments.options.method);
  RANKFORGE_RETURN_IF_ERROR(CheckText(arguments, method));
  const std::string& out = arguments.out;
  if (method.makes != Makes::kCheckpoint) {
    RANKFORGE_RETURN_IF_ERROR(
        CheckOutput(out, {arguments.model, arguments.calibration.text,
                          arguments.calibration.ids, arguments.common.table}));
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             OpenCheckpoint(arguments.model));
  std::vector<int> ids;
  if (method.needs_text) {
    RANKFORGE_ASSIGN_OR_RETURN(ids,
                               LoadIds(arguments.model, arguments.calibration));
  }
  AdaptOptions options = arguments.options;
  RANKFORGE_ASSIGN_OR_RETURN(options.times, TimesOf(arguments));
  options.threads = arguments.common.threads;
  options.seed = arguments.common.seed;
  options.bos = RecordedBos(arguments.calibration);
  const std::string state =
      arguments.state.empty() ? out + ".state" : arguments.state;
  RANKFORGE_ASSIGN_OR_RETURN(const LockFile lock, LockFile::Take(state));
  // Ends before the result is printed.
  const auto with_progress = [&](const auto& make) {
    Progress progress("adapt");
    const InterruptScope interrupts;
    options.cancelled = InterruptScope::Asked;
    options.progress = [&](size_t done, size_t total, const std::string& what,
                           std::optional<double> seconds_left) {
      progress.Update(done, total, what, seconds_left);
    };
    return make(checkpoint, ids, options, state, out);
  };
  const bool json = arguments.common.json;
  return method.makes != Makes::kCheckpoint
             ? Report(with_progress(AdaptToFile), out, json)
             : Report(with_progress(ShrinkToFolder), out, json);
}

// The methods that read an option.
std::vector<std::string> ReadersOf(std::string_view option) {
  std::vector<std::string> readers;
  for (const Method& method : Methods()) {
    if (method.Reads(option)) readers.push_back(method.name);
  }
  return readers;
}

// Adds what the command line has for each of the options (VisitOptions).
class OptionAdder {
 public:
  OptionAdder(CLI::App& command, AdaptArguments& arguments)
      : command_(command), arguments_(arguments) {}

  void operator()(const OptionInfo& info, std::string& method) {
    if (info.common) return;
    std::vector<std::string> names;
    for (const Method& known : Methods()) names.push_back(known.name);
    command_.add_option(Flag(info.name), method, info.help)
        ->check(CLI::IsMember(names));
  }
  void operator()(const OptionInfo& info, double& keep) {
    Reads(info, AddKeep(command_, keep));
  }
  void operator()(const OptionInfo& info, size_t& value) {
    if (info.common) return;
    Reads(info, Home(info)
                    .add_option(Flag(info.name), value, info.help)
                    ->check(WholeFrom(value > 0 && !info.may_be_zero ? 1 : 0)));
  }
  void operator()(const OptionInfo& info, bool& value) {
    Reads(info, Home(info).add_flag_callback(
                    Flag(info.flag == nullptr ? info.name : info.flag),
                    [&value] { value = !value; }, info.help));
  }
  template <class Enum>
  void operator()(const OptionInfo& info, std::set<Enum>& values) {
    const auto set = [&values](const std::vector<std::string>& given) {
      const std::vector<std::string>& names = NamesOf(Enum{});
      values.clear();
      for (const std::string& name : given) {
        values.insert(static_cast<Enum>(
            std::find(names.begin(), names.end(), name) - names.begin()));
      }
    };
    Reads(info, Home(info)
                    .add_option_function<std::vector<std::string>>(
                        Flag(info.name), set, info.help)
                    ->delimiter(',')
                    ->check(CLI::IsMember(NamesOf(Enum{}))));
  }
  void operator()(
      const OptionInfo& info,
      std::array<std::optional<double>, kComponents>& component_keep) {
    for (size_t i = 0; i < kComponents; ++i) {
      Reads(info, Home(info)
                      .add_option("--keep-" + NameOf(static_cast<Component>(i)),
                                  component_keep[i], info.help)
                      ->check(NumberFrom(0, 1)));
    }
  }
  // The times of a table are read when the options are complete.
  void operator()(const OptionInfo& info, std::optional<CostModel>&) {
    Reads(info, command_
                    .add_option("--objective", arguments_.objective,
                                "What --keep is a share of: multiply-adds "
                                "(flops), bytes read (the same: all layers "
                                "have one type), or time by the dispatch table "
                                "of --table, for weights of --dtype on "
                                "--threads")
                    ->check(CLI::IsMember({"flops", "bytes", "time"})));
    Reads(info, AddTableOption(command_, arguments_.common)
                    ->description("Dispatch table of --objective time"));
    Reads(info, AddWeightType(command_, arguments_.common)
                    ->description("Type of the weights of --objective time"));
    Reads(info, AddActivations(command_, arguments_.common)
                    ->description("Activations of --objective time; not given: "
                                  "i8 for integer weights, else f32"));
  }
  template <class Signature>
  void operator()(const OptionInfo&, std::function<Signature>&) {}

 private:
  static std::string Flag(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return "--" + name;
  }
  // What one method alone reads stands in a group of its own in --help.
  CLI::App& Home(const OptionInfo& info) {
    const std::vector<std::string> readers = ReadersOf(info.name);
    if (readers.size() != 1) return command_;
    CLI::App*& group = groups_[readers.front()];
    if (group == nullptr) {
      group = command_.add_option_group("method " + readers.front());
    }
    return *group;
  }
  void Reads(const OptionInfo& info, const CLI::Option* option) {
    std::vector<std::string> readers = ReadersOf(info.name);
    if (readers.empty()) return;
    arguments_.readers.emplace_back(option, std::move(readers));
  }

  CLI::App& command_;
  AdaptArguments& arguments_;
  std::map<std::string, CLI::App*> groups_;
};

}  // namespace

void AddAdapt(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "adapt",
      "Make an adapter or a smaller checkpoint from a calibration text");
  auto arguments = std::make_shared<AdaptArguments>();
  AddModel(*command, arguments->model)->required();
  // At most: some methods need no text (CheckText).
  AddCalibration(*command, "calibrate on", arguments->calibration)
      .require_option(0, 1);
  command
      ->add_option("--out", arguments->out,
                   "Adapter to write; with method a3, folder")
      ->required();
  VisitOptions(arguments->options, OptionAdder(*command, *arguments));
  arguments->readers.emplace_back(
      command->add_option("--state", arguments->state,
                          "Folder for unfinished work, from which a killed run "
                          "goes on (default: <out>.state)"),
      ReadersOf("state"));
  AddThreads(*command, arguments->common);
  arguments->readers.emplace_back(AddSeed(*command, arguments->common),
                                  ReadersOf("seed"));
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunAdapt, arguments);
}

}  // namespace rankforge
