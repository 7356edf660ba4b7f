// The attention kernel: the newest token over the cached keys and values of one
// KV head. runtime/model/forward/attention.h is the block's attention, which
// runs it for every head. Results are the same on every FMA target: dots have
// kDotSums partial sums of alternating elements, outputs are one FMA chain over
// the positions.
#ifndef RANKFORGE_KERNELS_LAYER_ATTENTION_H_
#define RANKFORGE_KERNELS_LAYER_ATTENTION_H_

#include <array>
#include <cstddef>

#include "meta/packing.h"
#include "meta/types.h"

namespace rankforge {

// THE list of types of keys and values. A position of a head has one f32 scale
// in i8. Values of a position are stored as a run of weights is
// (meta/packing.h): blocks padded with zeros, of which the last may be half a
// block. Keys are stored element by element, for kAttentionBlock positions at a
// time: a score is a lane, and nothing is added across lanes.
inline constexpr std::array kKvTypes = {WeightType::kF32, WeightType::kBf16,
                                        WeightType::kF16, WeightType::kI8};

// Positions that are scored before their values are added. One Zen 3 core, 4096
// positions of 128 elements, share of the read bandwidth (19 GB/s):
//   positions         16    32    64    128
//   bf16              0.67  0.53  0.50  0.50
//   i8                0.65  0.62  0.61  0.54
//   nothing fetched: bf16 0.55, i8 0.42 with 64
// Another run with 16 positions gave 0.55 and 0.53.
inline constexpr size_t kAttentionBlock = 16;

// Partial sums of a dot, and of the exponentials.
inline constexpr size_t kDotSums = 2;
inline constexpr size_t kAttentionSums = kAttentionBlock;

// Values of a position are padded to a multiple of this.
inline constexpr size_t kKvMultiple = kBlock / 2;

// Bytes between the values of positions of a head with `dim` elements.
constexpr size_t KvStride(WeightType type, size_t dim) {
  return BlockBytes(type, RoundUp(dim, kKvMultiple));
}

// Bytes of the keys of kAttentionBlock positions: (dim, kAttentionBlock).
constexpr size_t KeyGroupBytes(WeightType type, size_t dim) {
  return dim * kAttentionBlock * (FormatOf(type).bits / 8);
}

// Bytes after the last position that are read, but not used, where positions
// end with half a block.
inline constexpr size_t kKvSlack = kBlock * sizeof(float);

// The place of value i among the elements of whole blocks. Half a block is
// stored as the first bytes of a block, whose other places belong to the next
// position.
constexpr size_t KvPlace(WeightType type, size_t dim, size_t i) {
  const size_t whole = RoundUp(dim, kKvMultiple) / kBlock * kBlock;
  // Eight words of bf16 hold elements j and 16 + j of the block.
  constexpr size_t kWords = kKvMultiple / 2;
  return type != WeightType::kBf16 || i < whole + kWords ? i : i + kWords;
}

// Query heads that share a KV head, all of them or some. They run together, so
// that each key and value is read from memory once.
struct AttentionArgs {
  const float* q;  // (heads, key_dim)
  size_t heads;
  size_t key_dim;
  size_t value_dim;
  // Positions [begin, end). Everything lies as from position 0 on: groups of
  // keys, which are read whole; rows of values, KvStride apart, and kKvSlack
  // bytes; scales, for i8, readable up to a multiple of kAttentionBlock.
  size_t begin = 0;  // below kAttentionBlock
  size_t end;        // > begin
  const std::byte* keys;
  const std::byte* values;
  const float* key_scales;
  const float* value_scales;
  const std::byte* next_keys;  // likely to be attended after these, or null
  float scale;
  float cap = 0;   // scores x become cap * tanh(x / cap); 0: they stay
  float* scratch;  // AttentionScratchSize floats
  float* out;      // (heads, value_dim)
};

constexpr size_t AttentionScratchSize(size_t heads, size_t value_dim) {
  const size_t a_head =
      RoundUp(value_dim, kBlock) + kAttentionBlock + kAttentionSums + 1;
  return RoundUp(heads * a_head, kCacheLine / sizeof(float));
}

// out[h] = softmax(scale * keys q[h]) values, with the positions' scales. A cap
// applies to the scaled scores.
void Attend(WeightType type, const AttentionArgs& args);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_LAYER_ATTENTION_H_
