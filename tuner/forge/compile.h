// Runs a compiler of the system: its version, objects, a plug-in of them. Knows
// nothing of units and problems.
#ifndef RANKFORGE_TUNER_FORGE_COMPILE_H_
#define RANKFORGE_TUNER_FORGE_COMPILE_H_

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace rankforge {

struct Compiler {
  std::string program;  // a name on PATH or a path
  std::vector<std::string> flags;
};

// One file to compile, and where its object is. `log` is written on failure.
struct Compilation {
  std::string name;
  std::string source;
  std::string object;
  std::string log;
};

// `done` of `total` files are compiled, `name` was the last.
using CompileProgress =
    std::function<void(size_t done, size_t total, std::string_view name)>;

// What the compiler says of itself; fails where there is none.
Result<std::string> VersionOf(const std::string& compiler);

// Compiles all, `jobs` at a time; the first failure stops the rest. Each object
// appears whole or not at all. Calls `progress` from any of its threads, one at
// a time.
Status CompileAll(std::span<const Compilation> files, const Compiler& compiler,
                  size_t jobs, const CompileProgress& progress);

// Links the objects to a plug-in that exports what `exports` lists (a version
// script for the linker), and seals it. It appears whole or not at all.
Status LinkPlugin(std::span<const Compilation> files,
                  const std::string& compiler, const std::string& exports,
                  const std::string& plugin, const std::string& log);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_FORGE_COMPILE_H_
