// The conditions under which timings are taken, and how far to trust them.
#ifndef RANKFORGE_TUNER_MEASURE_ENVIRONMENT_H_
#define RANKFORGE_TUNER_MEASURE_ENVIRONMENT_H_

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "runtime/table/table.h"

namespace rankforge {

// CPU time of the whole machine since boot, in ticks.
struct CpuTicks {
  uint64_t steal = 0;  // wanted by this machine, given to others
  uint64_t total = 0;
};
CpuTicks ReadCpuTicks();

// Governor, boost, load, huge pages and CPUs as they are now, and the share of
// the CPUs that this process gets (measured for 50 to 250 ms). A field that the
// system does not say is "unknown" or 0.
TableEnvironment ReadEnvironment();

// Fails, with the next step, where timings would mean nothing: `threads`
// threads on fewer CPUs, or CPUs of which this process gets less than half.
// Load is only recorded: an average over a minute also counts work that has
// ended.
Status CheckEnvironment(const TableEnvironment& environment, size_t threads);

// What the measurements of a run were like.
struct RunQuality {
  double spread = 0;  // median over all winners of MAD / median
  // Chosen variants that read cold weights faster than the read loops do.
  size_t above_bandwidth = 0;
  size_t unmeasured = 0;  // problems that the budget left out
  size_t refused = 0;     // calls too short for the clock
};

// Sets the share of stolen time from `start` to `end`, and the confidence: low
// where conditions or timings say that another run might choose differently.
void JudgeConfidence(const CpuTicks& start, const CpuTicks& end,
                     const RunQuality& quality, TableEnvironment* environment);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_ENVIRONMENT_H_
