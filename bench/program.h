// What the benchmarks that are programs of their own (no Google Benchmark
// suites) do with their command line, failures and exit codes.
#ifndef RANKFORGE_BENCH_PROGRAM_H_
#define RANKFORGE_BENCH_PROGRAM_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <new>

#include "runtime/status.h"

namespace rankforge {

// Parses into what the options of `program` are bound to, and runs; the exit
// code, after a line on stderr if it is not 0.
inline int RunBenchProgram(const char* name, CLI::App& program, int argc,
                           char** argv, const std::function<Status()>& run) {
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
