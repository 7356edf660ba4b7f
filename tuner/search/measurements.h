// The samples of a search, by candidate and density.
#ifndef RANKFORGE_TUNER_SEARCH_MEASUREMENTS_H_
#define RANKFORGE_TUNER_SEARCH_MEASUREMENTS_H_

#include <cstddef>
#include <vector>

#include "base/statistics.h"

namespace rankforge {

// One timed call; 0 if it was too short for the clock.
struct Sample {
  double ns = 0;
};

// All samples of a search, by candidate and density.
class Measurements {
 public:
  Measurements(size_t candidates, size_t densities);

  void Add(size_t candidate, size_t density, const Sample& sample);
  // Drops the samples of a candidate at all densities.
  void Forget(size_t candidate);
  void Scale(double factor);
  // ns, one per round.
  const std::vector<double>& Samples(size_t candidate, size_t density) const;
  // Samples taken.
  size_t Count(size_t candidate, size_t density) const;
  // Of all samples, also those above the read bandwidth: it is measured at
  // another moment, and without them the quickest candidates lose their best
  // samples.
  Timing At(size_t candidate, size_t density) const;
  size_t total() const { return total_; }

 private:
  const std::vector<double>& CellAt(size_t candidate, size_t density) const;

  size_t densities_;
  std::vector<std::vector<double>> cells_;  // ns
  size_t total_ = 0;
};

// Fewer samples than this decide nothing: the default stays.
inline constexpr size_t kMinSamples = 3;

// What replaces the default must be ahead by so many standard errors beside the
// margin.
inline constexpr double kSureErrors = 2;

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_MEASUREMENTS_H_
