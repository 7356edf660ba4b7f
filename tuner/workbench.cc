#include "tuner/workbench.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

#include "meta/packing.h"

namespace rankforge {
namespace {

constexpr size_t kMinSweepBytes = size_t{64} << 20;

// Bytes that the system can still give out; "unknown" counts as plenty.
double AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  double kilobytes = 0;
  std::string unit;
  while (file >> key >> kilobytes >> unit) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    if (unit != "kB") break;
  }
  return INFINITY;
}

// Twice what this CPU really has.
size_t SweepBytes() {
  return std::max(kMinSweepBytes, 2 * CpuInfo::Detect().l3_bytes);
}

size_t PoolBytes(const std::vector<Workload>& workloads, bool cold,
                 bool hurried) {
  size_t bytes = hurried ? SweepBytes() : size_t{1} << 30;
  if (!cold) bytes = CpuInfo::Detect().l3_bytes / 2;
  for (const Workload& workload : workloads) {
    const Problem& problem = workload.problem;
    for (const Layout layout : kLayouts) {
      // A packed matrix takes whole pages, huge ones at most.
      bytes = std::max(bytes, RoundUp(PackedBytes(layout, problem.type,
                                                  problem.rows, problem.cols),
                                      size_t{2} << 20));
    }
  }
  return static_cast<size_t>(
      std::min(static_cast<double>(bytes), AvailableBytes() / 2));
}

}  // namespace

Workbench::Workbench(const std::vector<Workload>& workloads, bool cold,
                     bool hurried, uint64_t seed)
    : sweep_(SweepBytes()),
      pool_(PoolBytes(workloads, cold, hurried), &sweep_) {
  setup_.cpu = CpuInfo::Detect();
  setup_.cold = cold;
  setup_.seed = seed;
  setup_.pool = &pool_;
}

const MeasuringSetup& Workbench::SetupFor(size_t threads) {
  if (executor_ == nullptr || executor_->threads() != threads) {
    executor_.reset();  // its helpers spin for a while where the next ones run
    executor_ = MakeDefaultExecutor(threads);
    setup_.executor = executor_.get();
  }
  return setup_;
}

}  // namespace rankforge
