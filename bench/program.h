// The frame of the benchmarks that are programs of their own.
#ifndef RANKFORGE_BENCH_PROGRAM_H_
#define RANKFORGE_BENCH_PROGRAM_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>
#include <string_view>

#include "runtime/status.h"

namespace rankforge {

// Parses the options of `program` and runs run(). Returns the exit code; what
// went wrong is one line on stderr that begins with `name`.
template <class Run>
int RunProgram(CLI::App& program, std::string_view name, int argc, char** argv,
               Run run) {
  try {
    program.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return program.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "{}: {} (see --help)\n", name, error.what());
    return 2;
  }
  Status status;
  try {
    status = run();
  } catch (const std::bad_alloc&) {
    status = EnvironmentError("out of memory: use smaller shapes");
  }
  if (status.ok()) return 0;
  fmt::print(stderr, "{}: {}\n", name, status.message());
  return static_cast<int>(status.code());
}

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PROGRAM_H_
