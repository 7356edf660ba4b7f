// The conditions under which timings are taken, and how far to trust them.
#ifndef RANKFORGE_TUNER_ENVIRONMENT_H_
#define RANKFORGE_TUNER_ENVIRONMENT_H_

#include <cstddef>
#include <cstdint>

#include "runtime/table.h"

namespace rankforge {

// CPU time of the whole machine since boot, in ticks.
struct CpuTicks {
  uint64_t steal = 0;  // wanted by this machine, given to others
  uint64_t total = 0;
};
CpuTicks ReadCpuTicks();

// Governor, load and huge pages as they are now; what a system does not say is
// "unknown" or 0.
TableEnvironment ReadEnvironment();

// What the measurements of a run were like.
struct RunQuality {
  double spread = 0;  // median over all winners of MAD / median
  // Chosen variants that read cold weights faster than the read loops do.
  size_t above_bandwidth = 0;
  size_t unmeasured = 0;  // problems that the budget left out
};

// Sets the share of stolen time since `start` and the confidence: low when
// these or the load say that another run might choose differently.
void JudgeConfidence(const CpuTicks& start, const RunQuality& quality,
                     TableEnvironment* environment);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_ENVIRONMENT_H_
