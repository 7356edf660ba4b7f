// The option --plugin, of the subcommands that run kernels or list them.
#ifndef RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_
#define RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/commands.h"

namespace rankforge {

// Adds --plugin FILE to `command`. Parsing fills action.plugins, from
// RANKFORGE_PLUGIN if the option is not given.
void AddPlugins(CLI::App& command, Action& action);

// Loads all, before anything else asks for a kernel.
Status LoadPlugins(const std::vector<std::string>& plugins);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_
