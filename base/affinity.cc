#include "base/affinity.h"

#include <algorithm>
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
                        LeastQuota(root + "/" + names, path)});
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
