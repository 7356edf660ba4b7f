// Keeps threads where they are while something is timed.
#ifndef RANKFORGE_BASE_AFFINITY_H_
#define RANKFORGE_BASE_AFFINITY_H_

#include <sched.h>

#include <vector>

namespace rankforge {

// CPUs that the calling thread may run on, ascending.
std::vector<int> UsableCpus();

// Keeps the calling thread on `cpu` until destroyed.
class PinnedHere {
 public:
  explicit PinnedHere(int cpu);
  ~PinnedHere();
  PinnedHere(const PinnedHere&) = delete;
  PinnedHere& operator=(const PinnedHere&) = delete;

 private:
  cpu_set_t before_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_AFFINITY_H_
