#include "kernels/tokens/token_mask.h"

#include <algorithm>

#include "kernels/mask/mask.h"
#include "kernels/mask/mask_steps.h"

namespace rankforge {
namespace {

bool IsSet(const uint64_t* bits, size_t i) {
  return (bits[i / 64] >> (i % 64) & 1) != 0;
}

// From one bit per group to one per channel; none beyond `count`.
void SpreadBits(const uint64_t* groups, size_t granularity, size_t count,
                uint64_t* bits) {
  const size_t words = MaskWords(count);
  if (granularity == 1) {
    std::copy_n(groups, words, bits);
    if (count % 64 != 0) bits[words - 1] &= (uint64_t{1} << count % 64) - 1;
    return;
  }
  std::fill_n(bits, words, uint64_t{0});
  for (size_t i = 0; i < count; ++i) {
    bits[i / 64] |= uint64_t{IsSet(groups, i / granularity)} << (i % 64);
  }
}

}  // namespace

MaskView UnionOfMasks(std::span<const uint64_t* const> bits, size_t granularity,
                      const float* x, size_t x_stride, size_t count,
                      const UnionStorage& storage) {
  const MaskSteps& steps = BestMaskSteps();
  const size_t words = MaskWords(count);
  uint64_t* const any = storage.bits + bits.size() * storage.bits_stride;
  std::fill_n(any, words, uint64_t{0});
  for (size_t t = 0; t < bits.size(); ++t) {
    uint64_t* const own = storage.bits + t * storage.bits_stride;
    SpreadBits(bits[t], granularity, count, own);
    for (size_t w = 0; w < words; ++w) any[w] |= own[w];
  }
  MaskView view;
  view.index = storage.index;
  view.bits = storage.bits;
  view.bits_stride = storage.bits_stride;
  view.groups = count;
  view.kept = steps.expand(any, nullptr, count, {storage.index, {}, {}});
  if (x == nullptr) return view;
  view.value = storage.value;
  view.value_stride = storage.value_stride;
  for (size_t t = 0; t < bits.size(); ++t) {
    steps.expand_part(any, storage.bits + t * storage.bits_stride,
                      x + t * x_stride, count,
                      storage.value + t * storage.value_stride);
  }
  return view;
}

}  // namespace rankforge
