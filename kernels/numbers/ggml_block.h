// THE list of the block types in which ggml stores weights, as GGUF files have
// them.
#ifndef RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_
#define RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace rankforge {

// By their numbers in the files.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2K = 10,
  kQ3K = 11,
  kQ4K = 12,
  kQ5K = 13,
  kQ6K = 14,
  kIq4Nl = 20,
  kBf16 = 30,
};

// Neighbouring weights of a row that are stored together.
struct GgmlFormat {
  GgmlType type;
  bool has_minimum;  // of groups, see integer_bits
  std::string_view name;
  size_t weights;  // of a block
  size_t bytes;    // of a block
  // Of blocks whose weights are integers times the scale of their group, plus
  // its minimum if there is one: the bits of the integers; 0: they are
  // something else, or their groups are smaller than those of any weight type.
  size_t integer_bits;
  size_t group;  // weights that share a scale
  // scales, minimums (weights / group,) of a block; null without integers.
  void (*groups)(const std::byte* block, float* scales, float* minimums);
  // out (weights,) = the weights of `block` (bytes,), which may be unaligned.
  // Rounds as ggml's reference does: each product and each difference to f32.
  void (*widen)(const std::byte* block, float* out);
};

// Largest number of weights in a block.
inline constexpr size_t kMaxGgmlWeights = 256;

std::span<const GgmlFormat> GgmlFormats();
// Null: no type of that number is read.
const GgmlFormat* FindGgmlFormat(uint32_t type);
const GgmlFormat& FormatOf(GgmlType type);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_
