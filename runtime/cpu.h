// What this CPU is: the fingerprint that a dispatch table carries.
#ifndef RANKFORGE_RUNTIME_CPU_H_
#define RANKFORGE_RUNTIME_CPU_H_

#include <cstddef>
#include <string>
#include <vector>

namespace rankforge {

struct CpuInfo {
  std::string vendor;  // "AuthenticAMD"
  int family = 0;
  int model = 0;
  int stepping = 0;
  std::string brand;
  std::vector<std::string> targets;  // of the registry, best first
  size_t l1d_bytes = 0;              // one core's; 0: unknown
  size_t l2_bytes = 0;
  size_t l3_bytes = 0;  // one shared L3
  size_t cores = 0;     // usable by this process (affinity)
  bool hypervisor = false;

  // Reads CPUID (through /proc/cpuinfo where the architecture has none) and
  // hwloc; never fails, unknown fields stay empty. Read once, at the first
  // call: a CPU does not change, and a thread that was pinned later would see
  // one core.
  static const CpuInfo& Detect();

  bool operator==(const CpuInfo&) const = default;
};

// A field in which two fingerprints differ, with both values as text.
struct CpuDifference {
  std::string field;  // as the table names it: "model", "caches.l3_bytes"
  std::string a;
  std::string b;
};

// The differences that make timings of `a` worthless on `b`: vendor, family,
// model, targets and caches. Stepping, brand, cores and hypervisor may differ:
// they change how fast the CPU is, rarely which variant wins, and the thread
// count is part of every problem.
std::vector<CpuDifference> CompatibilityDifferences(const CpuInfo& a,
                                                    const CpuInfo& b);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_CPU_H_
