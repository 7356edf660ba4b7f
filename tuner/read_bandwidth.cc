#include "tuner/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/read_loops.h"
#include "runtime/packed_matrix.h"
#include "tuner/affinity.h"
#include "tuner/statistics.h"

namespace rankforge {

ReadBandwidth MeasureReadBandwidth(size_t threads, size_t bytes,
                                   size_t repeats) {
  using Clock = std::chrono::steady_clock;
  threads = std::max<size_t>(threads, 1);
  // Whole pages a thread; at least one, so that a tiny request has a rate too.
  const size_t piece = std::max<size_t>(bytes / threads / 4096, 1) * 4096;
  PageBuffer buffer(piece * threads);
  const std::vector<int> cpus = UsableCpus();
  const std::span<const ReadLoop> loops = ReadLoops();

  // All loops by all threads, between two meetings each; the caller keeps time.
  std::barrier meeting(static_cast<ptrdiff_t>(threads) + 1);
  std::atomic<float> sink{0};  // so that no loop can be optimised away
  const auto work = [&](size_t thread) {
    const PinnedHere pin(cpus[thread % cpus.size()]);
    std::byte* data = buffer.data() + thread * piece;
    // Pages never written to are all one page of zeros, in cache for good.
    std::memset(data, 1, piece);
    for (size_t pass = 0; pass < repeats * loops.size(); ++pass) {
      meeting.arrive_and_wait();
      sink.store(loops[pass % loops.size()].fn(data, piece),
                 std::memory_order_relaxed);
      meeting.arrive_and_wait();
    }
  };
  std::vector<std::thread> workers;
  for (size_t t = 0; t < threads; ++t) workers.emplace_back(work, t);

  // Rounds over the loops, so that a slow second hits all of them alike.
  std::vector<std::vector<double>> gbps(loops.size());
  for (size_t pass = 0; pass < repeats * loops.size(); ++pass) {
    meeting.arrive_and_wait();
    const Clock::time_point start = Clock::now();
    meeting.arrive_and_wait();
    const std::chrono::duration<double, std::nano> ns = Clock::now() - start;
    gbps[pass % loops.size()].push_back(static_cast<double>(piece * threads) /
                                        ns.count());
  }
  for (std::thread& worker : workers) worker.join();

  ReadBandwidth best;
  for (size_t i = 0; i < loops.size(); ++i) {
    const double median = Median(gbps[i]);
    if (median > best.gbps) best = {median, loops[i].name};
  }
  return best;
}

}  // namespace rankforge
