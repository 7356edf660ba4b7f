// On which CPUs this process may run, and for how much of their time; keeping
// threads where they are while something is timed.
#ifndef RANKFORGE_BASE_AFFINITY_H_
#define RANKFORGE_BASE_AFFINITY_H_

#include <sched.h>

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rankforge {

// CPUs by number, however many a machine has: a cpu_set_t alone ends at 1024.
class CpuSet {
 public:
  // As sched_getaffinity: fills a set of so many bytes; -1 with EINVAL if it is
  // too small.
  using Getter = std::function<int(size_t bytes, cpu_set_t* set)>;

  // Those that the calling thread may run on, or that `get` says. Empty where
  // the system does not tell.
  static CpuSet OfThisThread();
  static CpuSet Read(const Getter& get);
  static CpuSet Of(int cpu);

  std::vector<int> cpus() const;  // ascending
  size_t bytes() const { return sets_.size() * sizeof(cpu_set_t); }
  const cpu_set_t* data() const { return sets_.data(); }

 private:
  explicit CpuSet(size_t sets) : sets_(sets) {}

  std::vector<cpu_set_t> sets_;  // one after the other, as one large set
};

// CPUs that the calling thread may run on, ascending; at least one.
std::vector<int> UsableCpus();

// CPUs' worth of time that control groups grant: the least quota of the group
// and its ancestors, in version 1 and 2. `groups` is the text of
// /proc/self/cgroup, `root` the folder where groups are mounted. Infinity: no
// group has a quota.
double CpuQuota(std::string_view groups, const std::string& root);

// Threads that this process can keep busy: as many as it has usable CPUs, or
// fewer where a quota grants less. Threads above the quota are stopped together
// for the rest of each period, so a part of a CPU is none. At least 1.
size_t UsableThreads();

// Keeps the calling thread on `cpu` until destroyed.
class PinnedHere {
 public:
  explicit PinnedHere(int cpu);
  ~PinnedHere();
  PinnedHere(const PinnedHere&) = delete;
  PinnedHere& operator=(const PinnedHere&) = delete;

 private:
  CpuSet before_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_AFFINITY_H_
