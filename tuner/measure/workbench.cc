#include "tuner/measure/workbench.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <utility>

#include "meta/packing.h"

namespace rankforge {
namespace {

constexpr size_t kMinSweepBytes = size_t{64} << 20;
// Calls after which the same weights may come again: filling a gigabyte takes
// longer than all calls with a matrix of a few KiB.
constexpr size_t kCallsPerPool = 4096;

// Bytes that the system can still give; infinite where it does not say.
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

size_t PoolBytes(const std::vector<Workload>& workloads, bool cold,
                 bool small_pool) {
  size_t bytes = small_pool ? SweepBytes() : size_t{1} << 30;
  if (!cold) bytes = CpuInfo::Detect().l3_bytes / 2;
  size_t largest = 0;
  for (const Workload& workload : workloads) {
    const Problem& problem = workload.problem;
    for (const Layout layout : kLayouts) {
      // A packed matrix takes whole pages, huge ones at most.
      largest = std::max(largest, PackedBytes(layout, problem.type,
                                              problem.rows, problem.cols));
    }
  }
  bytes = std::min(bytes, kCallsPerPool * largest);
  bytes = std::max(bytes, RoundUp(largest, size_t{2} << 20));
  return static_cast<size_t>(
      std::min(static_cast<double>(bytes), AvailableBytes() / 2));
}

}  // namespace

size_t SweepBytes() {
  return std::max(kMinSweepBytes, 2 * CpuInfo::Detect().l3_bytes);
}

Workbench::Workbench(const std::vector<Workload>& workloads, bool cold,
                     bool small_pool, uint64_t seed,
                     std::shared_ptr<PageBuffer> sweep)
    : sweep_(
          sweep ? std::move(sweep) : std::make_shared<PageBuffer>(SweepBytes()),
          SweepBytes()),
      pool_(PoolBytes(workloads, cold, small_pool), &sweep_) {
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
