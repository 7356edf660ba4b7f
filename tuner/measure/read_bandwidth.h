// What this machine can read: the denominator of every roofline.
#ifndef RANKFORGE_TUNER_MEASURE_READ_BANDWIDTH_H_
#define RANKFORGE_TUNER_MEASURE_READ_BANDWIDTH_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"
#include "kernels/gemv/read_loops.h"

namespace rankforge {

struct ReadBandwidth {
  double gbps = 0;   // highest median over the declared read loops
  double mad = 0;    // median absolute deviation of that loop's passes
  std::string loop;  // which one it was
};

// Reads `bytes` bytes of 2 MiB pages, split over `threads` pinned threads, with
// every loop of kernels/gemv/read_loops.h. A shared machine drifts by a third
// within a minute: measurements that are compared with the bandwidth should
// take turns with its rounds.
class ReadBandwidthMeter {
 public:
  explicit ReadBandwidthMeter(size_t threads, size_t bytes = size_t{1} << 30)
      // At least what a loop reads at once, so that a tiny request has a rate.
      : ReadBandwidthMeter(threads, std::make_shared<PageBuffer>(std::max(
                                        bytes, std::max(threads, size_t{1}) *
                                                   kReadLoopBytes))) {}
  // Meters of several thread counts may share a buffer: they read it in Round
  // alone.
  ReadBandwidthMeter(size_t threads, std::shared_ptr<PageBuffer> buffer);

  // One pass of each loop.
  void Round();
  // Over the rounds so far.
  ReadBandwidth Best() const;

 private:
  std::vector<int> cpus_;  // of the threads; the caller may be pinned later on
  std::shared_ptr<PageBuffer> buffer_;
  size_t piece_;                           // bytes of a thread
  std::vector<std::vector<double>> gbps_;  // [loop][round]
};

// After `rounds` rounds in a row.
ReadBandwidth MeasureReadBandwidth(size_t threads,
                                   size_t bytes = size_t{1} << 30,
                                   size_t rounds = 5);

// Fails if `roofline`, a share of the read bandwidth that is called `what`, is
// above 1: nothing comes from memory faster than memory can be read.
Status CheckRoofline(std::string_view what, double roofline);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_READ_BANDWIDTH_H_
