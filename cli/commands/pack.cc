// `rankforge pack`: writes packed weights to a file that later starts map.
#include <chrono>
#include <memory>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "runtime/model/use/packed_weights.h"

namespace rankforge {
namespace {

struct PackArguments {
  CommonOptions common;
  std::string model;
  std::string out;
};

Status RunPack(const PackArguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             OpenCheckpoint(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Adapter> adapter,
                             OpenAdapter(checkpoint, arguments.common));
  RANKFORGE_RETURN_IF_ERROR(
      CheckOutput(arguments.out, {arguments.model, arguments.common.adapter,
                                  TablePath(arguments.common)}));
  RANKFORGE_ASSIGN_OR_RETURN(const ModelOptions options,
                             ForModel(arguments.common, &checkpoint));
  const SessionTable table(arguments.common);
  const Result<PackSummary> summary = [&] {
    Progress progress("pack");
    return WritePack(checkpoint.config(), checkpoint,
                     adapter ? &*adapter : nullptr, table.dispatcher(), options,
                     OriginOf(checkpoint, adapter), arguments.out,
                     [&](size_t done, size_t total) {
                       progress.Update(done, total, "matrices");
                     });
  }();
  if (!summary.ok()) return summary.status();
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  if (arguments.common.json) {
    PrintJson({{"pack", arguments.out},
               {"model", arguments.model},
               {"matrices", summary->matrices},
               {"bytes", summary->bytes},
               {"seconds", Rounded(seconds.count(), 4)}});
    return {};
  }
  Print("{}: {} matrices, {:.2f} GB, in {:.1f} s; start with --pack {}\n",
        arguments.out, summary->matrices,
        static_cast<double>(summary->bytes) / 1e9, seconds.count(),
        arguments.out);
  return {};
}

}  // namespace

void AddPack(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "pack", "Write packed weights to a file for quick starts");
  auto arguments = std::make_shared<PackArguments>();
  AddModel(*command, arguments->model)->required();
  command->add_option("--out", arguments->out, "File to write")->required();
  AddAdapter(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunPack, arguments);
}

}  // namespace rankforge
