// The subcommands. Each Add function describes its options to the parser and,
// when the command line names it, leaves what to run in `action`.
#ifndef RANKFORGE_CLI_SUPPORT_COMMANDS_H_
#define RANKFORGE_CLI_SUPPORT_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "base/status.h"

namespace rankforge {

using Action = std::function<Status()>;

void AddEnv(CLI::App& program, Action& action);
void AddVariants(CLI::App& program, Action& action);
void AddTune(CLI::App& program, Action& action);
void AddForge(CLI::App& program, Action& action);
void AddTable(CLI::App& program, Action& action);
void AddAdapt(CLI::App& program, Action& action);
void AddImport(CLI::App& program, Action& action);
void AddPack(CLI::App& program, Action& action);
void AddEval(CLI::App& program, Action& action);
void AddGenerate(CLI::App& program, Action& action);
void AddBench(CLI::App& program, Action& action);
void AddReport(CLI::App& program, Action& action);
void AddSynth(CLI::App& program, Action& action);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_COMMANDS_H_
