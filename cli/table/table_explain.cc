// `rankforge table explain` prints what a model gets from a table, and why.
#include <fmt/ranges.h>

#include <memory>

#include "cli/support/options.h"
#include "cli/support/plugin_option.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "cli/table/table_commands.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

struct ExplainArguments {
  CommonOptions common;
  WorkloadOptions workloads;
};

Status RunExplain(const ExplainArguments& arguments) {
  const SessionTable session(arguments.common);
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<Workload> workloads,
      LoadWorkloads(arguments.workloads, arguments.common,
                    arguments.common.threads));
  Json answers = Json::array();
  for (const Workload& workload : workloads) {
    const auto answer = session.dispatcher().Decide(workload.problem);
    if (arguments.common.json) {
      answers.push_back(
          {{"problem", ToJson(workload.problem)},
           {"layers", workload.layers},
           {"density", Rounded(workload.density)},
           {"source", Name(answer.source)},
           {"reason", answer.reason},
           {"decision", ToJson(Described(workload.problem, answer))}});
      continue;
    }
    Print("{}  expected density {:.3g}, {} layers: {}\n\n",
          Explain(workload.problem, answer), workload.density,
          workload.layers.size(), fmt::join(workload.layers, ", "));
  }
  session.LogLookups();
  if (arguments.common.json) PrintJson({{"workloads", answers}});
  return {};
}

}  // namespace

void AddTableExplain(CLI::App& table, Action& action) {
  CLI::App* explain = table.add_subcommand(
      "explain", "What each layer of a model gets, from which table, and why");
  auto arguments = std::make_shared<ExplainArguments>();
  AddWorkloadOptions(*explain, arguments->workloads, arguments->common);
  AddTableOption(*explain, arguments->common);
  AddThreads(*explain, arguments->common);
  AddJson(*explain, arguments->common);
  AddPlugins(*explain, action);
  SetAction(*explain, action, RunExplain, arguments);
}

}  // namespace rankforge
