// The log of all measurements: JSON lines, one per trial, each flushed, so that
// a killed run loses nothing and can be continued.
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
// each trial names its variant and spec, and further variants in the registry
// change neither.
struct JournalHeader {
  CpuInfo cpu;
  bool cold = true;
};

// A candidate by name instead of by index, so that it means the same in the
// next run.
struct CandidateKey {
  std::string variant;
  uint64_t spec_hash = 0;
  std::string layout;
  size_t threads = 0;

  bool operator==(const CandidateKey&) const = default;
};

// One timed call.
struct TrialRecord {
  CandidateKey candidate;
  double density = 0;
  Sample sample;
};

// What the events up to some line amount to, by workload.
struct JournalState {
  std::map<std::string, std::vector<TrialRecord>> trials;
  std::map<std::string, std::string> finished;  // the search that was
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
  void WriteDrop(const std::string& workload, const CandidateKey& candidate,
                 double density, size_t rounds, double ratio);
  // A candidate that was not raced at all, and why.
  void WriteRejection(const std::string& workload, const std::string& variant,
                      const std::string& layout, const std::string& reason);
  // A call too short for the clock; it is no trial.
  void WriteRefusal(const std::string& workload, const CandidateKey& candidate,
                    double density);
  // Earlier trials of this workload no longer count.
  void WriteDiscard(const std::string& workload);
  // The same of one candidate, at all densities: it is measured again.
  void WriteAnchor(const std::string& workload, const CandidateKey& candidate);
  // What took 1 ns earlier takes `factor` ns now.
  void WriteDrift(const std::string& workload, double factor);
  void WriteFinished(const std::string& workload, const std::string& search);

 private:
  void WriteLine(const std::string& line);

  std::ofstream file_;
  JournalState earlier_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_JOURNAL_H_
