// Masks like those that the layer will see.
#ifndef RANKFORGE_TUNER_MASKS_H_
#define RANKFORGE_TUNER_MASKS_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace rankforge {

// Indices, ascending, of exactly `kept` of `groups` groups of `granularity`
// channels. A group is kept the likelier the larger the mean of its channels in
// `frequency` (share of tokens that keep each channel; empty: all alike).
//
// Ranks are sorted by singular value, so early ones are kept nearly always. The
// `kept` largest of logit(frequency) + logistic noise are taken: independent
// draws with all log-odds shifted by the same amount, which is the profile of
// the layer moved to another density.
std::vector<uint32_t> DrawMask(std::span<const float> frequency, size_t groups,
                               size_t granularity, size_t kept,
                               std::mt19937_64& random);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MASKS_H_
