// `rankforge table show` prints a dispatch table.
#include <memory>

#include "cli/support/options.h"
#include "cli/support/plugin_option.h"
#include "cli/support/session.h"
#include "cli/table/table_commands.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

void PrintBuckets(const Decision& decision) {
  for (const Bucket& bucket : decision.by_density) {
    Print(
        "  density <= {:<5.3g} {:<52} {:9.1f} us {:6.1f} GB/s {:5.2f} of "
        "read {:6.2f}x default\n",
        bucket.max_density, bucket.variant, bucket.ns.median / 1e3,
        bucket.useful_gbps, bucket.roofline, bucket.vs_default);
  }
}

void PrintFingerprint(const DispatchTable& table) {
  Print("fingerprint: {}\n", Name(table.match()));
  for (const CpuDifference& difference : table.differences()) {
    Print("  {} is {}, here {}\n", difference.field, difference.a,
          difference.b);
  }
}

Status RunShow(const CommonOptions& options) {
  const std::string path = TablePath(options);
  if (path.empty()) {
    return UsageError(
        "table show: name a TABLE, or set RANKFORGE_TABLE (see --help)");
  }
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable table,
                             DispatchTable::Load(path));
  PrintNotes(table.notes());
  if (options.json) {
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
               {"fingerprint",
                {{"match", Name(table.match())},
                 {"differences", ToJson(table.differences())}}},
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
  PrintFingerprint(table);
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

}  // namespace

void AddTableShow(CLI::App& table, Action& action) {
  CLI::App* show = table.add_subcommand("show", "Print what a table holds");
  auto options = std::make_shared<CommonOptions>();
  // Not envname(): CLI11 would read and check it whichever command runs.
  show->add_option("TABLE", options->table,
                   "Dispatch table; not given: the file that RANKFORGE_TABLE "
                   "names");
  AddJson(*show, *options);
  AddPlugins(*show, action);
  SetAction(*show, action, RunShow, options);
}

}  // namespace rankforge
