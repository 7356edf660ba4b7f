// The masks of several tokens as one: which channels any of them keeps, and
// what each of them has there.
#ifndef RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_
#define RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernel_args.h"

namespace rankforge {

// Memory for the union of masks over `count` channels: room for
// MaskCapacity(count) (mask.h) in index and in value for each token, and for
// MaskWords(count) in bits for each token and once more.
struct UnionStorage {
  uint32_t* index;
  float* value;
  size_t value_stride;  // between tokens
  uint64_t* bits;
  size_t bits_stride;
};

// The union of masks over channels (count,), one for each token, given as
// their bits (MaskView::bits), each standing for `granularity` channels; those
// beyond the last do not count. The union is by channel. x_t, at
// x + t * x_stride, gives the values; null for a row mask, then only index and
// bits are made. What a token dropped is 0 there, whatever it was.
MaskView UnionOfMasks(std::span<const uint64_t* const> bits, size_t granularity,
                      const float* x, size_t x_stride, size_t count,
                      const UnionStorage& storage);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_
