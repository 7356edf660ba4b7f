// What rounds of two programs say about their times.
#ifndef RANKFORGE_CLI_COMPARE_RATIOS_H_
#define RANKFORGE_CLI_COMPARE_RATIOS_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/statistics.h"
#include "cli/compare/bench_times.h"

namespace rankforge {

enum class Verdict {
  kSlower,   // by more than the tolerance, and beyond the spread of the rounds
  kFaster,   // the same the other way
  kWithin,   // the rounds rule out a loss beyond the tolerance
  kUnclear,  // they do not
};
std::string_view Name(Verdict verdict);

struct Ratio {
  double median = 1;  // of the rounds, time here / time there
  Interval spread;
  Verdict verdict = Verdict::kUnclear;
};

// Of the ratios of all rounds.
Ratio RatioOf(const std::vector<double>& rounds, double tolerance);

// An entry that both programs have.
struct ComparedEntry {
  std::string name;
  double ms = 0;        // medians over the rounds
  double other_ms = 0;  // of the other program
  std::vector<double> rounds;
  Ratio ratio;
};

struct Comparison {
  std::vector<ComparedEntry> entries;
  std::vector<std::string> only_here;
  std::vector<std::string> only_there;
  // Of read bandwidth, there / here. Both have the same loops, so it shows how
  // unlike the turns of the two were.
  ComparedEntry read;

  std::vector<const ComparedEntry*> With(Verdict verdict) const;
};

// Compares run i of `here` with run i of `there`: as many, at least one, and of
// each program all with the same entries.
Comparison Compare(std::span<const BenchTimes> here,
                   std::span<const BenchTimes> there, double tolerance);

// `again` with the verdict kSlower only where `first` has it, too. Of many
// entries the one that looks slowest owes that to chance: what it is named for
// must show in rounds that did not choose it.
Comparison Confirmed(const Comparison& first, Comparison again);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_COMPARE_RATIOS_H_
