// Holds a dispatch table against measurements taken now: what its choices cost
// beside the best of all candidates, the defaults, or another table's choices.
#ifndef RANKFORGE_TUNER_VERIFY_H_
#define RANKFORGE_TUNER_VERIFY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/table/problem.h"
#include "runtime/table/table.h"
#include "tuner/search/search.h"
#include "tuner/tuner.h"

namespace rankforge {

struct VerifyOptions {
  // Of all candidates; those that are compared in the end get three times as
  // many more.
  size_t rounds = 9;
  uint64_t seed = 0;
  bool cold = true;
  bool allow_noise = false;
  std::function<void(const TuneProgress&)> progress;
};

// One time relative to another, from rounds in which both were taken.
struct TimeRatio {
  double value = 1;
  double error = 0;  // standard error of the median
};

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

// Densities that tuning measured for these buckets, whose limits lie midway
// between them and the last of which is 1.
std::vector<double> MeasuredDensities(const std::vector<Bucket>& buckets);

struct VerifyReport {
  double read_gbps = 0;  // of as many threads as the problems have at most
  TableEnvironment environment;
  std::vector<VerifiedEntry> entries;
};

// Every entry of `table` against all candidates, or against `rival` where that
// is given and chose otherwise. Masks and weights of densities are those of the
// workload with the same problem; an entry without one sees Bernoulli masks,
// and all its densities alike.
Result<VerifyReport> Verify(const DispatchTable& table,
                            const DispatchTable* rival,
                            const std::vector<Workload>& workloads,
                            const VerifyOptions& options);

// A token's products in order.
struct SequenceReport {
  size_t products = 0;
  double default_ns = 0, chosen_ns = 0, best_ns = 0;
  TimeRatio regret;      // chosen / best
  TimeRatio vs_default;  // default / chosen
};

// Runs the products of `sequence` one after another as decode does, at the
// density that each expects, with the choices of `table`, the defaults, and
// what `report` found best for each alone: isolated timings may mislead.
Result<SequenceReport> VerifySequence(const DispatchTable& table,
                                      const VerifyReport& report,
                                      const std::vector<Workload>& workloads,
                                      const std::vector<Problem>& sequence,
                                      const VerifyOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_VERIFY_H_
