// The program `rankforge`: parses the command line, runs one subcommand and
// turns its status into a message and an exit code.
#include <fmt/ranges.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "cli/support/commands.h"
#include "cli/support/log.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "kernels/targets.h"

namespace rankforge {
namespace {

// In the order of --help.
constexpr void (*kCommands[])(CLI::App&, Action&) = {
    AddEnv,      AddVariants, AddTune,     AddForge, AddTable,
    AddAdapt,    AddImport,   AddOptimize, AddPack,  AddEval,
    AddGenerate, AddBench,    AddReport,   AddSynth, AddDescribe,
};

int Fail(const Status& status) {
  PrintMessage(status.message());
  return static_cast<int>(status.code());
}

// CLI11's message. It calls a misspelt subcommand a missing one; this names it.
std::string Complaint(const CLI::App& program, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = program.remaining();
  if (program.get_subcommands().empty() && !unknown.empty()) {
    return fmt::format("no subcommand '{}'", unknown.front());
  }
  return error.what();
}

// A name that is no target limits nothing.
void CheckMaxTarget() {
  const char* const limit = std::getenv("RANKFORGE_MAX_TARGET");
  const std::vector<std::string> names = CompiledTargetNames();
  if (limit == nullptr || std::ranges::count(names, limit) > 0) return;
  Log(LogLevel::kProblems,
      fmt::format("RANKFORGE_MAX_TARGET={}: no target of this build, nothing "
                  "is left out; its targets are {}",
                  limit, fmt::join(names, ", ")));
}

// Libraries below may throw when memory runs out (packing a model that does not
// fit); everything else arrives as a status.
Status RunAction(const Action& action) {
  try {
    CheckMaxTarget();
    RANKFORGE_RETURN_IF_ERROR(LoadPlugins(action.plugins));
    return action.run();
  } catch (const std::bad_alloc&) {
    return EnvironmentError(
        "out of memory: use a smaller model, --dtype bf16 or a shorter "
        "--context");
  }
}

int Main(int argc, char** argv) {
  KeepStandardStreams();
  // A limit of the size of files is an error of the write, not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App program(
      "Rank-sparse decoding on this CPU: tuned kernels, adapters, a small "
      "language-model runtime.\n"
      "Exit codes: 0 ok, 1 failed, 2 usage, 3 environment refused.");
  program.set_version_flag("--version", RANKFORGE_VERSION);
  program.require_subcommand(1);
  program.option_defaults()->always_capture_default();
  Action action;
  for (const auto add : kCommands) add(program, action);

  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help
      program.exit(error);
      return std::cout.flush() ? 0 : 1;
    }
    return Fail(UsageError(Complaint(program, error) + " (see --help)"));
  }
  if (Status status = RunAction(action); !status.ok()) return Fail(status);
  if (Status status = FlushOutput(); !status.ok()) return Fail(status);
  return 0;
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) { return rankforge::Main(argc, argv); }
