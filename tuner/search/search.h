// Which measurements to take, in which order, and what to choose from them.
// Knows neither kernels nor clocks: both come in through interfaces, so that
// tests can stand in for them.
#ifndef RANKFORGE_TUNER_SEARCH_SEARCH_H_
#define RANKFORGE_TUNER_SEARCH_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "meta/types.h"
#include "runtime/table/problem.h"

namespace rankforge {

// One thing that can be timed.
struct Candidate {
  std::string variant;  // KernelEntry::FullName()
  uint64_t spec_hash = 0;
  Layout layout = Layout::kOutIn;
  size_t threads = 1;
  bool zeroed = false;  // reads everything, whatever the density
};

// What is searched for one workload.
struct SearchSpace {
  // The default first, then in declared order: ties go to the front.
  std::vector<Candidate> candidates;
  std::vector<double> densities;  // measured; ascending, the last is 1
  std::vector<double> weights;    // share of the calls at each; sums to 1
  size_t expected = 0;            // index of the density of most calls
};

// One timed call; 0: too short for the clock, which is no time at all.
struct Sample {
  double ns = 0;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // Times one call of a candidate at a density, both by index.
  virtual Sample Measure(size_t candidate, size_t density) = 0;
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual double Seconds() = 0;  // since some fixed moment
};

// Hears of everything that happens in a search; the journal is one.
class SearchObserver {
 public:
  virtual ~SearchObserver() = default;
  virtual void OnTrial(size_t candidate, size_t density,
                       const Sample& sample) = 0;
  // The candidate was `ratio` times as slow as the best after `rounds`.
  virtual void OnDrop(size_t candidate, size_t density, size_t rounds,
                      double ratio) = 0;
  // The call was too short for the clock.
  virtual void OnRefusal(size_t candidate, size_t density) = 0;
};

// All samples of a search, by candidate and density.
class Measurements {
 public:
  Measurements(size_t candidates, size_t densities);

  void Add(size_t candidate, size_t density, const Sample& sample);
  // Drops the samples of a candidate at all densities.
  void Forget(size_t candidate);
  void Scale(double factor);
  // ns, one a round.
  const std::vector<double>& Samples(size_t candidate, size_t density) const;
  // Samples taken.
  size_t Count(size_t candidate, size_t density) const;
  // Of all of them: without those above the read bandwidth, which was measured
  // at another moment, the quickest candidates lost their best samples.
  Timing At(size_t candidate, size_t density) const;
  size_t total() const { return total_; }

 private:
  const std::vector<double>& CellAt(size_t candidate, size_t density) const;

  size_t densities_;
  std::vector<std::vector<double>> cells_;  // ns
  size_t total_ = 0;
};

// From `after` rounds on, only candidates within `ratio` of the best stay, and
// no more than `keep` of them. The default always stays.
struct DropRule {
  size_t after;
  double ratio;
  size_t keep;
};

struct SearchPolicy {
  std::vector<DropRule> drops;  // ascending in `after`
  size_t rounds = 0;            // at the expected density
  size_t other_rounds = 0;      // at the others
  // How many more the default and who is ahead of it may take until it is clear
  // by how much.
  size_t settling_rounds = 0;
  // How many of the best are tried with the other number of threads.
  size_t twins = 0;
  uint64_t seed = 0;
  double margin = 0.02;
};

// Fewer samples than this decide nothing: the default stays.
inline constexpr size_t kMinSamples = 3;

struct SearchResult {
  Measurements measurements;
  bool complete = true;  // the deadline cut nothing off
  size_t refused = 0;    // calls too short for the clock
};

// Races all candidates at the expected density, then the survivors and the
// zeroed forms at the others. Each round measures every candidate left once, in
// a random order that depends on the seed alone. What time is left goes to
// densities at which the noise hides whether the best is ahead of the default
// by the margin. Stops at `deadline` on `clock`, but not before the default was
// measured once. `known` are samples of an earlier run; they count as rounds
// already done.
SearchResult Search(const SearchSpace& space, const SearchPolicy& policy,
                    double deadline, Measurements known, Runner& runner,
                    Clock& clock, SearchObserver& observer);

// What the samples say: the layout and threads with the least expected time
// over the weights of the densities, and within them a variant per density.
// A challenger replaces the default only if it wins by `margin` and beyond the
// noise; ties go to the candidate declared first. Bucket limits lie midway
// between densities.
Decision Choose(const SearchSpace& space, const Measurements& measurements,
                double margin);

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

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_SEARCH_H_
