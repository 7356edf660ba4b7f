#include "tuner/measure/read_bandwidth.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

#include "base/affinity.h"
#include "base/statistics.h"
#include "kernels/gemv/read_loops.h"

namespace rankforge {
namespace {

// The CPU of each of `threads` threads.
std::vector<int> CpusFor(size_t threads) {
  const std::vector<int> usable = UsableCpus();
  std::vector<int> cpus(std::max<size_t>(threads, 1));
  for (size_t t = 0; t < cpus.size(); ++t) cpus[t] = usable[t % usable.size()];
  return cpus;
}

// Calls work(thread) on one thread for each of `cpus`.
template <class Work>
void OnPinnedThreads(const std::vector<int>& cpus, Work work) {
  std::vector<std::thread> workers;
  for (size_t t = 0; t < cpus.size(); ++t) {
    workers.emplace_back([&, t] {
      const PinnedHere pin(cpus[t]);
      work(t);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace

ReadBandwidthMeter::ReadBandwidthMeter(size_t threads,
                                       std::shared_ptr<PageBuffer> buffer)
    : cpus_(CpusFor(threads)),
      buffer_(std::move(buffer)),
      piece_(buffer_->size() / cpus_.size() / kReadLoopBytes * kReadLoopBytes),
      gbps_(ReadLoops().size()) {
  assert(piece_ > 0);
  // Pages that were never written to are all one page of zeros, which stays in
  // cache.
  OnPinnedThreads(cpus_, [&](size_t thread) {
    std::memset(buffer_->data() + thread * piece_, 1, piece_);
  });
}

void ReadBandwidthMeter::Round() {
  using Clock = std::chrono::steady_clock;
  // Every thread takes its own time. A separate timekeeper needs a core to wake
  // up on: on a busy machine it saw passes only when they were half over.
  struct Pass {
    Clock::time_point begin;
    Clock::time_point end;
  };
  const std::span<const ReadLoop> loops = ReadLoops();
  std::vector<std::vector<Pass>> times(loops.size(),
                                       std::vector<Pass>(cpus_.size()));
  std::barrier meeting(static_cast<ptrdiff_t>(cpus_.size()));
  std::atomic<float> sink{0};  // so that no loop can be optimised away
  OnPinnedThreads(cpus_, [&](size_t thread) {
    const std::byte* data = buffer_->data() + thread * piece_;
    for (size_t i = 0; i < loops.size(); ++i) {
      meeting.arrive_and_wait();
      times[i][thread].begin = Clock::now();
      sink.store(loops[i].fn(data, piece_), std::memory_order_relaxed);
      times[i][thread].end = Clock::now();
    }
  });
  // A pass lasts from the first thread that begins to the last one that ends.
  for (size_t i = 0; i < loops.size(); ++i) {
    const auto begin = std::ranges::min(times[i], {}, &Pass::begin).begin;
    const auto end = std::ranges::max(times[i], {}, &Pass::end).end;
    const std::chrono::duration<double, std::nano> ns = end - begin;
    gbps_[i].push_back(static_cast<double>(piece_ * cpus_.size()) / ns.count());
  }
}

ReadBandwidth ReadBandwidthMeter::Best() const {
  ReadBandwidth best;
  for (size_t i = 0; i < gbps_.size(); ++i) {
    const double median = Median(gbps_[i]);
    if (median <= best.gbps) continue;
    std::vector<double> deviations;
    for (const double gbps : gbps_[i]) {
      deviations.push_back(std::abs(gbps - median));
    }
    best = {median, Median(deviations), ReadLoops()[i].name};
  }
  return best;
}

ReadBandwidth MeasureReadBandwidth(size_t threads, size_t bytes,
                                   size_t rounds) {
  ReadBandwidthMeter meter(threads, bytes);
  for (size_t round = 0; round < rounds; ++round) meter.Round();
  return meter.Best();
}

Status CheckRoofline(std::string_view what, double roofline) {
  if (roofline <= 1) return {};
  return Failed(fmt::format(
      "{} {:.3f} is above 1: the read bandwidth was measured too low; repeat "
      "on a quiet machine",
      what, roofline));
}

}  // namespace rankforge
