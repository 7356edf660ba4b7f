// Builds plug-ins: from problems to units for one shape each, their sources,
// and the plug-in that they are compiled and linked to. Plug-ins are for `tune`
// and for commands that load its tables with --plugin.
#ifndef RANKFORGE_TUNER_FORGE_FORGE_H_
#define RANKFORGE_TUNER_FORGE_FORGE_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/static_variants.h"
#include "runtime/table/problem.h"
#include "tuner/forge/compile.h"

namespace rankforge {

struct ForgeOptions {
  std::string folder;    // where everything is written; made if missing
  std::string target;    // empty: the best of this CPU
  std::string compiler;  // a name on PATH or a path
  std::string headers;   // holds meta/ and kernels/
  size_t jobs = 1;
  CompileProgress progress;
};

struct ForgeResult {
  std::string plugin;  // path
  std::string target;
  size_t units = 0;
  size_t entries = 0;
  size_t compiled = 0;  // files that had no object yet
  size_t bytes = 0;     // of the plug-in
};

// The units that problems ask for, each once, in their order. Leaves out
// problems that have no variant for one shape: those of several tokens, and
// granularities without variants. A usage error when none is left.
Result<std::vector<StaticUnit>> UnitsOf(std::span<const Problem> problems);

// Writes the units to `folder`, those that differ from what is there.
Status WriteUnits(std::span<const StaticUnit> units, const std::string& folder);

// Writes and builds. Objects stay in `folder`/objects, named by a hash of all
// that went into them: sources, headers, compiler and options.
Result<ForgeResult> Forge(std::span<const StaticUnit> units,
                          const ForgeOptions& options);

// The headers that units are compiled with, of the installation that the
// running program belongs to, else of the source tree that it was built from.
std::string DefaultForgeHeaders();

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_FORGE_FORGE_H_
