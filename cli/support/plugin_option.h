// The option --plugin, of all subcommands that run kernels or speak of them.
#ifndef RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_
#define RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace rankforge {

// Adds --plugin FILE, and RANKFORGE_PLUGIN in its place, to those subcommands
// of `program`, which are there already; parsing fills `plugins`.
void AddPlugins(CLI::App& program, std::vector<std::string>& plugins);

// Loads all, before anything else asks for a kernel.
Status LoadPlugins(const std::vector<std::string>& plugins);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_PLUGIN_OPTION_H_
