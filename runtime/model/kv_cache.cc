#include "runtime/model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "kernels/bfloat16.h"

namespace rankforge {

KvCache::KvCache(const ModelConfig& config, KvType type, size_t capacity)
    : type_(type),
      value_bytes_(type == KvType::kF32 ? sizeof(float) : sizeof(uint16_t)),
      layers_(config.layers),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      rope_theta_(config.rope_theta),
      capacity_(capacity),
      keys_(layers_ * kv_heads_ * capacity * head_dim_ * value_bytes_),
      values_(layers_ * kv_heads_ * capacity * head_dim_ * value_bytes_),
      cosines_(capacity * (head_dim_ / 2)),
      sines_(cosines_.size()),
      scores_(heads_ * capacity) {
  // All pages are taken now, so that appending cannot run out of them.
  std::fill_n(keys_.data(), keys_.size(), std::byte{0});
  std::fill_n(values_.data(), values_.size(), std::byte{0});
  const size_t half = head_dim_ / 2;
  for (size_t i = 0; i < half; ++i) {
    // Frequencies and angles are f32, as in the models' training code: at
    // position 4096 the rounded angle differs from the exact one by 1e-4.
    const auto frequency = static_cast<float>(
        std::pow(rope_theta_, -2.0 * static_cast<double>(i) / (2.0 * half)));
    for (size_t position = 0; position < capacity; ++position) {
      const double angle = static_cast<float>(position) * frequency;
      cosines_[position * half + i] = static_cast<float>(std::cos(angle));
      sines_[position * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

bool KvCache::Fits(const ModelConfig& config) const {
  return layers_ == config.layers && heads_ == config.heads &&
         kv_heads_ == config.kv_heads && head_dim_ == config.head_dim &&
         rope_theta_ == config.rope_theta;
}

void KvCache::Store(size_t layer, size_t kv_head, size_t position,
                    const float* key, const float* value) {
  const size_t offset =
      Offset(layer, kv_head) + position * head_dim_ * value_bytes_;
  if (type_ == KvType::kF32) {
    std::copy_n(key, head_dim_,
                reinterpret_cast<float*>(keys_.data() + offset));
    std::copy_n(value, head_dim_,
                reinterpret_cast<float*>(values_.data() + offset));
    return;
  }
  std::transform(key, key + head_dim_,
                 reinterpret_cast<uint16_t*>(keys_.data() + offset), ToBf16);
  std::transform(value, value + head_dim_,
                 reinterpret_cast<uint16_t*>(values_.data() + offset), ToBf16);
}

}  // namespace rankforge
