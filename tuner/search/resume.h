// Between a search, which counts candidates and densities, and the journal,
// which names them: what is written, and what an earlier run is worth.
#ifndef RANKFORGE_TUNER_SEARCH_RESUME_H_
#define RANKFORGE_TUNER_SEARCH_RESUME_H_

#include <functional>
#include <string>
#include <vector>

#include "tuner/search/journal.h"
#include "tuner/search/search.h"

namespace rankforge {

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
