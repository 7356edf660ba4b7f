// The log of all measurements: JSON lines, one a trial, flushed, so that a
// killed run loses nothing and can be continued.
#ifndef RANKFORGE_TUNER_JOURNAL_H_
#define RANKFORGE_TUNER_JOURNAL_H_

#include <cstdint>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/cpu.h"
#include "runtime/status.h"
#include "tuner/search.h"

namespace rankforge {

// What must agree for the trials of two runs to be comparable.
struct JournalHeader {
  CpuInfo cpu;
  uint64_t registry_hash = 0;
  bool cold = true;
  std::string rigor;  // what "finished" means
};

// One timed call, by name instead of by index.
struct TrialRecord {
  std::string variant;
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
  // fails if it was written on another CPU, by another build, with weights in
  // another place or at another rigor. Otherwise starts it anew.
  static Result<Journal> Open(const std::string& path,
                              const JournalHeader& header, bool resume);

  // Trials of an earlier run, in order. `workload` names a problem with the
  // masks it sees.
  const std::vector<TrialRecord>& Trials(const std::string& workload) const;
  bool IsFinished(const std::string& workload) const;

  void WriteTrial(const std::string& workload, const TrialRecord& trial);
  void WriteDrop(const std::string& workload, const TrialRecord& trial,
                 size_t rounds, double ratio);
  // A candidate that was not raced at all, and why.
  void WriteRejection(const std::string& workload, const std::string& variant,
                      const std::string& layout, const std::string& reason);
  // Earlier trials of this workload do not count any more.
  void WriteDiscard(const std::string& workload);
  void WriteFinished(const std::string& workload);

 private:
  Status ReadBack(const std::string& path, const std::string& header_line);

  std::ofstream file_;
  std::map<std::string, std::vector<TrialRecord>> trials_;
  std::set<std::string> finished_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_JOURNAL_H_
