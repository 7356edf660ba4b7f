// A dispatch table against the defaults on the products of a token, in the
// order in which decode runs them: isolated timings may mislead.
#ifndef RANKFORGE_TUNER_SEQUENCE_H_
#define RANKFORGE_TUNER_SEQUENCE_H_

#include <cstddef>
#include <vector>

#include "base/status.h"
#include "runtime/table/problem.h"
#include "runtime/table/table.h"
#include "tuner/verify.h"

namespace rankforge {

// A token's products in order.
struct SequenceReport {
  size_t products = 0;
  double default_ns = 0, chosen_ns = 0, best_ns = 0;
  TimeRatio regret;      // chosen / best
  TimeRatio vs_default;  // default / chosen
};

// Runs `products` one after another as decode does, at the density that each
// expects: with the choices of `table`, with the defaults, and with what
// `report` found best for each alone. Products of problems without a workload
// are left out.
Result<SequenceReport> VerifySequence(const DispatchTable& table,
                                      const VerifyReport& report,
                                      const std::vector<Workload>& workloads,
                                      const std::vector<Problem>& products,
                                      const VerifyOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEQUENCE_H_
