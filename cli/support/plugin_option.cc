#include "cli/support/plugin_option.h"

#include <cstdlib>
#include <sstream>

#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

std::vector<std::string> PluginsOfEnvironment() {
  const char* list = std::getenv("RANKFORGE_PLUGIN");
  std::istringstream paths(list == nullptr ? "" : list);
  std::vector<std::string> plugins;
  for (std::string path; std::getline(paths, path, ':');) {
    if (!path.empty()) plugins.push_back(path);
  }
  return plugins;
}

}  // namespace

void AddPlugins(CLI::App& command, Action& action) {
  command.add_option(
      "--plugin", action.plugins,
      "Kernels for single shapes, of `rankforge forge`: code, trusted as a "
      "library is; may be repeated. Not given: those that RANKFORGE_PLUGIN "
      "names, separated by colons");
  // CLI11 reads an option's envname whichever command runs, so that `forge`
  // would load the plug-in that it is about to replace.
  command.preparse_callback(
      [&action](size_t) { action.plugins = PluginsOfEnvironment(); });
}

Status LoadPlugins(const std::vector<std::string>& plugins) {
  for (const std::string& plugin : plugins) {
    RANKFORGE_RETURN_IF_ERROR(LoadPlugin(plugin));
  }
  return {};
}

}  // namespace rankforge
