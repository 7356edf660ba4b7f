// Between a search, which counts candidates and densities, and the journal,
// which names them: what is written, and what an earlier run is worth.
#ifndef RANKFORGE_TUNER_SEARCH_RESUME_H_
#define RANKFORGE_TUNER_SEARCH_RESUME_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tuner/search/journal.h"
#include "tuner/search/measurements.h"
#include "tuner/search/search.h"
#include "tuner/search/space.h"

namespace rankforge {

// Identifies a workload in a journal: its problem and a hash of the masks it
// sees.
std::string WorkloadName(const Workload& workload);

// Identifies what a search does, but for its random order: candidates with
// their specs, densities, rounds, and the build that ran them.
std::string SearchName(const SearchSpace& space, const SearchPolicy& policy,
                       const TableBuild& build);

// Writes what a search does to the journal, and reports progress.
class JournalObserver : public SearchObserver {
 public:
  // The arguments must outlive the observer.
  JournalObserver(const SearchSpace& space, std::string workload,
                  Journal* journal, std::function<void()> progress);

  void OnTrial(size_t candidate, size_t density, const Sample& sample) override;
  void OnDrop(size_t candidate, size_t density, size_t rounds,
              double ratio) override;
  void OnRefusal(size_t candidate, size_t density) override;

 private:
  const SearchSpace& space_;
  const std::string workload_;
  Journal* journal_;
  const std::function<void()> progress_;
};

// What tells whether an earlier run's samples may be mixed with new ones.
struct Anchors {
  // The default and the best of the earlier run, as far as it measured them.
  std::vector<size_t> candidates;
  // How many times as long as before they take now; none if they moved by more
  // than 10 %, each for itself.
  std::optional<double> drift;
};
Anchors MeasureAnchors(const SearchSpace& space, const Measurements& known,
                       Runner& runner);

// The trials of an earlier run, by index. Those of variants that are no longer
// searched or have another spec, and of other densities, are left out.
Measurements KnownSamples(const SearchSpace& space,
                          const std::vector<TrialRecord>& trials);

// What a search of `workload` starts with: nothing, or the trials of the
// journal if its anchors, measured again, have not moved by more than 10 %
// (else they are discarded). They are scaled by how far the anchors moved, and
// the anchors' own are forgotten, so that they are measured beside whatever is
// new: a candidate that has its samples is not measured again.
Measurements Continue(const SearchSpace& space, const std::string& workload,
                      Journal& journal, Runner& runner);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_RESUME_H_
