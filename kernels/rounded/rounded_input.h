// x rounded to 8 bits, for kernels that multiply integers, or to bf16.
#ifndef RANKFORGE_KERNELS_ROUNDED_ROUNDED_INPUT_H_
#define RANKFORGE_KERNELS_ROUNDED_ROUNDED_INPUT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/kernel_args.h"
#include "meta/packing.h"

namespace rankforge {

// The weights of one cache line are multiplied together.
template <WeightType type>
inline constexpr size_t kLineBlocks = kCacheLine / BlockBytes(type);
inline constexpr size_t kMaxLineBlocks = kLineBlocks<WeightType::kI4Group32>;

// Sums that a line of weights adds to: 16, each over neighbours in storage,
// which are 4 weights of 8 bits or the 8 weights of a word of nibbles.
inline constexpr size_t kLineSums = kCacheLine / 4;
inline constexpr size_t kBlockZeros = kLineSums / kMaxLineBlocks;

// Where input i is among `integers`, unless rows are interleaved. 4-bit types:
// for every four blocks first the inputs of the low nibbles of all stored
// bytes, then those of the high ones.
template <WeightType type>
constexpr size_t RoundedPosition(size_t i) {
  if constexpr (kNibbles<type>) {
    const NibblePosition at = NibblePositionOf(i % kBlock);
    const size_t block = i / kBlock;
    return block / kMaxLineBlocks * kMaxLineBlocks * kBlock +
           (at.high ? kCacheLine : 0) + block % kMaxLineBlocks * kBlock / 2 +
           at.byte;
  } else {
    return i;
  }
}

// Blocks for `cols` inputs: whole lines of any type, and whole vectors of f32
// scales on any target.
constexpr size_t RoundedBlocks(size_t cols) {
  constexpr size_t kMostLanes = 16;
  static_assert(kMostLanes % kMaxLineBlocks == 0);
  return RoundUp(cols, kMostLanes * kBlock) / kBlock;
}

// Columns whose factors (scale times input) are rounded together, and the
// magnitude below which factors become 0, because 127 / factor may overflow.
inline constexpr size_t kRoundedBatch = 8;
inline constexpr float kSmallestFactor = 0x1p-120f;

struct RoundedStorage {
  int8_t* integers;  // (RoundedBlocks(cols) * kBlock,), 64-byte aligned
  float* scales;     // (RoundedBlocks(cols),), 64-byte aligned
  int32_t* zeros;    // (RoundedBlocks(cols) * kBlockZeros,), 64-byte aligned
  float* sums;       // (RoundedBlocks(cols),), 64-byte aligned
  // (RoundedBlocks(cols) * kBlock / 2,), 64-byte aligned. May share memory with
  // the others: no type uses both.
  uint32_t* pairs;
};

// Rounds x (cols,) for weights of `type`. The scale of a block is its largest
// magnitude / 127, as in ggml's Q8_0, whose scale is an f16; an integer is
// x * (127 / largest), rounded to nearest even. A block is all zeros where
// 127 / largest would overflow, below 2^-120. A block with a value that is not
// finite has the scale NaN and ones, so that all its products are NaN. Beyond
// cols everything is zero.
//
// `layout` is that of the weights. For interleaved rows (kRows16) the integers
// are in the order of x whatever the type, and `zeros` has one sum per block.
//
// For bf16 weights each value is rounded to nearest even: values beyond the
// range of bf16 become infinite; infinities and NaN stay.
RoundedInput RoundInput(const float* x, size_t cols, WeightType type,
                        Layout layout, const RoundedStorage& storage);

// The numbers that RoundInput stores, in f32: out (cols,) = integer * scale, or
// x rounded to bf16. For products of many inputs by a library. `activations`
// are not f32; out may be x.
void RoundValues(const float* x, size_t cols, Activations activations,
                 float* out);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_ROUNDED_ROUNDED_INPUT_H_
