// What this CPU is: the fingerprint that a dispatch table carries.
#ifndef RANKFORGE_RUNTIME_TABLE_CPU_H_
#define RANKFORGE_RUNTIME_TABLE_CPU_H_

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankforge {

struct CpuInfo {
  std::string vendor;  // "AuthenticAMD"
  int family = 0;
  int model = 0;
  int stepping = 0;
  std::string microcode;  // as the kernel prints it; empty: it does not say
  std::string brand;
  std::vector<std::string> targets;  // of the registry, best first
  size_t l1d_bytes = 0;              // one core's; 0: unknown
  size_t l2_bytes = 0;
  size_t l3_bytes = 0;  // one shared L3
  size_t cores = 0;     // usable by this process (affinity)
  bool hypervisor = false;

  // Reads CPUID (/proc/cpuinfo where the architecture has none) and hwloc.
  // Never fails; unknown fields stay empty. Reads once, at the first call: a
  // CPU does not change, and a thread that is pinned later would see one core.
  static const CpuInfo& Detect();

  bool operator==(const CpuInfo&) const = default;
};

// How well two fingerprints agree, weakest first. Each value also asks for all
// that the weaker ones ask for.
enum class Match {
  kForeign,
  // Vendor, family and best target: enough for the shipped tables.
  kFamily,
  // Model and caches, too: timings of one mean something on the other.
  kCompatible,
  // Everything: the other targets, stepping, microcode, brand, hypervisor,
  // cores, and the build (compiler, flags, registry hash). These change how
  // fast a CPU is, but rarely which variant wins. Cores matter little because
  // the thread count is part of every problem.
  kExact,
};

constexpr std::string_view Name(Match match) {
  constexpr std::array<std::string_view, 4> kNames = {"foreign", "family",
                                                      "compatible", "exact"};
  return kNames[static_cast<size_t>(match)];
}

// A field in which two fingerprints differ, with both values as text.
struct CpuDifference {
  Match breaks;       // the weakest match that asks for this field
  std::string field;  // as the table names it: "model", "caches.l3_bytes"
  std::string a;
  std::string b;
};

// The fields that differ. Microcode counts only if both fingerprints know it.
std::vector<CpuDifference> Differences(const CpuInfo& a, const CpuInfo& b);

// The strongest match that these differences leave.
Match MatchOf(std::span<const CpuDifference> differences);

// The differences that break `match`, as text: "model 1, here 17; targets ...".
std::string Listed(std::span<const CpuDifference> differences, Match match,
                   std::string_view between = ", here ");

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_CPU_H_
