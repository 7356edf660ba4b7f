// `rankforge tune`: measures every problem of a model on this CPU and writes
// the dispatch table.
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string_view>

#include "base/lock_file.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "cli/support/trace.h"
#include "runtime/table/cpu.h"
#include "tuner/tuner.h"

namespace rankforge {
namespace {

struct TuneArguments {
  CommonOptions common;
  WorkloadOptions workloads;
  std::vector<size_t> threads;  // one set of entries for each
  std::string trace;
  std::string out;
  Rigor rigor = Rigor::kMeasure;
  double budget_seconds = 90;
  bool resume = false;
  bool allow_noise = false;
  bool warm = false;
  bool cold = false;
};

Result<std::vector<Workload>> WorkloadsOfAllThreadCounts(
    const TuneArguments& arguments) {
  std::vector<Workload> all;
  for (const size_t threads : arguments.threads) {
    RANKFORGE_ASSIGN_OR_RETURN(
        std::vector<Workload> workloads,
        LoadWorkloads(arguments.workloads, arguments.common, threads));
    all.insert(all.end(), std::make_move_iterator(workloads.begin()),
               std::make_move_iterator(workloads.end()));
  }
  return all;
}

// A model that fits the last-level cache runs from it, so that is where its
// kernels are measured; the problems of a shapes file belong to no model.
bool RunsCold(const TuneArguments& arguments,
              const std::vector<Workload>& workloads) {
  if (arguments.cold || arguments.warm) return arguments.cold;
  if (!arguments.workloads.shapes.empty()) return true;
  const size_t bytes = WeightBytes(workloads) / arguments.threads.size();
  return bytes > CpuInfo::Detect().l3_bytes;
}

size_t CountLayers(const DispatchTable& table) {
  std::set<std::string_view> layers;
  for (const TableEntry& entry : table.entries) {
    layers.insert(entry.layers.begin(), entry.layers.end());
  }
  return layers.size();
}

TuneOptions OptionsOf(const TuneArguments& arguments, bool cold) {
  TuneOptions options;
  options.rigor = arguments.rigor;
  options.budget_seconds = arguments.budget_seconds;
  options.seed = arguments.common.seed;
  options.integers_on_rows = arguments.common.has_stored_blocks() ||
                             arguments.common.has_stored_lm_head();
  options.allow_noise = arguments.allow_noise;
  options.cold = cold;
  options.journal = arguments.out + ".journal.jsonl";
  options.resume = arguments.resume;
  return options;
}

void PrintTable(const TuneArguments& arguments, const DispatchTable& table,
                double seconds, bool cold) {
  const size_t layers = CountLayers(table);
  if (arguments.common.json) {
    PrintJson({{"layers", layers},
               {"entries", table.entries.size()},
               {"seconds", Rounded(seconds, 4)},
               {"table", arguments.out},
               {"cold", cold},
               {"read_gbps",
                table.environment.read_gbps.empty()
                    ? Json(nullptr)
                    : Json(table.environment.read_gbps.rbegin()->second)},
               {"confidence", table.environment.confidence}});
    return;
  }
  Print(
      "{}: {} entries for {} layers in {:.0f} s, weights {}; "
      "`rankforge table show {}` prints them\n",
      arguments.out, table.entries.size(), layers, seconds,
      cold ? "cold" : "in cache", arguments.out);
  if (table.environment.confidence == "low") {
    PrintMessage(
        fmt::format("low confidence: {}", table.environment.confidence_reason));
  }
}

Status RunTune(const TuneArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckOutput(
      arguments.out, {arguments.workloads.model, arguments.workloads.shapes,
                      arguments.common.adapter, arguments.trace}));
  RANKFORGE_ASSIGN_OR_RETURN(const LockFile lock,
                             LockFile::Take(arguments.out));
  RANKFORGE_ASSIGN_OR_RETURN(std::vector<Workload> workloads,
                             WorkloadsOfAllThreadCounts(arguments));
  if (!arguments.trace.empty()) {
    RANKFORGE_RETURN_IF_ERROR(RecordTrace(arguments.trace,
                                          arguments.workloads.model,
                                          arguments.common, workloads));
  }
  TuneOptions options = OptionsOf(arguments, RunsCold(arguments, workloads));
  const auto start = std::chrono::steady_clock::now();
  Result<DispatchTable> table = [&] {
    Progress progress("tune");
    options.progress = [&](const TuneProgress& state) {
      progress.Update(state.done, state.total, state.message,
                      state.seconds_left);
    };
    return Tune(workloads, options);
  }();
  if (!table.ok()) return table.status();
  RANKFORGE_RETURN_IF_ERROR(table->Save(arguments.out));
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  PrintTable(arguments, *table, seconds.count(), options.cold);
  return {};
}

}  // namespace

void AddTune(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "tune", "Measure the kernels for a model on this CPU, write a table");
  auto arguments = std::make_shared<TuneArguments>();
  arguments->threads = {arguments->common.threads};
  AddWorkloadOptions(*command, arguments->workloads, arguments->common);
  command
      ->add_option("--threads", arguments->threads,
                   "Threads to tune for; several counts, 1,2, share a table")
      ->delimiter(',')
      ->check(CLI::Range(size_t{1}, arguments->common.threads, "usable cores"))
      ->default_str("all");
  command
      ->add_option("--trace", arguments->trace,
                   "Text whose first tokens the model runs; kernels are "
                   "measured with the masks of that run. Not given: with masks "
                   "drawn from the frequencies that the adapter recorded")
      ->needs(command->get_option("--adapter"))
      ->check(CLI::ExistingFile);
  command->add_option("--out", arguments->out, "Table to write")->required();
  std::map<std::string, Rigor> rigors;
  for (const Rigor rigor : kRigors) rigors.emplace(Name(rigor), rigor);
  command->add_option("--rigor", arguments->rigor, "How much to measure")
      ->transform(CLI::CheckedTransformer(rigors))
      ->default_str(std::string(Name(arguments->rigor)));
  command
      ->add_option("--budget", arguments->budget_seconds,
                   "Approximate time to take; 90, 90s and 1.5min are the same")
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, double>{{"s", 1}, {"min", 60}, {"h", 3600}},
          CLI::AsNumberWithUnit::DEFAULT, "TIME"));
  command->add_flag("--resume", arguments->resume,
                    "Continue from the journal beside the table");
  AddAllowNoise(*command, arguments->allow_noise);
  CLI::Option* cold = command->add_flag(
      "--cold", arguments->cold,
      "Weights come from memory; not given: if the model exceeds the cache");
  command
      ->add_flag("--warm", arguments->warm,
                 "Weights come from the cache, whatever fits there")
      ->excludes(cold);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunTune, arguments);
}

}  // namespace rankforge
