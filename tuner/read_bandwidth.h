// What this machine can read: the denominator of every roofline.
#ifndef RANKFORGE_TUNER_READ_BANDWIDTH_H_
#define RANKFORGE_TUNER_READ_BANDWIDTH_H_

#include <cstddef>
#include <string>

namespace rankforge {

struct ReadBandwidth {
  double gbps = 0;   // highest median over the declared read loops
  std::string loop;  // which one it was
};

// Medians of `repeats` passes of each loop of kernels/read_loops.h over `bytes`
// bytes of 2 MiB pages, split over `threads` pinned threads.
ReadBandwidth MeasureReadBandwidth(size_t threads,
                                   size_t bytes = size_t{1} << 30,
                                   size_t repeats = 5);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_READ_BANDWIDTH_H_
