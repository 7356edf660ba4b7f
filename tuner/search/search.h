// Which measurements to take, and in which order. Knows neither kernels nor
// clocks: both come in through interfaces, so that tests can stand in for them.
// What the samples say is the business of choose.h.
#ifndef RANKFORGE_TUNER_SEARCH_SEARCH_H_
#define RANKFORGE_TUNER_SEARCH_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tuner/search/measurements.h"
#include "tuner/search/space.h"

namespace rankforge {

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

// Is told everything that happens in a search. The journal is one such
// observer.
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
  // How many more the default and the best of its rivals may take until it is
  // clear whether the best is ahead by the margin.
  size_t settling_rounds = 0;
  // How many of the best are tried with the other number of threads.
  size_t twins = 0;
  uint64_t seed = 0;
  double margin = 0.02;
};

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

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_SEARCH_H_
