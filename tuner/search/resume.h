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

// Identifies what a search does apart from its random order: candidates with
// their specs, densities, rounds, and the build that runs them.
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

// Whether samples of an earlier run may be mixed with new ones.
struct Anchors {
  // The default and the best of the earlier run, as far as it measured them.
  std::vector<size_t> candidates;
  // Time now / time then, the geometric mean of all; none if one of them moved
  // by more than 10 %.
  std::optional<double> drift;
};
Anchors MeasureAnchors(const SearchSpace& space, const Measurements& known,
                       Runner& runner);

// The trials of an earlier run, by index. Those of variants that are no longer
// searched or have another spec, and of other densities, are left out.
Measurements KnownSamples(const SearchSpace& space,
                          const std::vector<TrialRecord>& trials);

// What a search of `workload` starts with: the trials of the journal, if its
// anchors, measured again, have not moved by more than 10 %. They are scaled by
// how far the anchors moved. The anchors' own are forgotten: a search measures
// only what has no samples, and the anchors are to be measured beside whatever
// is new. If an anchor moved further, all trials are discarded.
Measurements Continue(const SearchSpace& space, const std::string& workload,
                      Journal& journal, Runner& runner);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_RESUME_H_
