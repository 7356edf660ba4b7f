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

  // Every thread keeps its own time: a keeper besides them would need a core to
  // wake up on, and saw passes on a busy machine only when they were half over.
  struct Pass {
    Clock::time_point begin;
    Clock::time_point end;
  };
  const size_t passes = repeats * loops.size();
  std::vector<std::vector<Pass>> times(passes, std::vector<Pass>(threads));
  std::barrier meeting(static_cast<ptrdiff_t>(threads));
  std::atomic<float> sink{0};  // so that no loop can be optimised away
  const auto work = [&](size_t thread) {
    const PinnedHere pin(cpus[thread % cpus.size()]);
    std::byte* data = buffer.data() + thread * piece;
    // Pages never written to are all one page of zeros, in cache for good.
    std::memset(data, 1, piece);
    // Rounds over the loops, so that a slow second hits all of them alike.
    for (size_t pass = 0; pass < passes; ++pass) {
      meeting.arrive_and_wait();
      times[pass][thread].begin = Clock::now();
      sink.store(loops[pass % loops.size()].fn(data, piece),
                 std::memory_order_relaxed);
      times[pass][thread].end = Clock::now();
    }
  };
  std::vector<std::thread> workers;
  for (size_t t = 0; t < threads; ++t) workers.emplace_back(work, t);
  for (std::thread& worker : workers) worker.join();

  // A pass lasts from the first thread that begins to the last one that ends.
  std::vector<std::vector<double>> gbps(loops.size());
  for (size_t pass = 0; pass < passes; ++pass) {
    const auto begin = std::ranges::min(times[pass], {}, &Pass::begin).begin;
    const auto end = std::ranges::max(times[pass], {}, &Pass::end).end;
    const std::chrono::duration<double, std::nano> ns = end - begin;
    gbps[pass % loops.size()].push_back(static_cast<double>(piece * threads) /
                                        ns.count());
  }

  ReadBandwidth best;
  for (size_t i = 0; i < loops.size(); ++i) {
    const double median = Median(gbps[i]);
    if (median > best.gbps) best = {median, loops[i].name};
  }
  return best;
}

}  // namespace rankforge
