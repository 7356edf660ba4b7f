#include "base/affinity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

namespace rankforge {
namespace {

// The words of a small file; none if it cannot be
// read.
std::vector<std::string> WordsOf(const std::string& path) {
  std::ifstream file(path);
  return {std::istream_iterator<std::string>(file), {}};
}

// `quota` and `period` in microseconds as they stand in the files. "max" and -1
// mean no quota.
double Share(const std::string& quota, const std::string& period) {
  const double granted = std::strtod(quota.c_str(), nullptr);
  const double of = std::strtod(period.c_str(), nullptr);
  return granted > 0 && of > 0 ? granted / of : INFINITY;
}

// Of one group, given the folder of its controller.
double QuotaOf(const std::string& folder) {
  const std::vector<std::string> max = WordsOf(folder + "/cpu.max");
  if (max.size() == 2) return Share(max[0], max[1]);
  const std::vector<std::string> quota = WordsOf(folder + "/cpu.cfs_quota_us");
  const std::vector<std::string> period =
      WordsOf(folder + "/cpu.cfs_period_us");
  if (quota.empty() || period.empty()) return INFINITY;
  return Share(quota[0], period[0]);
}

// Of a group and its ancestors. A container may see groups under other paths
// than /proc/self/cgroup names; the folders that are there count.
double LeastQuota(const std::string& mount, std::string path) {
  double least = QuotaOf(mount);
  while (path.size() > 1) {
    least = std::min(least, QuotaOf(mount + path));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return least;
}

}  // namespace

CpuSet CpuSet::Read(const Getter& get) {
  // The system refuses sets that are smaller than its own.
  constexpr size_t kMostSets = 1024;
  for (size_t sets = 1; sets <= kMostSets; sets *= 2) {
    CpuSet set(sets);
    if (get(set.bytes(), set.sets_.data()) == 0) return set;
    if (errno != EINVAL) break;
  }
  return CpuSet(1);
}

CpuSet CpuSet::OfThisThread() {
  return Read([](size_t bytes, cpu_set_t* set) {
    return sched_getaffinity(0, bytes, set);
  });
}

CpuSet CpuSet::Of(int cpu) {
  CpuSet set(static_cast<size_t>(cpu) / CPU_SETSIZE + 1);
  CPU_SET_S(static_cast<size_t>(cpu), set.bytes(), set.sets_.data());
  return set;
}

std::vector<int> CpuSet::cpus() const {
  std::vector<int> cpus;
  for (size_t cpu = 0; cpu < bytes() * 8; ++cpu) {
    if (CPU_ISSET_S(cpu, bytes(), data())) {
      cpus.push_back(static_cast<int>(cpu));
    }
  }
  return cpus;
}

std::vector<int> UsableCpus() {
  std::vector<int> cpus = CpuSet::OfThisThread().cpus();
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

double CpuQuota(std::string_view groups, const std::string& root) {
  double least = INFINITY;
  std::istringstream lines{std::string(groups)};
  std::string line;
  while (std::getline(lines, line)) {
    // "0::/a/b" in version 2, "4:cpu,cpuacct:/a/b" in version 1.
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    // Outside of what this process sees as the root.
    if (path.find("..") != std::string::npos) path = "/";
    const bool has_cpu = ("," + names + ",").find(",cpu,") != std::string::npos;
    if (names.empty()) {
      // Beside version 1, version 2 has a mount of its own.
      least = std::min(
          {least, LeastQuota(root, path), LeastQuota(root + "/unified", path)});
    } else if (has_cpu) {
      least = std::min({least, LeastQuota(root + "/cpu", path),
                        LeastQuota(fmt::format("{}/{}", root, names), path)});
    }
  }
  return least;
}

size_t UsableThreads() {
  std::ifstream file("/proc/self/cgroup");
  std::ostringstream groups;
  groups << file.rdbuf();
  const double quota = CpuQuota(groups.str(), "/sys/fs/cgroup");
  const size_t cpus = UsableCpus().size();
  return quota < static_cast<double>(cpus)
             ? std::max<size_t>(static_cast<size_t>(quota), 1)
             : cpus;
}

PinnedHere::PinnedHere(int cpu) : before_(CpuSet::OfThisThread()) {
  const CpuSet set = CpuSet::Of(cpu);
  // If the system refuses, the timings are noisier, and their spread shows it.
  static_cast<void>(sched_setaffinity(0, set.bytes(), set.data()));
}

PinnedHere::~PinnedHere() {
  static_cast<void>(sched_setaffinity(0, before_.bytes(), before_.data()));
}

}  // namespace rankforge
