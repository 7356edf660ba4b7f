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
// channels. A group is kept the likelier the larger the mean of its channels in
// the frequencies.
//
// Ranks are sorted by singular value, so early ones are kept nearly always. The
// `kept` largest of logit(frequency) + logistic noise are taken: independent
// draws with all log-odds shifted by the same amount, which is the profile of
// the layer moved to another density. Clustered masks have noise that goes on
// from a group to the next. With a trace, one of its masks is taken, and what
// it has too much or too little for `kept` follows the same order.
std::vector<uint32_t> DrawMask(const MaskModel& model, size_t groups,
                               size_t granularity, size_t kept,
                               std::mt19937_64& random);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_MASKS_H_
