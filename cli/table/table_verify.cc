// `rankforge table verify` measures what a table's choices cost.
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "cli/support/options.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "cli/table/table_commands.h"
#include "runtime/table/table.h"
#include "tuner/search/space.h"
#include "tuner/sequence.h"
#include "tuner/verify.h"

namespace rankforge {
namespace {

struct VerifyArguments {
  CommonOptions common;
  WorkloadOptions workloads;
  std::string table;
  std::string against;
  std::string match;
  size_t rounds = 9;
  bool sequence = false;
  bool allow_noise = false;
  double max_regret = 1;
};

// The share of time lost; a gain is noise and counts as none.
double Lost(const TimeRatio& regret) { return std::max(0.0, regret.value - 1); }

// Median and worst over all entries, or all buckets.
struct Spread {
  double median = 0;
  double worst = 0;
};

Spread SpreadOf(const std::vector<double>& values) {
  if (values.empty()) return {};
  return {Median(values), *std::max_element(values.begin(), values.end())};
}

struct Summary {
  Spread entries;       // regret of layout, threads and variants together
  Spread buckets;       // regret of single variants
  double slowest = 1;   // least median of default / chosen, over entries
  double exceeded = 0;  // largest regret, less its error
};

Summary Summarise(const VerifyReport& report) {
  Summary summary;
  std::vector<double> entries, buckets;
  for (const VerifiedEntry& entry : report.entries) {
    entries.push_back(Lost(entry.regret));
    summary.slowest = entries.size() == 1
                          ? entry.vs_default.value
                          : std::min(summary.slowest, entry.vs_default.value);
    summary.exceeded =
        std::max(summary.exceeded, entry.regret.value - 1 - entry.regret.error);
    for (const VerifiedBucket& bucket : entry.by_density) {
      buckets.push_back(Lost(bucket.regret));
    }
  }
  summary.entries = SpreadOf(entries);
  summary.buckets = SpreadOf(buckets);
  return summary;
}

Json ToJson(const TimeRatio& ratio) {
  return {{"value", Rounded(ratio.value)}, {"error", Rounded(ratio.error, 3)}};
}

Json ToJson(const Spread& spread) {
  return {{"median", Rounded(spread.median, 4)},
          {"worst", Rounded(spread.worst, 4)}};
}

Json ToJson(const VerifiedEntry& entry) {
  Json buckets = Json::array();
  for (const VerifiedBucket& bucket : entry.by_density) {
    buckets.push_back({{"density", Rounded(bucket.density)},
                       {"weight", Rounded(bucket.weight)},
                       {"variant", bucket.chosen},
                       {"ns", Rounded(bucket.chosen_ns)},
                       {"rival", bucket.rival},
                       {"against_rival", ToJson(bucket.regret)},
                       {"vs_default", ToJson(bucket.vs_default)}});
  }
  return {{"problem", ToJson(entry.problem)},
          {"layers", entry.layers},
          {"layout", Name(entry.layout)},
          {"threads", entry.threads},
          {"rival_layout", Name(entry.rival_layout)},
          {"rival_threads", entry.rival_threads},
          {"ns", Rounded(entry.chosen_ns)},
          {"against_rival", ToJson(entry.regret)},
          {"vs_default", ToJson(entry.vs_default)},
          {"by_density", buckets}};
}

Json ToJson(const SequenceReport& report) {
  return {{"products", report.products},
          {"default_ms", Rounded(report.default_ns / 1e6)},
          {"chosen_ms", Rounded(report.chosen_ns / 1e6)},
          {"best_ms", Rounded(report.best_ns / 1e6)},
          {"against_best", ToJson(report.regret)},
          {"vs_default", ToJson(report.vs_default)}};
}

void PrintEntry(const VerifiedEntry& entry) {
  Print("\n{}, {} layers\n", entry.problem.ToString(), entry.layers.size());
  Print(
      "  {} with {} threads: {:.1f} us, {:+.1f} % (+-{:.1f}) against {} with "
      "{}; default {:.2f}x (+-{:.2f})\n",
      Name(entry.layout), entry.threads, entry.chosen_ns / 1e3,
      100 * (entry.regret.value - 1), 100 * entry.regret.error,
      Name(entry.rival_layout), entry.rival_threads, entry.vs_default.value,
      entry.vs_default.error);
  for (const VerifiedBucket& bucket : entry.by_density) {
    Print(
        "  density {:<5.3g} {:9.1f} us {:+6.1f} % (+-{:.1f})  default "
        "{:.2f}x  {}{}\n",
        bucket.density, bucket.chosen_ns / 1e3, 100 * (bucket.regret.value - 1),
        100 * bucket.regret.error, bucket.vs_default.value, bucket.chosen,
        bucket.rival == bucket.chosen ? "" : " against " + bucket.rival);
  }
}

void PrintReport(const VerifyArguments& arguments, const VerifyReport& report,
                 const std::optional<SequenceReport>& sequence) {
  for (const VerifiedEntry& entry : report.entries) {
    PrintEntry(entry);
    // Where tables differ, the reader asks for the layers.
    if (!arguments.against.empty()) {
      Print("  layers: {}\n", fmt::join(entry.layers, ", "));
    }
  }
  const Summary summary = Summarise(report);
  Print(
      "\n{} entries against {}: time lost {:.1f} % in the median, {:.1f} % at "
      "worst; by single variants {:.1f} % and {:.1f} %; against the default "
      "{:.2f}x at least; read bandwidth {:.1f} GB/s\n",
      report.entries.size(),
      arguments.against.empty() ? "all candidates" : arguments.against,
      100 * summary.entries.median, 100 * summary.entries.worst,
      100 * summary.buckets.median, 100 * summary.buckets.worst,
      summary.slowest, report.read_gbps);
  if (!sequence) return;
  Print(
      "{} products in order: default {:.2f} ms, chosen {:.2f} ms ({:.2f}x "
      "+-{:.2f}), best of each {:.2f} ms ({:+.1f} % +-{:.1f})\n",
      sequence->products, sequence->default_ns / 1e6, sequence->chosen_ns / 1e6,
      sequence->vs_default.value, sequence->vs_default.error,
      sequence->best_ns / 1e6, 100 * (sequence->regret.value - 1),
      100 * sequence->regret.error);
}

void PrintReportJson(const VerifyArguments& arguments,
                     const DispatchTable& table, const VerifyReport& report,
                     const std::optional<SequenceReport>& sequence) {
  const Summary summary = Summarise(report);
  Json entries = Json::array();
  for (const VerifiedEntry& entry : report.entries) {
    entries.push_back(ToJson(entry));
  }
  PrintJson({{"table", arguments.table},
             {"against", arguments.against.empty() ? Json(nullptr)
                                                   : Json(arguments.against)},
             {"cold", table.policy.cold},
             {"read_gbps", Rounded(report.read_gbps)},
             {"regret", ToJson(summary.entries)},
             {"variant_regret", ToJson(summary.buckets)},
             {"least_vs_default", Rounded(summary.slowest, 4)},
             {"sequence", sequence ? ToJson(*sequence) : Json(nullptr)},
             {"entries", entries}});
}

Result<DispatchTable> LoadUsable(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table, DispatchTable::Load(path));
  PrintNotes(table.notes());
  if (!table.usable()) {
    return Failed(path +
                  ": measured on another CPU; run `rankforge tune` here");
  }
  return table;
}

Status RunVerify(const VerifyArguments& arguments) {
  const WorkloadOptions& from = arguments.workloads;
  if (arguments.sequence && from.model.empty() && from.preset.empty() &&
      from.shapes.empty()) {
    return UsageError(
        "--sequence requires --model, --preset or --shapes (see --help)");
  }
  RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table, LoadUsable(arguments.table));
  std::erase_if(table.entries, [&](const TableEntry& entry) {
    return entry.problem.ToString().find(arguments.match) == std::string::npos;
  });
  std::optional<DispatchTable> rival;
  if (!arguments.against.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(rival, LoadUsable(arguments.against));
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      std::vector<Workload> workloads,
      LoadWorkloads(arguments.workloads, arguments.common,
                    arguments.common.threads));
  workloads = MergeEqualProblems(workloads);

  VerifyOptions options;
  options.rounds = arguments.rounds;
  options.seed = arguments.common.seed;
  options.cold = table.policy.cold;
  options.allow_noise = arguments.allow_noise;
  Result<VerifyReport> report = [&] {
    Progress progress("verify");
    options.progress = [&](const TuneProgress& state) {
      progress.Update(state.done, state.total, state.message,
                      state.seconds_left);
    };
    return Verify(table, rival ? &*rival : nullptr, workloads, options);
  }();
  if (!report.ok()) return report.status();
  std::optional<SequenceReport> sequence;
  if (arguments.sequence) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::vector<Problem> problems,
        LoadSequence(arguments.workloads, arguments.common,
                     arguments.common.threads));
    RANKFORGE_ASSIGN_OR_RETURN(
        sequence, VerifySequence(table, *report, workloads, problems, options));
  }
  if (arguments.common.json) {
    PrintReportJson(arguments, table, *report, sequence);
  } else {
    PrintReport(arguments, *report, sequence);
  }
  const double exceeded = Summarise(*report).exceeded;
  if (arguments.against.empty() && exceeded > arguments.max_regret) {
    return Failed(fmt::format(
        "{}: an entry loses {:.1f} % beyond its noise, --max-regret is {:.1f} "
        "%; run `rankforge tune` again",
        arguments.table, 100 * exceeded, 100 * arguments.max_regret));
  }
  return {};
}

}  // namespace

void AddTableVerify(CLI::App& table, Action& action) {
  CLI::App* verify = table.add_subcommand(
      "verify",
      "Measure a table's choices again, beside all candidates and the default");
  auto arguments = std::make_shared<VerifyArguments>();
  verify->add_option("TABLE", arguments->table, "Dispatch table")
      ->required()
      ->check(CLI::ExistingFile);
  AddWorkloadOptions(*verify, arguments->workloads, arguments->common,
                     /*needed=*/false);
  verify
      ->add_option("--against", arguments->against,
                   "Compare with the choices of this table instead, where they "
                   "differ")
      ->check(CLI::ExistingFile);
  verify->add_option("--match", arguments->match,
                     "Only entries whose problem, as `table show` prints it, "
                     "contains this");
  verify
      ->add_option(
          "--rounds", arguments->rounds,
          "Rounds of all candidates; finalists run three times as many")
      ->check(CLI::Range(size_t{kMinSamples}, size_t{1000}));
  verify->add_flag("--sequence", arguments->sequence,
                   "Also run the products of one token in order, untuned, "
                   "chosen and best; needs --model, --preset or --shapes");
  verify
      ->add_option("--max-regret", arguments->max_regret,
                   "Fail if an entry loses more than this share of time, "
                   "beyond its noise")
      ->check(NumberFrom(0, 100));
  AddAllowNoise(*verify, arguments->allow_noise);
  AddThreads(*verify, arguments->common);
  AddSeed(*verify, arguments->common);
  AddJson(*verify, arguments->common);
  AddPlugins(*verify, action);
  SetAction(*verify, action, RunVerify, arguments);
}

}  // namespace rankforge
