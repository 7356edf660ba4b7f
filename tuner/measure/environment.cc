#include "tuner/measure/environment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/affinity.h"

namespace rankforge {
namespace {

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
}

// AMD and ACPI say "1" for boost, Intel "1" for no turbo.
std::string Boost() {
  const std::string boost = FirstLine("/sys/devices/system/cpu/cpufreq/boost");
  if (boost != "unknown") return boost == "1" ? "on" : "off";
  const std::string no_turbo =
      FirstLine("/sys/devices/system/cpu/intel_pstate/no_turbo");
  if (no_turbo != "unknown") return no_turbo == "1" ? "off" : "on";
  return "unknown";
}

bool ShareCores(const std::vector<int>& cpus) {
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    const std::string siblings = FirstLine(
        fmt::format(
            "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu)
            .c_str());
    if (siblings != "unknown" && !cores.insert(siblings).second) return true;
  }
  return false;
}

double SecondsOf(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) +
         1e-9 * static_cast<double>(time.tv_nsec);
}

// The least share of CPU time among threads, one on each of `cpus`, that all
// want the same 50 ms. Together they also meet a quota of the whole process.
double CpuShare(const std::vector<int>& cpus) {
  std::vector<double> shares(cpus.size(), 1);
  std::vector<std::thread> spinners;
  for (size_t i = 0; i < cpus.size(); ++i) {
    spinners.emplace_back([cpu = cpus[i], &share = shares[i]] {
      const PinnedHere pin(cpu);
      const double begin = SecondsOf(CLOCK_MONOTONIC);
      const double cpu_begin = SecondsOf(CLOCK_THREAD_CPUTIME_ID);
      double wall = 0;
      while (wall < 0.05) wall = SecondsOf(CLOCK_MONOTONIC) - begin;
      const double used = SecondsOf(CLOCK_THREAD_CPUTIME_ID) - cpu_begin;
      share = std::min(used / wall, 1.0);
    });
  }
  for (std::thread& spinner : spinners) spinner.join();
  return *std::min_element(shares.begin(), shares.end());
}

}  // namespace

CpuTicks ReadCpuTicks() {
  // "cpu user nice system idle iowait irq softirq steal guest guest_nice"; the
  // last two are contained in user and nice.
  std::ifstream file("/proc/stat");
  std::string label;
  file >> label;
  CpuTicks ticks;
  for (int field = 0; field < 8; ++field) {
    uint64_t value = 0;
    file >> value;
    ticks.total += value;
    if (field == 7) ticks.steal = value;
  }
  return ticks;
}

TableEnvironment ReadEnvironment() {
  TableEnvironment environment;
  environment.governor =
      FirstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  environment.huge_pages =
      FirstLine("/sys/kernel/mm/transparent_hugepage/enabled");
  std::ifstream("/proc/loadavg") >> environment.load_average;
  const std::vector<int> cpus = UsableCpus();
  environment.boost = Boost();
  environment.cpus = fmt::format("{}", fmt::join(cpus, ","));
  environment.shared_cores = ShareCores(cpus);
  // Work that wakes up now and then spoils single windows, lasting work spoils
  // all of them: the best window counts.
  constexpr int kWindows = 5;
  for (int i = 0; i < kWindows && environment.cpu_share < 0.9; ++i) {
    environment.cpu_share = std::max(environment.cpu_share, CpuShare(cpus));
  }
  return environment;
}

Status CheckEnvironment(const TableEnvironment& environment, size_t threads) {
  const size_t usable = UsableThreads();
  if (threads > usable) {
    return EnvironmentError(fmt::format(
        "{} threads on CPUs for {} ({}): timings would mean nothing; use fewer "
        "--threads or --allow-noise",
        threads, usable, environment.cpus));
  }
  if (environment.cpu_share < 0.5) {
    return EnvironmentError(fmt::format(
        "other work leaves {:.0f} % of a CPU (load average {:.2f}): timings "
        "would mean nothing; wait until it ends or use --allow-noise",
        100 * environment.cpu_share, environment.load_average));
  }
  return {};
}

void JudgeConfidence(const CpuTicks& start, const CpuTicks& end,
                     const RunQuality& quality, TableEnvironment* environment) {
  if (end.total > start.total) {
    environment->steal_share = static_cast<double>(end.steal - start.steal) /
                               static_cast<double>(end.total - start.total);
  }
  std::vector<std::string> reasons;
  const auto doubt = [&](bool doubtful, std::string reason) {
    if (doubtful) reasons.push_back(std::move(reason));
  };
  // The limits are judgement, not measurements: half a busy core of two, and
  // noise as large as the margin of 2 % or a little more.
  doubt(environment->load_average > 0.5,
        fmt::format("load average {:.2f}", environment->load_average));
  doubt(environment->cpu_share < 0.9,
        fmt::format("other work left {:.0f} % of a CPU",
                    100 * environment->cpu_share));
  doubt(environment->shared_cores, "two CPUs are threads of one core");
  doubt(environment->steal_share > 0.02,
        fmt::format("{:.1f} % of CPU time stolen",
                    100 * environment->steal_share));
  doubt(environment->governor == "powersave" ||
            environment->governor == "ondemand" ||
            environment->governor == "conservative",
        fmt::format("governor {}", environment->governor));
  doubt(quality.spread > 0.05,
        fmt::format("timings spread by {:.1f} %", 100 * quality.spread));
  doubt(quality.above_bandwidth > 0,
        fmt::format("{} timings of cold weights above the read bandwidth",
                    quality.above_bandwidth));
  doubt(quality.unmeasured > 0,
        fmt::format("{} problems out of budget", quality.unmeasured));
  doubt(quality.refused > 0,
        fmt::format("{} calls too short for the clock", quality.refused));
  environment->confidence = reasons.empty() ? "high" : "low";
  environment->confidence_reason = fmt::format("{}", fmt::join(reasons, "; "));
}

}  // namespace rankforge
