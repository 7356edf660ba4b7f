// `rankforge adapt`: calibrates on a text and writes an adapter.
#include "adapt/adapt.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "cli/commands/adapt_a3.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "runtime/table/product_times.h"

namespace rankforge {
namespace {

struct AdaptArguments {
  CommonOptions common;
  AdaptOptions options;
  A3Arguments a3;
  std::string model;
  TokenSource calibration;
  std::vector<std::string> without;
  std::string objective = "flops";
  std::string out;
  std::string state;
  bool exact_d = false;
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
  return document;
}

void PrintSummary(const Adapter& adapter, const std::string& path) {
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

// --objective: bytes are multiply-adds times what a weight takes, which is the
// same in all layers.
Result<std::optional<CostModel>> TimesOf(const AdaptArguments& arguments) {
  const std::string& path = arguments.common.table;
  if (arguments.objective != "time") {
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
  RANKFORGE_ASSIGN_OR_RETURN(
      const ProductTimes times,
      FitProductTimes(path, table, type, arguments.common.threads));
  const double bytes = WeightBytes(type, 1);
  const auto cost = [&](const ProductTime& time) {
    return ProductCost{time.fixed_ns, time.ns_per_run,
                       time.ns_per_byte * bytes};
  };
  return std::optional(CostModel{cost(times.dense), cost(times.column_mask)});
}

// The method that writes a checkpoint, not an adapter.
constexpr char kA3[] = "a3";

std::vector<std::string> AllMethods() {
  std::vector<std::string> methods = AdaptMethods();
  methods.push_back(kA3);
  return methods;
}

std::vector<std::string> AllRefinements() {
  std::vector<std::string> names = RefinementNames();
  names.insert(names.end(), A3RefinementNames().begin(),
               A3RefinementNames().end());
  return names;
}

A3Arguments ForA3(const AdaptArguments& arguments) {
  A3Arguments a3 = arguments.a3;
  a3.options.keep = arguments.options.keep;
  a3.options.window = arguments.options.window;
  a3.options.calibration_tokens = arguments.options.calibration_tokens;
  a3.options.threads = arguments.common.threads;
  a3.options.seed = arguments.common.seed;
  a3.without = arguments.without;
  a3.out = arguments.out;
  a3.json = arguments.common.json;
  return a3;
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

Status RunAdapt(const AdaptArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckReaders(arguments));
  const bool shrinks = arguments.options.method == kA3;
  if (!shrinks) RANKFORGE_RETURN_IF_ERROR(CheckWritable(arguments.out));
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             Checkpoint::Open(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<int> ids,
                             LoadIds(arguments.model, arguments.calibration));
  if (shrinks) return RunA3(ForA3(arguments), checkpoint, ids);

  AdaptOptions options = arguments.options;
  RANKFORGE_ASSIGN_OR_RETURN(options.times, TimesOf(arguments));
  options.round_d = !arguments.exact_d;
  for (const std::string& name : arguments.without) {
    const auto& names = RefinementNames();
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      return UsageError(
          fmt::format("--without {}: method a3 alone can leave it out", name));
    }
    options.without.insert(static_cast<Refinement>(found - names.begin()));
  }
  options.threads = arguments.common.threads;
  options.seed = arguments.common.seed;
  Result<Adapter> adapter = [&] {
    Progress progress("adapt");
    options.progress = [&](size_t done, size_t total, const std::string& what,
                           std::optional<double> seconds_left) {
      progress.Update(done, total, what, seconds_left);
    };
    return AdaptToFile(
        checkpoint, ids, options,
        arguments.state.empty() ? arguments.out + ".state" : arguments.state,
        arguments.out);
  }();
  if (!adapter.ok()) return adapter.status();
  if (arguments.common.json) {
    PrintJson(ToJson(*adapter, arguments.out));
  } else {
    PrintSummary(*adapter, arguments.out);
  }
  return {};
}

}  // namespace

void AddAdapt(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "adapt", "Make an adapter for a checkpoint from a calibration text");
  auto arguments = std::make_shared<AdaptArguments>();
  AdaptOptions& options = arguments->options;
  AddModel(*command, arguments->model)->required();
  AddCalibration(*command, "calibrate on", arguments->calibration);
  command->add_option("--method", options.method, "How to adapt")
      ->check(CLI::IsMember(AllMethods()));
  command
      ->add_option("--without", arguments->without,
                   "What method rana or a3 leaves out, to see what it is "
                   "worth")
      ->check(CLI::IsMember(AllRefinements()));
  AddKeep(*command, options.keep);
  std::vector<CLI::Option*> of_adapters;
  of_adapters.push_back(
      command
          ->add_option(
              "--objective", arguments->objective,
              "What --keep is a share of: multiply-adds (flops), bytes read "
              "(the same: all layers have one type), or time by the dispatch "
              "table of --table, for weights of --dtype on --threads")
          ->check(CLI::IsMember({"flops", "bytes", "time"})));
  of_adapters.push_back(
      AddTableOption(*command, arguments->common)
          ->description("Dispatch table that --objective time rests on"));
  of_adapters.push_back(
      AddWeightType(*command, arguments->common)
          ->description("Type of the weights that --objective time is about"));
  command
      ->add_option("--out", arguments->out,
                   "Adapter to write; with method a3, folder")
      ->required();
  command
      ->add_option("--tokens", options.calibration_tokens,
                   "Hidden vectors to calibrate each layer on")
      ->check(CLI::PositiveNumber);
  CLI::Option* split_tokens =
      command
          ->add_option("--split-tokens", options.split_tokens,
                       "Of them, for the split of an MLP's budget (rana-paper)")
          ->check(CLI::PositiveNumber);
  CLI::Option* probe_blocks =
      command
          ->add_option("--probe-blocks", options.probe_blocks,
                       "Blocks whose effect on predictions rana measures; 0: "
                       "all of a small model, a few of a deep one")
          ->check(CLI::NonNegativeNumber);
  CLI::Option* probe_tokens =
      command
          ->add_option("--probe-tokens", options.probe_tokens,
                       "Tokens that it is measured on; 0: as many as are "
                       "worth it")
          ->check(CLI::NonNegativeNumber);
  of_adapters.push_back(
      command->add_option("--state", arguments->state,
                          "Folder for unfinished work, from which a killed "
                          "run goes on (default: <out>.state)"));
  command
      ->add_option("--window", options.window,
                   "Tokens of a calibration sequence")
      ->check(CLI::PositiveNumber);
  CLI::Option* exact_d = command->add_flag(
      "--exact-d", arguments->exact_d,
      "Do not round inner dimensions to multiples of 64 (16 below 1024)");
  auto& readers = arguments->readers;
  for (CLI::Option* option : AddA3Options(*command, arguments->a3)) {
    readers.push_back({option, {kA3}});
  }
  for (CLI::Option* option : of_adapters) {
    readers.push_back({option, AdaptMethods()});
  }
  readers.push_back({split_tokens, {"rana-paper"}});
  readers.push_back({probe_blocks, {"rana"}});
  readers.push_back({probe_tokens, {"rana"}});
  readers.push_back({exact_d, {"rana", "rana-paper", "svd"}});
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunAdapt, arguments);
}

}  // namespace rankforge
