// `bench --compare`: this program and another one run `bench` in turn, and the
// entries that take longer here are named.
#ifndef RANKFORGE_CLI_COMPARE_COMPARE_H_
#define RANKFORGE_CLI_COMPARE_COMPARE_H_

#include <CLI/CLI.hpp>
#include <cstddef>
#include <string>

#include "base/status.h"

namespace rankforge {

struct CompareOptions {
  std::string program;  // the other one; empty: nothing is compared
  // Five are the fewest that can show a difference (MedianInterval).
  size_t rounds = 5;
  double tolerance = 0.05;
  const CLI::App* bench = nullptr;  // what it was given says what to run
};

// --compare PROGRAM, --rounds and --tolerance of `bench`, which outlives
// `options`.
void AddCompare(CLI::App& bench, CompareOptions& options);

// Both programs run `bench` with its other options in child processes, once in
// each round, and take turns at being first. Prints how many times as long an
// entry takes here, as the median over the rounds. Fails if one is slower by
// more than the tolerance and beyond the spread of the rounds, in `rounds`
// rounds and then in as many again; if a program does not print what `bench
// --json` prints; and if they do not run the same.
Status CompareBench(const CompareOptions& options, bool json);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_COMPARE_COMPARE_H_
