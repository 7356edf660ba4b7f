// The subcommands. Each Add function describes its options to the parser and,
// when the command line names it, leaves what to run in `action`. kCommands in
// cli/main.cc is the list that the program and its --help follow.
#ifndef RANKFORGE_CLI_SUPPORT_COMMANDS_H_
#define RANKFORGE_CLI_SUPPORT_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace rankforge {

// What the command line asks for.
struct Action {
  std::function<Status()> run;
  std::vector<std::string>
      plugins;  // to load before (cli/support/plugin_option.h)
};

// `command` is to do run(*arguments). Its options have filled the arguments by
// then.
template <class Arguments>
void SetAction(CLI::App& command, Action& action,
               Status (*run)(const Arguments&),
               std::shared_ptr<Arguments> arguments) {
  command.callback([&action, run, arguments = std::move(arguments)] {
    action.run = [run, arguments] { return run(*arguments); };
  });
}

void AddEnv(CLI::App& program, Action& action);
void AddVariants(CLI::App& program, Action& action);
void AddTune(CLI::App& program, Action& action);
void AddForge(CLI::App& program, Action& action);
void AddTable(CLI::App& program, Action& action);
void AddAdapt(CLI::App& program, Action& action);
void AddImport(CLI::App& program, Action& action);
void AddOptimize(CLI::App& program, Action& action);
void AddPack(CLI::App& program, Action& action);
void AddEval(CLI::App& program, Action& action);
void AddGenerate(CLI::App& program, Action& action);
void AddBench(CLI::App& program, Action& action);
void AddReport(CLI::App& program, Action& action);
void AddSynth(CLI::App& program, Action& action);
void AddDescribe(CLI::App& program, Action& action);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_COMMANDS_H_
