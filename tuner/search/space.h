// From a workload and a rigor to what is measured: candidates and densities.
#ifndef RANKFORGE_TUNER_SEARCH_SPACE_H_
#define RANKFORGE_TUNER_SEARCH_SPACE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/registry.h"
#include "meta/types.h"
#include "runtime/table/problem.h"
#include "runtime/table/rigor.h"

namespace rankforge {

// One thing that can be timed.
struct Candidate {
  std::string variant;  // KernelEntry::FullName(), for journals and tables
  uint64_t spec_hash = 0;
  Layout layout = Layout::kOutIn;
  size_t threads = 1;
  bool zeroed = false;  // reads everything, whatever the density
  const KernelEntry* kernel = nullptr;  // what is timed
};

Candidate CandidateOf(const KernelEntry& kernel, Layout layout, size_t threads);

// Whether a decision may have both: it has one layout and one thread count.
inline bool SameConfiguration(const Candidate& a, const Candidate& b) {
  return a.layout == b.layout && a.threads == b.threads;
}

// Index of the candidate that runs without a table.
inline constexpr size_t kDefaultCandidate = 0;

// What is searched for one workload.
struct SearchSpace {
  // The default first, then in declared order: ties go to the front.
  std::vector<Candidate> candidates;
  std::vector<double> densities;  // measured; ascending, the last is 1
  std::vector<double> weights;    // share of the calls at each; sums to 1
  size_t expected = 0;            // index of the density of most calls
};

// Problems that cannot occur, densities outside (0, 1], profiles of another
// length: a usage error that names the layer, the field and its value.
Status CheckWorkload(const Workload& workload);

// One workload per problem: equal problems are tuned once for all their layers,
// at the mean of their densities and over the union of their spreads.
std::vector<Workload> MergeEqualProblems(
    const std::vector<Workload>& workloads);

// Bytes of the weights, over all layers that share the problem.
double ModelBytes(const Workload& workload);

// What masks of this workload rest on: "trace", "recorded" (frequencies), or
// the name of its mask structure.
std::string_view MaskSource(const Workload& workload);

// Every applicable entry of every layout with the threads of the default, then
// all of them with the other number of threads: one instead of all, or all
// instead of one.
//
// Densities: of 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85 and 1 those that the layer
// may see (estimate: none, measure: near its spread, patient: all), its own
// density and 1.
SearchSpace MakeSpace(const Workload& workload, Rigor rigor);

// The same at densities that the caller chose: ascending, the last is 1.
SearchSpace SpaceAt(const Workload& workload, std::vector<double> densities);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_SPACE_H_
