// `rankforge forge`: compiles kernels for the shapes of a model into a plug-in.
#include "tuner/forge/forge.h"

#include <chrono>
#include <cstdlib>
#include <memory>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"
#include "cli/support/shapes.h"

namespace rankforge {
namespace {

struct ForgeArguments {
  CommonOptions common;
  WorkloadOptions workloads;
  ForgeOptions forge;
  bool only_write = false;
};

std::string FromEnvironment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

Status RunForge(const ForgeArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<Workload> workloads,
      LoadWorkloads(arguments.workloads, arguments.common, 1));
  std::vector<Problem> problems;
  size_t rounding = 0;
  for (const Workload& workload : workloads) {
    problems.push_back(workload.problem);
    rounding += workload.problem.activations != Activations::kF32;
  }
  if (rounding > 0 && rounding < problems.size()) {
    PrintMessage(fmt::format(
        "{} of {} problems round their inputs, for which there is nothing to "
        "compile (--activations)",
        rounding, problems.size()));
  }
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<StaticUnit> units,
                             UnitsOf(problems));
  if (arguments.only_write) {
    return WriteUnits(units, arguments.forge.folder);
  }

  const auto start = std::chrono::steady_clock::now();
  Result<ForgeResult> forged = [&] {
    Progress progress("forge");
    ForgeOptions options = arguments.forge;
    options.progress = [&](size_t done, size_t total, std::string_view unit) {
      progress.Update(done, total, unit);
    };
    return Forge(units, options);
  }();
  if (!forged.ok()) return forged.status();
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  if (arguments.common.json) {
    PrintJson({{"plugin", forged->plugin},
               {"target", forged->target},
               {"units", forged->units},
               {"entries", forged->entries},
               {"compiled", forged->compiled},
               {"bytes", forged->bytes},
               {"seconds", Rounded(seconds.count(), 4)}});
    return {};
  }
  Print(
      "{}: {} entries for {} problems, {:.1f} MB; {} files compiled in {:.0f} "
      "s. `rankforge tune --plugin {}` measures them\n",
      forged->plugin, forged->entries, forged->units,
      static_cast<double>(forged->bytes) / 1e6, forged->compiled,
      seconds.count(), forged->plugin);
  return {};
}

}  // namespace

void AddForge(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "forge", "Compile kernels for the shapes of a model into a plug-in");
  auto arguments = std::make_shared<ForgeArguments>();
  ForgeOptions& forge = arguments->forge;
  forge.jobs = arguments->common.threads;
  forge.compiler = FromEnvironment("CXX", "c++");
  forge.headers = FromEnvironment("RANKFORGE_HEADERS", DefaultForgeHeaders());
  AddWorkloadOptions(*command, arguments->workloads, arguments->common);
  command->add_option("--out", forge.folder, "Folder to write to")->required();
  command->add_option("--target", forge.target,
                      "Instruction set to compile for, as `rankforge env` "
                      "names it; not given: the best of this CPU");
  command->add_option("--compiler", forge.compiler,
                      "C++20 compiler; not given: CXX, else c++");
  command->add_option("--headers", forge.headers,
                      "Folder with the headers of the kernels; not given: "
                      "RANKFORGE_HEADERS, else those of this program");
  command->add_option("--jobs", forge.jobs, "Files to compile at once")
      ->check(CLI::Range(1, 256))
      ->default_str("all cores");
  command->add_flag("--only-write", arguments->only_write,
                    "Write the units and compile nothing");
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunForge, arguments);
}

}  // namespace rankforge
