// THE list of the block types in which ggml stores weights, as GGUF files have
// them.
#ifndef RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_
#define RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace rankforge {

// Neighbouring weights of a row that are stored together.
struct GgmlFormat {
  uint32_t id;  // ggml_type in the file
  std::string_view name;
  size_t weights;  // of a block
  size_t bytes;    // of a block
  // out (weights,) = the weights of `block` (bytes,), which may be unaligned.
  // Rounds as ggml's reference does: each product and each difference to f32.
  void (*widen)(const std::byte* block, float* out);
};

// Largest number of weights in a block.
inline constexpr size_t kMaxGgmlWeights = 256;

std::span<const GgmlFormat> GgmlFormats();
// Null: no type of that number is read.
const GgmlFormat* FindGgmlFormat(uint32_t id);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_GGML_BLOCK_H_
