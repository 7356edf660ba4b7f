// Attention of the newest token over the cached keys and values of one KV head.
// Same results on every FMA target: dots have kAttentionSums partial sums by
// position in the head and one reduction tree, outputs are one FMA chain over
// the positions.
#ifndef RANKFORGE_KERNELS_ATTENTION_H_
#define RANKFORGE_KERNELS_ATTENTION_H_

#include <array>
#include <cstddef>

#include "meta/packing.h"
#include "meta/types.h"

namespace rankforge {

// Types of keys and values: THE list. A position of a head is stored as a run
// of weights is (meta/packing.h): whole blocks, padded with zeros, i8 with one
// f32 scale.
inline constexpr std::array kKvTypes = {WeightType::kF32, WeightType::kBf16,
                                        WeightType::kF16, WeightType::kI8};

// Positions that are scored before their values are added. One Zen 3 core,
// 4096 positions of 128 elements, what was read from memory as a share of the
// read bandwidth (19 GB/s): bf16 with 16 / 32 / 64 / 128 positions .67 / .53 /
// .50 / .50, i8 .65 / .62 / .61 / .54; in another run .55 and .53 with 16.
// Nothing fetched, 64 positions: .55, .42.
inline constexpr size_t kAttentionBlock = 16;

// Partial sums of a dot.
inline constexpr size_t kAttentionSums = kBlock / 2;

// Bytes between positions of a head.
constexpr size_t KvStride(WeightType type, size_t head_dim) {
  return BlockBytes(type, RoundUp(head_dim, kBlock));
}

// The query heads that share a KV head. They are attended together, so that
// each key and value is read from memory once.
struct AttentionArgs {
  const float* q;  // (heads, head_dim)
  size_t heads;
  size_t head_dim;
  const std::byte* keys;  // (count,) positions, KvStride apart
  const std::byte* values;
  // (count,), for i8; readable up to a multiple of kAttentionBlock.
  const float* key_scales;
  const float* value_scales;
  size_t count;                // > 0
  const std::byte* next_keys;  // likely to be attended after these, or null
  float scale;
  float* scratch;  // AttentionScratchSize floats
  float* out;      // (heads, head_dim)
};

constexpr size_t AttentionScratchSize(size_t heads, size_t head_dim) {
  const size_t a_head =
      2 * RoundUp(head_dim, kBlock) + kAttentionBlock + kAttentionSums + 1;
  return RoundUp(heads * a_head, kCacheLine / sizeof(float));
}

// out[h] = softmax(scale * keys q[h]) values, with the positions' scales.
void Attend(WeightType type, const AttentionArgs& args);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_ATTENTION_H_
