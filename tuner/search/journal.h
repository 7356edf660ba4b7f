// The log of all measurements: JSON lines, one a trial, flushed, so that a
// killed run loses nothing and can be continued.
#ifndef RANKFORGE_TUNER_SEARCH_JOURNAL_H_
#define RANKFORGE_TUNER_SEARCH_JOURNAL_H_

#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/table/cpu.h"
#include "runtime/table/table.h"
#include "tuner/search/search.h"

namespace rankforge {

// What must agree for the trials of two runs to be comparable. Not the build:
// each trial names the variant and its spec, and a registry with more variants
// leaves those of before as they were.
struct JournalHeader {
  CpuInfo cpu;
  bool cold = true;
};

// One timed call, by name instead of by index.
struct TrialRecord {
  std::string variant;
  uint64_t spec_hash = 0;
  std::string layout;
  size_t threads = 0;
  double density = 0;
  Sample sample;
};

class Journal {
 public:
  // A journal that keeps nothing.
  Journal() = default;
  // With `resume`, reads `path` (there may be none yet) and appends to it;
  // fails if it was written on another CPU or with weights in another place.
  // Otherwise starts it anew.
  static Result<Journal> Open(const std::string& path,
                              const JournalHeader& header, bool resume);

  // Trials of an earlier run, in order. `workload` names a problem with the
  // masks it sees.
  const std::vector<TrialRecord>& Trials(const std::string& workload) const;
  // Whether all of `search` (SearchName: candidates, densities, rounds) was
  // done for this workload.
  bool IsFinished(const std::string& workload, const std::string& search) const;

  // A run begins: who measures, and in which conditions.
  void WriteSession(const TableBuild& build,
                    const TableEnvironment& environment);
  void WriteTrial(const std::string& workload, const TrialRecord& trial);
  void WriteDrop(const std::string& workload, const TrialRecord& trial,
                 size_t rounds, double ratio);
  // A candidate that was not raced at all, and why.
  void WriteRejection(const std::string& workload, const std::string& variant,
                      const std::string& layout, const std::string& reason);
  // A call too short for the clock; it is no trial.
  void WriteRefusal(const std::string& workload, const TrialRecord& trial);
  // Earlier trials of this workload do not count any more.
  void WriteDiscard(const std::string& workload);
  // The same of one candidate, at all densities: it is measured again.
  void WriteAnchor(const std::string& workload, const TrialRecord& candidate);
  // What took a nanosecond before takes `factor` now.
  void WriteDrift(const std::string& workload, double factor);
  void WriteFinished(const std::string& workload, const std::string& search);

 private:
  Status ReadBack(const std::string& path, const std::string& header_line);
  void WriteLine(const std::string& line);

  std::ofstream file_;
  std::map<std::string, std::vector<TrialRecord>> trials_;  // by workload
  std::map<std::string, std::string> finished_;  // workload to search
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_JOURNAL_H_
