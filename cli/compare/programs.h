// Two programs that run `bench` in turn.
#ifndef RANKFORGE_CLI_COMPARE_PROGRAMS_H_
#define RANKFORGE_CLI_COMPARE_PROGRAMS_H_

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/compare/bench_times.h"

namespace rankforge {

struct BenchProgram {
  std::string path;
  std::filesystem::file_time_type written;
  std::vector<BenchTimes> runs;
  size_t above_roofline = 0;          // of the runs
  std::vector<std::string> messages;  // beside its documents, each once
};

// This program and the other one.
using BenchPrograms = std::array<BenchProgram, 2>;

// Errors: `other` is no file that can be run.
Result<BenchPrograms> OpenPrograms(const std::string& other);

// Each runs `bench` with these `words` once per round and adds to its runs. Who
// is first in one round is second in the next: what heats up or fills a cache
// hits both alike. Errors name the program that did not print the document of
// `bench --json`, or one of other work.
Status RunRounds(size_t rounds, const std::vector<std::string>& words,
                 BenchPrograms& programs);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_COMPARE_PROGRAMS_H_
