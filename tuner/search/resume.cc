#include "tuner/search/resume.h"

#include <algorithm>
#include <utility>

namespace rankforge {
namespace {

TrialRecord RecordOf(const Candidate& candidate) {
  return {candidate.variant,
          candidate.spec_hash,
          std::string(Name(candidate.layout)),
          candidate.threads,
          0,
          {}};
}

}  // namespace

JournalObserver::JournalObserver(const SearchSpace& space, std::string workload,
                                 Journal* journal,
                                 std::function<void()> progress)
    : space_(space),
      workload_(std::move(workload)),
      journal_(journal),
      progress_(std::move(progress)) {}

void JournalObserver::OnTrial(size_t candidate, size_t density,
                              const Sample& sample) {
  TrialRecord record = RecordOf(space_.candidates[candidate]);
  record.density = space_.densities[density];
  record.sample = sample;
  journal_->WriteTrial(workload_, record);
  progress_();
}

void JournalObserver::OnDrop(size_t candidate, size_t density, size_t rounds,
                             double ratio) {
  TrialRecord record = RecordOf(space_.candidates[candidate]);
  record.density = space_.densities[density];
  journal_->WriteDrop(workload_, record, rounds, ratio);
}

void JournalObserver::OnRefusal(size_t candidate, size_t density) {
  TrialRecord record = RecordOf(space_.candidates[candidate]);
  record.density = space_.densities[density];
  journal_->WriteRefusal(workload_, record);
}

Measurements KnownSamples(const SearchSpace& space,
                          const std::vector<TrialRecord>& trials) {
  Measurements known(space.candidates.size(), space.densities.size());
  for (const TrialRecord& trial : trials) {
    const auto candidate =
        std::find_if(space.candidates.begin(), space.candidates.end(),
                     [&](const Candidate& other) {
                       return other.variant == trial.variant &&
                              other.spec_hash == trial.spec_hash &&
                              Name(other.layout) == trial.layout &&
                              other.threads == trial.threads;
                     });
    const auto density = std::find(space.densities.begin(),
                                   space.densities.end(), trial.density);
    if (candidate == space.candidates.end() ||
        density == space.densities.end()) {
      continue;
    }
    known.Add(static_cast<size_t>(candidate - space.candidates.begin()),
              static_cast<size_t>(density - space.densities.begin()),
              trial.sample);
  }
  return known;
}

Measurements Continue(const SearchSpace& space, const std::string& workload,
                      Journal& journal, Runner& runner) {
  Measurements known = KnownSamples(space, journal.Trials(workload));
  if (known.total() == 0) return known;
  const Anchors anchors = MeasureAnchors(space, known, runner);
  if (!anchors.drift) {
    journal.WriteDiscard(workload);
    return {space.candidates.size(), space.densities.size()};
  }
  journal.WriteDrift(workload, *anchors.drift);
  known.Scale(*anchors.drift);
  for (const size_t c : anchors.candidates) {
    journal.WriteAnchor(workload, RecordOf(space.candidates[c]));
    known.Forget(c);
  }
  return known;
}

}  // namespace rankforge
