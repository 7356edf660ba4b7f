// From a workload and a rigor to what is measured, and how often.
#ifndef RANKFORGE_TUNER_SEARCH_SPACE_H_
#define RANKFORGE_TUNER_SEARCH_SPACE_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/table/problem.h"
#include "runtime/table/rigor.h"
#include "runtime/table/table.h"
#include "tuner/search/search.h"

namespace rankforge {

// Problems that cannot occur, densities outside (0, 1], profiles of another
// length: a usage error that names the layer, the field and its value.
Status CheckWorkload(const Workload& workload);

// One workload a problem: equal problems are tuned once for all their layers,
// at the mean of their densities and over the union of their spreads.
std::vector<Workload> MergeEqualProblems(
    const std::vector<Workload>& workloads);

// Bytes of the weights, over all layers that share the problem.
double ModelBytes(const Workload& workload);

// "trace", "recorded" (frequencies), "bernoulli" or "clustered": what masks of
// this workload rest on.
std::string_view MaskSource(const Workload& workload);

// Every applicable entry of every layout with the threads of the default, then
// all of them with the other number of threads: one instead of all, or all
// instead of one.
//
// Densities: of 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85 and 1 those that the layer
// may see (estimate: none, measure: near its spread, patient: all), its own
// density and 1.
SearchSpace MakeSpace(const Workload& workload, Rigor rigor,
                      bool allow_reassociation);

// The same at densities (ascending, the last is 1) that somebody else chose.
SearchSpace SpaceAt(const Workload& workload, std::vector<double> densities,
                    bool allow_reassociation);

SearchPolicy PolicyFor(Rigor rigor);

// Identifies a workload in a journal: its problem and a hash of the masks it
// sees.
std::string WorkloadName(const Workload& workload);

// Identifies what a search does, but for its random order: candidates with
// their specs, densities, rounds, and the build that ran them.
std::string SearchName(const SearchSpace& space, const SearchPolicy& policy,
                       const TableBuild& build);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_SPACE_H_
