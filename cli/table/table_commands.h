// The subcommands of `rankforge table`, each in a file of its own, and what
// several of them print.
#ifndef RANKFORGE_CLI_TABLE_TABLE_COMMANDS_H_
#define RANKFORGE_CLI_TABLE_TABLE_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <span>

#include "cli/support/commands.h"
#include "cli/support/output.h"
#include "runtime/table/cpu.h"
#include "runtime/table/decision.h"
#include "runtime/table/problem.h"

namespace rankforge {

void AddTableShow(CLI::App& table, Action& action);
void AddTableExplain(CLI::App& table, Action& action);
void AddTableMerge(CLI::App& table, Action& action);
void AddTableDiff(CLI::App& table, Action& action);
void AddTableVerify(CLI::App& table, Action& action);

Json ToJson(const Problem& problem);
Json ToJson(const Decision& decision);
Json ToJson(std::span<const CpuDifference> differences);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_TABLE_TABLE_COMMANDS_H_
