#include "runtime/model/kv_cache.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/quantize.h"
#include "kernels/stored_weight.h"
#include "runtime/model/rope.h"

namespace rankforge {

KvCache::Heads::Heads(WeightType type, size_t heads, size_t capacity,
                      size_t head_dim)
    : head_bytes_(capacity * KvStride(type, head_dim)),
      head_scales_(IsQuantized(type) ? RoundUp(capacity, kAttentionBlock) : 0),
      positions_(heads * head_bytes_),
      // Attention that begins anywhere reads whole blocks of scales.
      scales_(head_scales_ > 0 ? heads * head_scales_ + kAttentionBlock : 0) {
  // All pages are taken now, so that appending cannot run out of them.
  std::fill_n(positions_.data(), positions_.size(), std::byte{0});
}

void KvCache::Heads::Store(WeightType type, size_t head, size_t position,
                           size_t head_dim, const float* from) {
  std::byte* const run = positions_.data() + head * head_bytes_ +
                         position * KvStride(type, head_dim);
  WithType<kKvTypes>(type, [&](auto constant) {
    std::array<float, kMaxHeadDim> integers;
    const float* values = from;
    if constexpr (IsQuantized(constant)) {
      std::array<float, kMaxHeadDim> padded;
      const size_t size = RoundUp(head_dim, kBlock);
      std::copy_n(from, head_dim, padded.data());
      std::fill(padded.data() + head_dim, padded.data() + size, 0.0f);
      QuantizeRun({padded.data(), size}, constant, Scales::kChosen,
                  integers.data(), &scales_[head * head_scales_ + position]);
      values = integers.data();
    }
    for (size_t i = 0; i < head_dim; ++i) {
      StoreWeight<constant>(values[i], run + i / kBlock * BlockBytes(constant),
                            i % kBlock);
    }
  });
}

void KvCache::Heads::Widen(WeightType type, size_t head, size_t count,
                           size_t head_dim, float* to) const {
  WithType<kKvTypes>(type, [&](auto constant) {
    for (size_t position = 0; position < count; ++position) {
      const std::byte* const run =
          Positions(head) + position * KvStride(constant, head_dim);
      float scale = 1;
      if constexpr (IsQuantized(constant)) scale = *Scales(head, position);
      for (size_t i = 0; i < head_dim; ++i) {
        *to++ =
            scale * StoredWeight<constant>(
                        run + i / kBlock * BlockBytes(constant), i % kBlock);
      }
    }
  });
}

KvCache::KvCache(const ModelConfig& config, WeightType type, size_t capacity)
    : type_(type),
      layers_(config.layers),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      capacity_(capacity),
      keys_(type, layers_ * kv_heads_, capacity, head_dim_),
      values_(type, layers_ * kv_heads_, capacity, head_dim_),
      rope_theta_(config.rope_theta),
      rope_scaling_(config.rope_scaling),
      rotary_half_(config.rotary_dim() / 2),
      cosines_(capacity * rotary_half_),
      sines_(cosines_.size()),
      scratch_(kv_heads_ *
               AttentionScratchSize(heads_ / kv_heads_, head_dim_)) {
  const std::vector<float> frequencies = RotaryFrequencies(config);
  float* cosine = cosines_.data();
  float* sine = sines_.data();
  for (size_t position = 0; position < capacity; ++position) {
    for (const float frequency : frequencies) {
      const double angle = static_cast<float>(position) * frequency;
      *cosine++ = static_cast<float>(std::cos(angle));
      *sine++ = static_cast<float>(std::sin(angle));
    }
  }
}

bool KvCache::Fits(const ModelConfig& config) const {
  return layers_ == config.layers && heads_ == config.heads &&
         kv_heads_ == config.kv_heads && head_dim_ == config.head_dim &&
         rope_theta_ == config.rope_theta &&
         rope_scaling_ == config.rope_scaling &&
         rotary_half_ == config.rotary_dim() / 2;
}

void KvCache::Store(size_t layer, size_t kv_head, size_t position,
                    const float* key, const float* value) {
  const size_t head = HeadIndex(layer, kv_head);
  keys_.Store(type_, head, position, head_dim_, key);
  values_.Store(type_, head, position, head_dim_, value);
}

void KvCache::Widen(size_t layer, size_t kv_head, size_t count, float* keys,
                    float* values) const {
  const size_t head = HeadIndex(layer, kv_head);
  keys_.Widen(type_, head, count, head_dim_, keys);
  values_.Widen(type_, head, count, head_dim_, values);
}

}  // namespace rankforge
