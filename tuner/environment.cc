#include "tuner/environment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <string>
#include <vector>

namespace rankforge {
namespace {

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
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
  return environment;
}

void JudgeConfidence(const CpuTicks& start, const RunQuality& quality,
                     TableEnvironment* environment) {
  const CpuTicks now = ReadCpuTicks();
  if (now.total > start.total) {
    environment->steal_share = static_cast<double>(now.steal - start.steal) /
                               static_cast<double>(now.total - start.total);
  }
  std::vector<std::string> reasons;
  const auto doubt = [&](bool doubtful, std::string reason) {
    if (doubtful) reasons.push_back(std::move(reason));
  };
  // The limits are judgement, not measurements: half a busy core of two, and
  // noise as large as the margin of 2 % or a little more.
  doubt(environment->load_average > 0.5,
        fmt::format("load average {:.2f}", environment->load_average));
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
  environment->confidence = reasons.empty() ? "high" : "low";
  environment->confidence_reason = fmt::format("{}", fmt::join(reasons, "; "));
}

}  // namespace rankforge
