// `rankforge report`: one page about dispatch tables, or about models. This
// file reads and checks the inputs.
#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli/report/page.h"
#include "cli/report/results.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/session.h"
#include "cli/table/table_commands.h"
#include "meta/types.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

struct ReportArguments {
  CommonOptions common;
  std::vector<std::string> tables;
  std::vector<std::string> results;
  std::string out;
  std::string svg;  // folder; empty: none
};

// The share that was kept when this bucket was measured; 0: it was not.
double MeasuredDensity(const Problem& problem, const Bucket& bucket) {
  const double bytes = WeightBytes(
      problem.type, static_cast<double>(problem.rows * problem.cols));
  return std::min(1.0, bucket.useful_gbps * bucket.ns.median / bytes);
}

Json PlottedEntry(const TableEntry& entry) {
  const Json problem = ToJson(entry.problem);
  Json json = problem;
  json["problem"] = problem;  // as a whole: by it entries are compared
  json["layout"] = Name(entry.decision.layout);
  json["default"] = entry.decision.default_variant;
  json["by_density"] = Json::array();
  for (const Bucket& bucket : entry.decision.by_density) {
    const double density = MeasuredDensity(entry.problem, bucket);
    json["by_density"].push_back({{"max", bucket.max_density},
                                  {"variant", bucket.variant},
                                  {"density", density},
                                  {"ns", bucket.ns.median},
                                  {"n", density > 0 ? bucket.ns.n : 0},
                                  {"useful_gbps", bucket.useful_gbps},
                                  {"roofline", bucket.roofline},
                                  {"vs_default", bucket.vs_default},
                                  {"runner_up", bucket.runner_up},
                                  {"runner_up_ns", bucket.runner_up_ns}});
  }
  return json;
}

Json PlottedTable(const std::string& path, const DispatchTable& table) {
  Json read_gbps = Json::object();
  for (const auto& [threads, gbps] : table.environment.read_gbps) {
    read_gbps[std::to_string(threads)] = gbps;
  }
  Json entries = Json::array();
  for (const TableEntry& entry : table.entries) {
    entries.push_back(PlottedEntry(entry));
  }
  return {{"name", fs::path(path).filename().string()},
          {"cpu", table.cpu.brand},
          {"targets", table.cpu.targets},
          {"caches",
           {{"L1d", table.cpu.l1d_bytes},
            {"L2", table.cpu.l2_bytes},
            {"L3", table.cpu.l3_bytes}}},
          {"cores", table.cpu.cores},
          {"hypervisor", table.cpu.hypervisor},
          {"read_gbps", read_gbps},
          {"cold", table.policy.cold},
          {"rigor", table.policy.rigor},
          {"confidence", table.environment.confidence},
          {"confidence_reason", table.environment.confidence_reason},
          {"compiler", table.build.compiler},
          {"flags", table.build.flags},
          {"entries", entries}};
}

// What report_page.py reads of tables.
Result<Json> ReadTables(const std::vector<std::string>& paths) {
  Json tables = Json::array();
  for (const std::string& path : paths) {
    RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable table,
                               DispatchTable::LoadUnbound(path));
    PrintNotes(table.notes());
    if (table.entries.empty()) {
      return Failed(path +
                    ": entries is empty, there is nothing to plot; run "
                    "`rankforge tune`");
    }
    tables.push_back(PlottedTable(path, table));
  }
  return Json{{"tables", tables}};
}

Result<Json> ReadInputs(const ReportArguments& arguments) {
  if (!arguments.tables.empty()) return ReadTables(arguments.tables);
  Json all = Json::array();
  for (const std::string& path : arguments.results) {
    RANKFORGE_ASSIGN_OR_RETURN(const Json results, ReadResults(path));
    all.insert(all.end(), results.begin(), results.end());
  }
  return Json{{"results", all}};
}

Status RunReport(const ReportArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckOutput(arguments.out, {}));
  RANKFORGE_ASSIGN_OR_RETURN(const Json data, ReadInputs(arguments));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<std::string> plots,
                             DrawPage(data, arguments.out, arguments.svg));
  if (arguments.common.json) {
    PrintJson({{"report", arguments.out},
               {"tables", arguments.tables},
               {"models", arguments.results},
               {"plots", plots}});
    return {};
  }
  Print("{}: {} plots\n", arguments.out, plots.size());
  return {};
}

}  // namespace

void AddReport(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "report",
      "Draw dispatch tables, or results of eval and bench, as one HTML page "
      "(needs matplotlib)");
  auto arguments = std::make_shared<ReportArguments>();
  CLI::Option_group* source = command->add_option_group("what to draw");
  source->add_option("TABLES", arguments->tables, "Dispatch tables")
      ->check(CLI::ExistingFile);
  source
      ->add_option("--models", arguments->results,
                   "Files of what eval --json and bench --json print, one "
                   "document after another")
      ->check(CLI::ExistingFile);
  source->require_option(1);
  command->add_option("--out", arguments->out, "Page to write")->required();
  command
      ->add_option("--svg", arguments->svg,
                   "Folder for the plots as files of their own; not given: "
                   "only in the page")
      ->check(CLI::ExistingDirectory);
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunReport, arguments);
}

}  // namespace rankforge
