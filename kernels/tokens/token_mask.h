// The masks of several tokens as one: which channels any of them keeps, and
// what each of them has there.
#ifndef RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_
#define RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernel_args.h"

namespace rankforge {

// Memory for the union of masks over `count` channels. index has room for
// MaskCapacity(count) (mask.h) elements, value for as many per token, bits for
// MaskWords(count) per token and once more.
struct UnionStorage {
  uint32_t* index;
  float* value;
  size_t value_stride;  // between tokens
  uint64_t* bits;
  size_t bits_stride;
};

// The union of the masks of several tokens over channels (count,). Each mask is
// given as its bits (MaskView::bits), one per `granularity` channels; bits
// beyond the last channel are ignored. The union is by channel. Values are
// those of x_t, at x + t * x_stride, and 0 where token t drops the channel. x
// is null for a row mask: then only index and bits are made.
MaskView UnionOfMasks(std::span<const uint64_t* const> bits, size_t granularity,
                      const float* x, size_t x_stride, size_t count,
                      const UnionStorage& storage);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_TOKENS_TOKEN_MASK_H_
