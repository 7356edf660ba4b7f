// The times in a document of `bench --json`, as entries with names.
#ifndef RANKFORGE_CLI_COMPARE_BENCH_TIMES_H_
#define RANKFORGE_CLI_COMPARE_BENCH_TIMES_H_

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/output.h"

namespace rankforge {

struct BenchEntry {
  std::string name;  // "dense token median", "adapted mlp.down_proj"
  double ms = 0;     // per token
};

struct BenchTimes {
  std::vector<BenchEntry> entries;  // without those that take no time
  // Fields that say what ran. Times of other work are no times to compare.
  Json work = Json::object();
  // How much of it there was: numbers that a program may change, and that its
  // times then come from. Those that the document has.
  std::map<std::string, double> amounts;
  double read_gbps = 0;
  // A program that finds one fails after it has printed its document.
  bool above_roofline = false;

  // Milliseconds of the entry `name`; 0: there is none.
  double Find(const std::string& name) const;
};

// Errors name the field of a document of another layout.
Result<BenchTimes> ReadBenchTimes(const std::string& document);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_COMPARE_BENCH_TIMES_H_
