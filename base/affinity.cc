#include "base/affinity.h"

namespace rankforge {

std::vector<int> UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

PinnedHere::PinnedHere(int cpu) {
  CPU_ZERO(&before_);
  sched_getaffinity(0, sizeof(before_), &before_);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // If the system refuses, the timings are noisier, and their spread shows it.
  static_cast<void>(sched_setaffinity(0, sizeof(set), &set));
}

PinnedHere::~PinnedHere() {
  static_cast<void>(sched_setaffinity(0, sizeof(before_), &before_));
}

}  // namespace rankforge
