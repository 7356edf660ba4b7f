// Compares a dispatch table with new measurements: what its choices cost
// against the best of all candidates, the defaults, or another table's choices.
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
#include "tuner/search/contest.h"
#include "tuner/tuner.h"

namespace rankforge {

struct VerifyOptions {
  // Of all candidates; the finalists get three times as many of their own.
  size_t rounds = 9;
  uint64_t seed = 0;
  bool cold = true;
  bool allow_noise = false;
  std::function<void(const TuneProgress&)> progress;
};

// Densities that tuning measured for these buckets, whose limits lie midway
// between them and the last of which is 1.
std::vector<double> MeasuredDensities(const std::vector<Bucket>& buckets);

// Null: none has this problem.
const Workload* FindWorkload(const std::vector<Workload>& workloads,
                             const Problem& problem);

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

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_VERIFY_H_
