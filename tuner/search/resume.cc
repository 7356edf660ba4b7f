#include "tuner/search/resume.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/registry.h"

namespace rankforge {
namespace {

CandidateKey KeyOf(const Candidate& candidate) {
  return {candidate.variant, candidate.spec_hash,
          std::string(Name(candidate.layout)), candidate.threads};
}

}  // namespace

std::string WorkloadName(const Workload& workload) {
  const auto add = [](const auto& values, uint64_t hash) {
    return HashOf({reinterpret_cast<const char*>(values.data()),
                   values.size() * sizeof(values[0])},
                  hash);
  };
  uint64_t hash =
      HashOf(fmt::format("{} {} {} {}", workload.density, workload.density_p05,
                         workload.density_p95, MaskSource(workload)));
  hash = add(workload.keep_frequency, hash);
  for (const auto& mask : workload.trace) hash = add(mask, hash);
  return fmt::format("{}, masks {:016x}", workload.problem.ToString(), hash);
}

std::string SearchName(const SearchSpace& space, const SearchPolicy& policy,
                       const TableBuild& build) {
  std::string text = build.compiler + " " + build.flags;
  for (const Candidate& candidate : space.candidates) {
    text += fmt::format("\n{} {:016x} {} {}", candidate.variant,
                        candidate.spec_hash, Name(candidate.layout),
                        candidate.threads);
  }
  text += fmt::format("\n{} {} {} {} {}", fmt::join(space.densities, " "),
                      policy.rounds, policy.other_rounds,
                      policy.settling_rounds, policy.twins);
  for (const DropRule& rule : policy.drops) {
    text += fmt::format(" {} {} {}", rule.after, rule.ratio, rule.keep);
  }
  return fmt::format("{:016x}", HashOf(text));
}

JournalObserver::JournalObserver(const SearchSpace& space, std::string workload,
                                 Journal* journal,
                                 std::function<void()> progress)
    : space_(space),
      workload_(std::move(workload)),
      journal_(journal),
      progress_(std::move(progress)) {}

void JournalObserver::OnTrial(size_t candidate, size_t density,
                              const Sample& sample) {
  journal_->WriteTrial(workload_, {KeyOf(space_.candidates[candidate]),
                                   space_.densities[density], sample});
  progress_();
}

void JournalObserver::OnDrop(size_t candidate, size_t density, size_t rounds,
                             double ratio) {
  journal_->WriteDrop(workload_, KeyOf(space_.candidates[candidate]),
                      space_.densities[density], rounds, ratio);
}

void JournalObserver::OnRefusal(size_t candidate, size_t density) {
  journal_->WriteRefusal(workload_, KeyOf(space_.candidates[candidate]),
                         space_.densities[density]);
}

Anchors MeasureAnchors(const SearchSpace& space, const Measurements& known,
                       Runner& runner) {
  const size_t density = space.expected;
  const auto before = [&](size_t c) { return known.At(c, density).median; };
  std::optional<size_t> incumbent;
  for (size_t c = 0; c < space.candidates.size(); ++c) {
    if (known.Count(c, density) > 0 &&
        (!incumbent || before(c) < before(*incumbent))) {
      incumbent = c;
    }
  }
  Anchors anchors;
  if (!incumbent) return anchors;
  anchors.candidates = {*incumbent};
  if (*incumbent != kDefaultCandidate &&
      known.Count(kDefaultCandidate, density) > 0) {
    anchors.candidates.push_back(kDefaultCandidate);
  }
  Measurements fresh(space.candidates.size(), space.densities.size());
  for (size_t round = 0; round < kMinSamples; ++round) {
    for (const size_t c : anchors.candidates) {
      fresh.Add(c, density, runner.Measure(c, density));
    }
  }
  double log_drift = 0;
  for (const size_t c : anchors.candidates) {
    const double ratio = fresh.At(c, density).median / before(c);
    if (!(std::abs(ratio - 1) <= 0.1)) return anchors;
    log_drift +=
        std::log(ratio) / static_cast<double>(anchors.candidates.size());
  }
  anchors.drift = std::exp(log_drift);
  return anchors;
}

Measurements KnownSamples(const SearchSpace& space,
                          const std::vector<TrialRecord>& trials) {
  std::vector<CandidateKey> candidates;
  for (const Candidate& candidate : space.candidates) {
    candidates.push_back(KeyOf(candidate));
  }
  Measurements known(space.candidates.size(), space.densities.size());
  for (const TrialRecord& trial : trials) {
    const auto candidate =
        std::find(candidates.begin(), candidates.end(), trial.candidate);
    const auto density = std::find(space.densities.begin(),
                                   space.densities.end(), trial.density);
    if (candidate == candidates.end() || density == space.densities.end()) {
      continue;
    }
    known.Add(static_cast<size_t>(candidate - candidates.begin()),
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
    journal.WriteAnchor(workload, KeyOf(space.candidates[c]));
    known.Forget(c);
  }
  return known;
}

}  // namespace rankforge
