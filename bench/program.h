// The command line, the failures and the exit codes of the benchmarks that are
// programs of their own. The others are suites of Google Benchmark
// (roofline.h).
#ifndef RANKFORGE_BENCH_PROGRAM_H_
#define RANKFORGE_BENCH_PROGRAM_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "meta/variants.h"
#include "runtime/table/choice.h"
#include "runtime/table/cpu.h"
#include "runtime/table/problem.h"
#include "runtime/table/table.h"

namespace rankforge {

// Options of the programs that measure our own products.
struct ProgramOptions {
  std::string type = "bf16";
  size_t threads = CpuInfo::Detect().cores;
  size_t rounds = 9;
  bool cached = false;
  std::string activations;  // empty: as the weight type has

  WeightType weight_type() const { return *FromName(kWeightTypes, type); }
  Activations asked() const {
    return activations.empty() ? DefaultActivations(weight_type())
                               : *FromName(kActivations, activations);
  }
  Status CheckActivations() const {
    const WeightType weights = weight_type();
    RANKFORGE_RETURN_IF_ERROR(CheckWeightsTake(asked(), {&weights, 1}));
    return CheckCpu(asked());
  }
  // With what is asked for where products can have it.
  Problem ProblemOf(Operation operation, size_t rows, size_t cols) const {
    return {operation, rows,
            cols,      weight_type(),
            1,         1,
            threads,   ActivationsFor(operation, weight_type(), asked())};
  }
};

inline std::vector<std::string> WeightTypeNames() {
  std::vector<std::string> names;
  for (const WeightType type : kWeightTypes) names.emplace_back(Name(type));
  return names;
}

// Shares from `least` to 1. CLI::Range would accept NaN, too.
inline CLI::Validator ShareFrom(double least) {
  const std::string range = fmt::format("share from {} to 1", least);
  return {[=](std::string& word) {
            double value = 0;
            const char* end = word.data() + word.size();
            const auto [rest, error] = std::from_chars(word.data(), end, value);
            const bool valid = error == std::errc() && rest == end &&
                               value >= least && value <= 1;
            return valid ? "" : fmt::format("{} is no {}", word, range);
          },
          range};
}

inline void AddProgramOptions(CLI::App& program, ProgramOptions& options) {
  program.add_option("--dtype", options.type, "Weight type")
      ->check(CLI::IsMember(WeightTypeNames()));
  program.add_option("--threads", options.threads, "Threads")
      ->check(CLI::Range(1, 256));
  program.add_option("--rounds", options.rounds, "Rounds of turns")
      ->check(CLI::Range(1, 10000));
  program.add_flag("--cached", options.cached,
                   "Repeat one copy of the weights; not given: from memory");
}

inline void AddActivations(CLI::App& program, ProgramOptions& options) {
  program
      .add_option("--activations", options.activations,
                  "What products round their inputs to; not given: i8 for "
                  "integer weights, else f32")
      ->check(CLI::IsMember({"f32", "bf16", "i8"}));
}

// Options of the programs that measure whole layers.
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
      ->check(ShareFrom(0));
  program.add_option("--table", options.table,
                     "Dispatch table; not given: default variants");
}

// The table of --table, or none.
inline Result<std::optional<DispatchTable>> OpenTable(
    const LayerOptions& options) {
  std::optional<DispatchTable> table;
  if (!options.table.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(table, DispatchTable::Load(options.table));
  }
  return table;
}

// The longest side of a matrix: its products fit the 32-bit sizes of BLAS.
constexpr size_t kMostSide = size_t{1} << 17;
inline CLI::Range SideRange() { return {size_t{1}, kMostSide}; }

// What main does: parses the command line into Options and runs. Returns the
// exit code, and prints a line on stderr if it is not 0.
template <class Options>
int RunBenchProgram(const char* name, const char* description,
                    void (*add_options)(CLI::App&, Options&),
                    Status (*run)(const Options&), int argc, char** argv) {
  CLI::App program(description);
  program.option_defaults()->always_capture_default();
  Options options;
  add_options(program, options);
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
    status = run(options);
  } catch (const std::bad_alloc&) {
    status = EnvironmentError("out of memory: use smaller shapes");
  }
  if (status.ok()) return 0;
  fmt::print(stderr, "{}: {}\n", name, status.message());
  return static_cast<int>(status.code());
}

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PROGRAM_H_
