// Masks like those that the layer will see.
#ifndef RANKFORGE_TUNER_MEASURE_MASKS_H_
#define RANKFORGE_TUNER_MEASURE_MASKS_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "runtime/table/problem.h"

namespace rankforge {

// What is known about the masks of a layer, by channel.
struct MaskModel {
  // Share of tokens that keep each channel; empty: all alike.
  std::span<const float> frequency = {};
  MaskStructure structure = MaskStructure::kBernoulli;
  // Masks of a real run, in bits, or none.
  std::span<const std::vector<uint64_t>> trace = {};
};

// Indices, ascending, of exactly `kept` of `groups` groups of `granularity`
// channels. A group is kept more often if the mean frequency of its channels is
// higher.
//
// Ranks are sorted by singular value, so early ones are kept nearly always. The
// `kept` largest of logit(frequency) + logistic noise are taken. That shifts
// all log-odds by the same amount, and so moves the profile of the layer to
// another density. In clustered masks the noise of neighbours is correlated.
// With a trace, the groups of one of its masks come first; where they are too
// many or too few, the same order decides which leave or join.
std::vector<uint32_t> DrawMask(const MaskModel& model, size_t groups,
                               size_t granularity, size_t kept,
                               std::mt19937_64& random);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_MASKS_H_
