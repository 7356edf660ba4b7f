// `rankforge adapt`: calibrates on a text and writes an adapter.
#include "adapt/adapt.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/token_ids.h"

namespace rankforge {
namespace {

struct AdaptArguments {
  CommonOptions common;
  AdaptOptions options;
  std::string model;
  std::string calibration;
  std::string ids;
  std::vector<std::string> without;
  std::string out;
  std::string state;
  bool exact_d = false;
};

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
  for (const auto& [name, mask] : adapter.masks) {
    modules[name] = {{"kind", "mask"},
                     {"cols", mask.cols},
                     {"density", Rounded(mask.density)},
                     {"error", Rounded(mask.error)}};
  }
  return {{"method", adapter.method},
          {"keep", adapter.keep},
          {"linear_flops_ratio", Rounded(adapter.linear_flops_ratio)},
          {"calibration_tokens", adapter.calibration_tokens},
          {"modules", modules},
          {"left_dense", adapter.left_dense},
          {"adapter", path}};
}

void PrintSummary(const Adapter& adapter, const std::string& path) {
  Print("{:<36} {:>7} {:>6} {:>9} {:>8}\n", "module", "rows", "d", "density",
        "error");
  for (const auto& [name, rank] : adapter.ranks) {
    Print("{:<36} {:>7} {:>6} {:>9.3f} {:>8.4f}\n", name, rank.rows, rank.d,
          rank.density, rank.error);
  }
  for (const auto& [name, mask] : adapter.masks) {
    Print("{:<36} {:>7} {:>6} {:>9.3f} {:>8.4f}\n", name, "", "mask",
          mask.density, mask.error);
  }
  std::map<std::pair<std::string, std::string>, size_t> left_dense;
  for (const auto& [name, reason] : adapter.left_dense) {
    ++left_dense[{KindOf(name), reason}];
  }
  for (const auto& [kind, count] : left_dense) {
    Print("{} of {} layers stays dense: {}\n", kind.first, count, kind.second);
  }
  Print(
      "{}: {}, linear_flops_ratio {:.3f} (asked for {:.3f}), calibrated on "
      "{} tokens\n",
      path, adapter.method, adapter.linear_flops_ratio, adapter.keep,
      adapter.calibration_tokens);
}

Status RunAdapt(const AdaptArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckWritable(arguments.out));
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             Checkpoint::Open(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> ids,
      LoadIds(arguments.model, arguments.calibration, arguments.ids));
  if (ids.empty()) {
    return Failed(
        (arguments.ids.empty() ? arguments.calibration : arguments.ids) +
        ": has no tokens; calibrate on a text like the one the model "
        "will see");
  }

  AdaptOptions options = arguments.options;
  options.round_d = !arguments.exact_d;
  for (const std::string& name : arguments.without) {
    const auto& names = RefinementNames();
    options.without.insert(static_cast<Refinement>(
        std::find(names.begin(), names.end(), name) - names.begin()));
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
  CLI::Option_group& source =
      *command->add_option_group("what to calibrate on");
  source
      .add_option("--calibration", arguments->calibration,
                  "Text to calibrate on")
      ->check(CLI::ExistingFile);
  source
      .add_option("--calibration-ids", arguments->ids,
                  "Token ids to calibrate on: a JSON list, or a safetensors "
                  "file with one tensor of I32 or I64")
      ->check(CLI::ExistingFile);
  source.require_option(1);
  command->add_option("--method", options.method, "How to adapt")
      ->check(CLI::IsMember(AdaptMethods()));
  command
      ->add_option("--without", arguments->without,
                   "What method rana leaves out, to see what it is worth")
      ->check(CLI::IsMember(RefinementNames()));
  AddKeep(*command, options.keep);
  command->add_option("--out", arguments->out, "Adapter to write")->required();
  command
      ->add_option("--tokens", options.calibration_tokens,
                   "Hidden vectors to calibrate each layer on")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--split-tokens", options.split_tokens,
                   "Of them, for the split of an MLP's budget (rana-paper)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option(
          "--probe-blocks", options.probe_blocks,
          "Blocks whose effect on predictions rana measures; 0: all of "
          "a small model, a few of a deep one")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--probe-tokens", options.probe_tokens,
                   "Tokens that it is measured on; 0: as many as are worth it")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--state", arguments->state,
                      "Folder for unfinished work, from which a killed run "
                      "goes on (default: <out>.state)");
  command
      ->add_option("--window", options.window,
                   "Tokens of a calibration sequence")
      ->check(CLI::PositiveNumber);
  command->add_flag("--exact-d", arguments->exact_d,
                    "Do not round inner dimensions to multiples of 64 (16 "
                    "below 1024)");
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  command->callback([&action, arguments] {
    action = [arguments] { return RunAdapt(*arguments); };
  });
}

}  // namespace rankforge
