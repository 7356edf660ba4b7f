#include "runtime/table/cpu.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwloc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "base/affinity.h"
#include "kernels/targets.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define RANKFORGE_HAVE_CPUID 1
#else
#define RANKFORGE_HAVE_CPUID 0
#endif

namespace rankforge {
namespace {

std::string Trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

// The first processor of /proc/cpuinfo.
std::map<std::string, std::string> CpuInfoFields() {
  std::map<std::string, std::string> fields;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    fields.emplace(Trimmed(line.substr(0, colon)),
                   Trimmed(line.substr(colon + 1)));
  }
  return fields;
}

#if RANKFORGE_HAVE_CPUID

struct CpuidLeaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf Cpuid(unsigned leaf) {
  CpuidLeaf r;
  __get_cpuid(leaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// Appends the 4 bytes of each register in order, as CPUID spells its strings.
void AppendRegisters(std::initializer_list<unsigned> registers,
                     std::string* text) {
  for (const unsigned value : registers) {
    char bytes[4];
    std::memcpy(bytes, &value, 4);
    text->append(bytes, 4);
  }
}

void ReadIdentity(CpuInfo* cpu) {
  const CpuidLeaf vendor = Cpuid(0);
  AppendRegisters({vendor.ebx, vendor.edx, vendor.ecx}, &cpu->vendor);

  // Family and model are split over a base and an extended field. The extended
  // fields count if the base family is 15; the extended model also counts for
  // Intel's family 6.
  const CpuidLeaf version = Cpuid(1);
  const int base_family = (version.eax >> 8) & 15;
  const int base_model = (version.eax >> 4) & 15;
  const int extended_family = (version.eax >> 20) & 255;
  const int extended_model = (version.eax >> 16) & 15;
  cpu->stepping = version.eax & 15;
  cpu->family = base_family + (base_family == 15 ? extended_family : 0);
  cpu->model =
      base_model +
      (base_family == 15 || base_family == 6 ? extended_model << 4 : 0);
  cpu->hypervisor = (version.ecx >> 31) & 1;

  if (Cpuid(0x80000000).eax >= 0x80000004) {
    std::string brand;
    for (unsigned leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
      const CpuidLeaf r = Cpuid(leaf);
      AppendRegisters({r.eax, r.ebx, r.ecx, r.edx}, &brand);
    }
    cpu->brand = Trimmed(brand.c_str());  // ends at the first zero byte
  }
  cpu->microcode = CpuInfoFields()["microcode"];
}

#else

// From the fields of Arm: implementer, architecture, part, revision.
void ReadIdentity(CpuInfo* cpu) {
  std::map<std::string, std::string> fields = CpuInfoFields();
  const auto number = [&](const char* key) {
    return static_cast<int>(std::strtol(fields[key].c_str(), nullptr, 0));
  };
  cpu->vendor = fields["CPU implementer"];
  cpu->family = number("CPU architecture");
  cpu->model = number("CPU part");
  cpu->stepping = number("CPU revision");
  cpu->brand = fields["model name"];
}

#endif  // RANKFORGE_HAVE_CPUID

size_t CacheBytes(hwloc_topology_t topology, hwloc_obj_type_t type) {
  const hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
  return cache == nullptr ? 0 : cache->attr->cache.size;
}

// Cores with a hardware thread that this process may run on.
size_t UsableCores(hwloc_topology_t topology) {
  const hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
  size_t cores = 0;
  if (hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) == 0) {
    const int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    for (int i = 0; i < count; ++i) {
      const hwloc_obj_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE,
                                                     static_cast<unsigned>(i));
      cores += hwloc_bitmap_intersects(core->cpuset, allowed) != 0;
    }
  }
  hwloc_bitmap_free(allowed);
  return cores;
}

void ReadTopology(CpuInfo* cpu) {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return;
  if (hwloc_topology_load(topology) == 0) {
    cpu->l1d_bytes = CacheBytes(topology, HWLOC_OBJ_L1CACHE);
    cpu->l2_bytes = CacheBytes(topology, HWLOC_OBJ_L2CACHE);
    cpu->l3_bytes = CacheBytes(topology, HWLOC_OBJ_L3CACHE);
    cpu->cores = UsableCores(topology);
  }
  hwloc_topology_destroy(topology);
}

CpuInfo ReadCpu() {
  CpuInfo cpu;
  ReadIdentity(&cpu);
  ReadTopology(&cpu);
  if (cpu.cores == 0) {
    cpu.cores = UsableCpus().size();
  }
  cpu.targets = UsableTargetNames();
  return cpu;
}

}  // namespace

const CpuInfo& CpuInfo::Detect() {
  static const CpuInfo kThisCpu = ReadCpu();
  return kThisCpu;
}

std::vector<CpuDifference> Differences(const CpuInfo& a, const CpuInfo& b) {
  std::vector<CpuDifference> differences;
  const auto compare = [&](Match breaks, const char* field, const auto& value_a,
                           const auto& value_b) {
    if (value_a == value_b) return;
    differences.push_back({breaks, field, fmt::format("{}", value_a),
                           fmt::format("{}", value_b)});
  };
  const auto list = [](const std::vector<std::string>& targets) {
    return fmt::format("{}", fmt::join(targets, ","));
  };
  compare(Match::kFamily, "vendor", a.vendor, b.vendor);
  compare(Match::kFamily, "family", a.family, b.family);
  // The best target decides what runs. Which others a build has does not
  // matter.
  const bool same_best = !a.targets.empty() && !b.targets.empty() &&
                         a.targets.front() == b.targets.front();
  compare(same_best ? Match::kExact : Match::kFamily, "targets",
          list(a.targets), list(b.targets));
  compare(Match::kCompatible, "model", a.model, b.model);
  compare(Match::kCompatible, "caches.l1d_bytes", a.l1d_bytes, b.l1d_bytes);
  compare(Match::kCompatible, "caches.l2_bytes", a.l2_bytes, b.l2_bytes);
  compare(Match::kCompatible, "caches.l3_bytes", a.l3_bytes, b.l3_bytes);
  compare(Match::kExact, "stepping", a.stepping, b.stepping);
  if (!a.microcode.empty() && !b.microcode.empty()) {
    compare(Match::kExact, "microcode", a.microcode, b.microcode);
  }
  compare(Match::kExact, "brand", a.brand, b.brand);
  compare(Match::kExact, "cores", a.cores, b.cores);
  compare(Match::kExact, "hypervisor", a.hypervisor, b.hypervisor);
  return differences;
}

Match MatchOf(std::span<const CpuDifference> differences) {
  int match = static_cast<int>(Match::kExact);
  for (const CpuDifference& difference : differences) {
    match = std::min(match, static_cast<int>(difference.breaks) - 1);
  }
  return static_cast<Match>(match);
}

std::string Listed(std::span<const CpuDifference> differences, Match match,
                   std::string_view between) {
  std::vector<std::string> fields;
  for (const CpuDifference& difference : differences) {
    if (difference.breaks > match) continue;
    fields.push_back(fmt::format("{} {:.80}{}{:.80}", difference.field,
                                 difference.a, between, difference.b));
  }
  return fmt::format("{}", fmt::join(fields, "; "));
}

}  // namespace rankforge
