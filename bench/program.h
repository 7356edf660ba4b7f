// What the benchmarks that are programs of their own (no Google Benchmark
// suites) do with their command line, failures and exit codes.
#ifndef RANKFORGE_BENCH_PROGRAM_H_
#define RANKFORGE_BENCH_PROGRAM_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "runtime/table/cpu.h"
#include "runtime/table/table.h"

namespace rankforge {

// Options of every such program.
struct ProgramOptions {
  std::string type = "bf16";
  size_t threads = CpuInfo::Detect().cores;
  size_t rounds = 9;
  bool cached = false;

  WeightType weight_type() const { return *FromName(kWeightTypes, type); }
};

inline void AddProgramOptions(CLI::App& program, ProgramOptions& options) {
  program.option_defaults()->always_capture_default();
  std::vector<std::string> types;
  for (const WeightType type : kWeightTypes) types.emplace_back(Name(type));
  program.add_option("--dtype", options.type, "Weight type")
      ->check(CLI::IsMember(types));
  program.add_option("--threads", options.threads, "Threads")
      ->check(CLI::Range(1, 256));
  program.add_option("--rounds", options.rounds, "Rounds of turns")
      ->check(CLI::Range(1, 10000));
  program.add_flag("--cached", options.cached,
                   "Repeat one copy of the weights; not given: from memory");
}

// And of those that run whole layers.
struct LayerOptions : ProgramOptions {
  std::vector<double> kept;
  std::string table;
};

inline void AddLayerOptions(CLI::App& program, LayerOptions& options) {
  AddProgramOptions(program, options);
  program
      .add_option("--kept", options.kept,
                  "Shares of the ranks or neurons that are kept")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0));
  program.add_option("--table", options.table,
                     "Dispatch table; not given: default variants");
}

// The table that was named, or none.
inline Result<std::optional<DispatchTable>> OpenTable(
    const LayerOptions& options) {
  std::optional<DispatchTable> table;
  if (!options.table.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(table, DispatchTable::Load(options.table));
  }
  return table;
}

// Those of one side of a matrix.
inline CLI::Range SideRange() { return {size_t{1}, size_t{1} << 17}; }

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
