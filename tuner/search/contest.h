// Choices against each other, measured in turns. Knows neither kernels nor
// tables.
#ifndef RANKFORGE_TUNER_SEARCH_CONTEST_H_
#define RANKFORGE_TUNER_SEARCH_CONTEST_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/table/problem.h"
#include "tuner/search/search.h"

namespace rankforge {

// One time relative to another, from rounds in which both were taken.
struct TimeRatio {
  double value = 1;
  double error = 0;  // standard error of the median
};

// Median of a / b over rounds: ns that were taken in the same rounds.
TimeRatio RatioOf(const std::vector<double>& a, const std::vector<double>& b);

struct VerifiedBucket {
  double density = 1;
  double weight = 0;   // share of the calls
  std::string chosen;  // variants
  std::string rival;   // the best with the same layout and threads, or what
                       // another table chose
  std::string best;    // of the configuration that is the entry's rival
  double chosen_ns = 0;
  TimeRatio regret;      // time of the chosen / of the rival
  TimeRatio vs_default;  // time of the default / of the chosen
};

struct VerifiedEntry {
  Problem problem;
  std::vector<std::string> layers;
  Layout layout = Layout::kOutIn;
  size_t threads = 1;
  // Of the rival: the configuration that takes the least time over the weights
  // of the densities, or another table's.
  Layout rival_layout = Layout::kOutIn;
  size_t rival_threads = 1;
  double chosen_ns = 0;  // over the weights
  TimeRatio regret;      // the same of whole entries
  TimeRatio vs_default;
  std::vector<VerifiedBucket> by_density;
};

// What is compared, by density: candidates of one layout and thread count.
using Side = std::vector<size_t>;

// The chosen against the best of all candidates. First all take turns for
// `rounds` rounds; those whose best sample is 1.3 times the best median after
// the third leave. The best within the chosen configuration and the best
// configuration then meet the chosen and the default in rounds of their own:
// the samples that made one the best would flatter it.
VerifiedEntry VerifyEntry(const SearchSpace& space, const Side& chosen,
                          size_t rounds, uint64_t seed, Runner& runner);
// The chosen against one rival, and the default.
VerifiedEntry CompareEntry(const SearchSpace& space, const Side& chosen,
                           const Side& rival, size_t rounds, uint64_t seed,
                           Runner& runner);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_CONTEST_H_
