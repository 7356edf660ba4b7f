// What tuning decided for a problem and what it measured, by name, as a table's
// file holds it.
#ifndef RANKFORGE_RUNTIME_TABLE_DECISION_H_
#define RANKFORGE_RUNTIME_TABLE_DECISION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "base/status.h"
#include "runtime/table/choice.h"
#include "runtime/table/problem.h"

namespace rankforge {

// The variant that won at densities up to max_density and above that of the
// previous bucket.
struct Bucket {
  double max_density = 1;
  std::string variant;  // KernelEntry::FullName()
  uint64_t spec_hash = 0;
  Timing ns;
  double useful_gbps = 0;
  double roofline = 0;    // useful_gbps / read bandwidth
  double vs_default = 1;  // time of the default / time of this variant
  std::string runner_up;
  double runner_up_ns = 0;
};

// Buckets ascend in max_density; the last one ends at 1. Dense problems have a
// single bucket.
struct Decision {
  Layout layout = Layout::kOutIn;
  size_t threads = 1;
  std::string default_variant;
  std::vector<Bucket> by_density;
  // From this density on all buckets hold a zeroed variant; 1: none does.
  double crossover_to_dense = 1;
};

// Why `bucket` cannot serve `problem` on `layout`: its variant is not in this
// build, has another spec hash, or does not fit. Empty when it can.
std::string WhyUnfit(const Bucket& bucket, const Problem& problem,
                     Layout layout);

// The names of `choice`, with nothing measured.
Decision Unmeasured(const Choice& choice, const Problem& problem);

// Binds the names of `decision` to the kernels of this build. A bucket whose
// variant cannot run takes the default and loses what was measured, so that the
// other buckets stay of use; `note` then says how many and why. A status where
// this build has no kernel for the problem on that layout.
Result<Choice> Resolve(const Problem& problem, Decision& decision,
                       std::string& note);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_DECISION_H_
