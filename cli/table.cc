// `rankforge table show` prints a dispatch table, `table explain` what a model
// gets from it and why.
#include "runtime/table.h"

#include <fmt/ranges.h>

#include <array>
#include <memory>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/shapes.h"

namespace rankforge {
namespace {

struct ExplainArguments {
  CommonOptions common;
  WorkloadOptions workloads;
};

Json ToJson(const Problem& problem) {
  return {{"operation", Name(problem.operation)},
          {"rows", problem.rows},
          {"cols", problem.cols},
          {"type", Name(problem.type)},
          {"granularity", problem.granularity},
          {"batch", problem.batch},
          {"threads", problem.threads}};
}

Json ToJson(const Decision& decision) {
  Json buckets = Json::array();
  for (const Bucket& bucket : decision.by_density) {
    buckets.push_back({{"max_density", Rounded(bucket.max_density)},
                       {"variant", bucket.variant},
                       {"ns", Rounded(bucket.ns.median)},
                       {"useful_gbps", Rounded(bucket.useful_gbps)},
                       {"roofline", Rounded(bucket.roofline)},
                       {"vs_default", Rounded(bucket.vs_default)},
                       {"runner_up", bucket.runner_up}});
  }
  return {{"layout", Name(decision.layout)},
          {"threads", decision.threads},
          {"default", decision.default_variant},
          {"by_density", buckets}};
}

void PrintBuckets(const Decision& decision) {
  for (const Bucket& bucket : decision.by_density) {
    Print(
        "  density <= {:<5.3g} {:<52} {:9.1f} us {:6.1f} GB/s {:5.2f} of "
        "read {:6.2f}x default\n",
        bucket.max_density, bucket.variant, bucket.ns.median / 1e3,
        bucket.useful_gbps, bucket.roofline, bucket.vs_default);
  }
}

Status RunShow(const std::string& path, bool json) {
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable table,
                             DispatchTable::Load(path));
  PrintNotes(table.notes());
  if (json) {
    Json entries = Json::array();
    for (const TableEntry& entry : table.entries) {
      entries.push_back({{"problem", ToJson(entry.problem)},
                         {"layers", entry.layers},
                         {"decision", ToJson(entry.decision)}});
    }
    Json read_gbps = Json::object();
    for (const auto& [threads, gbps] : table.environment.read_gbps) {
      read_gbps[std::to_string(threads)] = Rounded(gbps);
    }
    PrintJson({{"table", path},
               {"cpu", table.cpu.brand},
               {"usable", table.usable()},
               {"read_gbps", read_gbps},
               {"confidence", table.environment.confidence},
               {"rigor", table.policy.rigor},
               {"cold", table.policy.cold},
               {"entries", entries}});
    return {};
  }
  Print("{}: {} entries, tuned on {}, rigor {}, weights {}, confidence {}\n",
        path, table.entries.size(), table.cpu.brand, table.policy.rigor,
        table.policy.cold ? "cold" : "in cache", table.environment.confidence);
  for (const auto& [threads, gbps] : table.environment.read_gbps) {
    Print("read bandwidth, {} threads: {:.1f} GB/s\n", threads, gbps);
  }
  for (const TableEntry& entry : table.entries) {
    Print("\n{}: layout {}, {} threads, {} layers\n", entry.problem.ToString(),
          Name(entry.decision.layout), entry.decision.threads,
          entry.layers.size());
    PrintBuckets(entry.decision);
  }
  return {};
}

Status RunExplain(const ExplainArguments& arguments) {
  const SessionTable session(arguments.common);
  if (!session.table()) {
    return UsageError(
        "table explain: no table; name one with --table or RANKFORGE_TABLE");
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<Workload> workloads,
      LoadWorkloads(arguments.workloads, arguments.common,
                    arguments.common.threads));
  Json answers = Json::array();
  for (const Workload& workload : workloads) {
    if (arguments.common.json) {
      const auto answer = session.table()->Lookup(workload.problem);
      answers.push_back({{"problem", ToJson(workload.problem)},
                         {"layers", workload.layers},
                         {"density", Rounded(workload.density)},
                         {"source", Name(answer.source)},
                         {"reason", answer.reason},
                         {"decision", ToJson(answer.decision)}});
      continue;
    }
    Print("{}  expected density {:.3g}, {} layers: {}\n\n",
          Explain(*session.table(), workload.problem), workload.density,
          workload.layers.size(), fmt::join(workload.layers, ", "));
  }
  if (arguments.common.json) PrintJson({{"workloads", answers}});
  return {};
}

}  // namespace

void AddTable(CLI::App& program, Action& action) {
  CLI::App* table =
      program.add_subcommand("table", "Read a dispatch table: show, explain");
  table->require_subcommand(1);

  CLI::App* show = table->add_subcommand("show", "Print what a table holds");
  auto path = std::make_shared<std::string>();
  auto common = std::make_shared<CommonOptions>();
  show->add_option("TABLE", *path, "Dispatch table")
      ->required()
      ->envname("RANKFORGE_TABLE")
      ->check(CLI::ExistingFile);
  AddJson(*show, *common);
  show->callback([&action, path, common] {
    action = [path, common] { return RunShow(*path, common->json); };
  });

  CLI::App* explain = table->add_subcommand(
      "explain", "What each layer of a model gets from a table, and why");
  auto arguments = std::make_shared<ExplainArguments>();
  AddWorkloadOptions(*explain, arguments->workloads, arguments->common);
  AddTableOption(*explain, arguments->common);
  AddThreads(*explain, arguments->common);
  AddJson(*explain, arguments->common);
  explain->callback([&action, arguments] {
    action = [arguments] { return RunExplain(*arguments); };
  });
}

}  // namespace rankforge
