#include "runtime/model/forward/kv_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/numbers/quantize.h"
#include "kernels/numbers/stored_weight.h"
#include "runtime/model/forward/rope.h"

namespace rankforge {

namespace {

std::vector<size_t> ByLayer(const ModelConfig& config,
                            size_t (ModelConfig::*dim)(size_t) const) {
  std::vector<size_t> dims;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    dims.push_back((config.*dim)(layer));
  }
  return dims;
}

// Whether the rotary angles of this layer are not those of layers without a
// window.
bool HasOwnAngles(const ModelConfig& config, size_t layer) {
  return config.window_rope_theta && config.window_of(layer) > 0;
}

size_t HeadScratchSize(const ModelConfig& config) {
  size_t largest = 0;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    largest = std::max(largest, AttentionScratchSize(1, config.vo_dim(layer)));
  }
  return largest;
}

}  // namespace

KvCache::Heads::Heads(WeightType type, Order order, size_t kv_heads,
                      size_t capacity, std::vector<size_t> dims)
    : type_(type),
      order_(order),
      kv_heads_(kv_heads),
      capacity_(order == Order::kByElement ? RoundUp(capacity, kAttentionBlock)
                                           : capacity),
      dims_(std::move(dims)),
      begins_{0},
      head_scales_(IsQuantized(type) ? RoundUp(capacity, kAttentionBlock) : 0),
      // One block more, because attention may begin at any position and reads
      // whole blocks of scales.
      scales_(head_scales_ > 0
                  ? dims_.size() * kv_heads * head_scales_ + kAttentionBlock
                  : 0) {
  for (const size_t dim : dims_) {
    begins_.push_back(begins_.back() + kv_heads_ * capacity_ * BytesOf(dim));
  }
  positions_ = PageBuffer(begins_.back() + kKvSlack);
  // Touches all pages, so that appending cannot run out of memory.
  std::fill_n(positions_.data(), positions_.size(), std::byte{0});
}

size_t KvCache::Heads::position_bytes() const {
  size_t bytes = 0;
  for (const size_t dim : dims_) {
    bytes +=
        kv_heads_ * (BytesOf(dim) + (IsQuantized(type_) ? sizeof(float) : 0));
  }
  return bytes;
}

void KvCache::Heads::Store(size_t layer, size_t head, size_t position,
                           const float* from) {
  const size_t dim = dims_[layer];
  std::byte* const at = positions_.data() + Offset(layer, head, position);
  WithType<kKvTypes>(type_, [&](auto constant) {
    std::array<float, kMaxHeadDim> integers;
    const float* values = from;
    if constexpr (IsQuantized(constant)) {
      std::array<float, kMaxHeadDim> padded;
      const size_t size = RoundUp(dim, kBlock);
      std::copy_n(from, dim, padded.data());
      std::fill(padded.data() + dim, padded.data() + size, 0.0f);
      QuantizeRun({padded.data(), size}, constant, Scales::kChosen,
                  integers.data(), &scales_[ScaleIndex(layer, head, position)],
                  nullptr);
      values = integers.data();
    }
    for (size_t i = 0; i < dim; ++i) {
      if (order_ == Order::kByElement) {
        StoreElement<constant>(
            values[i], at + InGroup(position) + i * KeyGroupBytes(constant, 1));
        continue;
      }
      const size_t place = KvPlace(constant, dim, i);
      StoreWeight<constant>(values[i],
                            at + place / kBlock * BlockBytes(constant),
                            place % kBlock);
    }
  });
}

void KvCache::Heads::Widen(size_t layer, size_t head, size_t count,
                           float* to) const {
  const size_t dim = dims_[layer];
  WithType<kKvTypes>(type_, [&](auto constant) {
    for (size_t position = 0; position < count; ++position) {
      const std::byte* const at = Position(layer, head, position);
      float scale = 1;
      if constexpr (IsQuantized(constant)) {
        scale = *Scales(layer, head, position);
      }
      for (size_t i = 0; i < dim; ++i) {
        if (order_ == Order::kByElement) {
          *to++ =
              scale * StoredElement<constant>(at + InGroup(position) +
                                              i * KeyGroupBytes(constant, 1));
          continue;
        }
        const size_t place = KvPlace(constant, dim, i);
        *to++ = scale *
                StoredWeight<constant>(
                    at + place / kBlock * BlockBytes(constant), place % kBlock);
      }
    }
  });
}

KvCache::KvCache(const ModelConfig& config, WeightType type, size_t capacity)
    : type_(type),
      layers_(config.layers),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      capacity_(capacity),
      left_out_(layers_),
      keys_(type, Heads::Order::kByElement, kv_heads_, capacity,
            ByLayer(config, &ModelConfig::qk_dim)),
      values_(type, Heads::Order::kByPosition, kv_heads_, capacity,
              ByLayer(config, &ModelConfig::vo_dim)),
      rope_theta_(config.rope_theta),
      rope_scaling_(config.rope_scaling),
      window_rope_theta_(config.window_rope_theta),
      windowed_(layers_),
      rotary_half_(config.rotary_dim() / 2),
      angles_(MakeAngles(RotaryFrequencies(config), capacity,
                         rope_scaling_.attention_factor)),
      head_scratch_(HeadScratchSize(config)),
      scratch_(config.heads * head_scratch_) {
  if (IsLong(capacity)) {
    long_angles_ = MakeAngles(RotaryFrequencies(config, RopeSet::kLong),
                              capacity, rope_scaling_.attention_factor);
  }
  for (size_t layer = 0; layer < layers_; ++layer) {
    windowed_[layer] = HasOwnAngles(config, layer);
  }
  if (std::ranges::count(windowed_, true) > 0) {
    window_angles_ =
        MakeAngles(RotaryFrequencies(config, RopeSet::kWindow), capacity, 1);
  }
}

KvCache::Angles KvCache::MakeAngles(const std::vector<float>& frequencies,
                                    size_t capacity, double factor) {
  Angles angles{std::vector<float>(capacity * frequencies.size()),
                std::vector<float>(capacity * frequencies.size())};
  float* cosine = angles.cosines.data();
  float* sine = angles.sines.data();
  for (size_t position = 0; position < capacity; ++position) {
    for (const float frequency : frequencies) {
      const double angle = static_cast<float>(position) * frequency;
      *cosine++ = static_cast<float>(factor * std::cos(angle));
      *sine++ = static_cast<float>(factor * std::sin(angle));
    }
  }
  return angles;
}

void KvCache::Clear() {
  length_ = 0;
  decision_.reset();
  left_out_.assign(layers_, false);
  std::ranges::fill(judgements_, std::numeric_limits<float>::quiet_NaN());
}

void KvCache::LeaveOut(LayerDecision decision) {
  decision.freed_bytes = 0;
  for (const size_t layer : decision.skipped) {
    left_out_[layer] = true;
    decision.freed_bytes += keys_.Free(layer) + values_.Free(layer);
  }
  decision_ = std::move(decision);
}

float* KvCache::Judgements(size_t layer) {
  if (judgements_.empty()) {
    judgements_.assign(layers_ * capacity_,
                       std::numeric_limits<float>::quiet_NaN());
  }
  return judgements_.data() + layer * capacity_;
}

bool KvCache::Fits(const ModelConfig& config) const {
  if (layers_ != config.layers || heads_ != config.heads ||
      kv_heads_ != config.kv_heads || rope_theta_ != config.rope_theta ||
      rope_scaling_ != config.rope_scaling ||
      window_rope_theta_ != config.window_rope_theta ||
      rotary_half_ != config.rotary_dim() / 2) {
    return false;
  }
  for (size_t layer = 0; layer < layers_; ++layer) {
    if (windowed_[layer] != HasOwnAngles(config, layer) ||
        keys_.dims()[layer] != config.qk_dim(layer) ||
        values_.dims()[layer] != config.vo_dim(layer)) {
      return false;
    }
  }
  return true;
}

void KvCache::Store(size_t layer, size_t kv_head, size_t position,
                    const float* key, const float* value) {
  keys_.Store(layer, kv_head, position, key);
  values_.Store(layer, kv_head, position, value);
}

void KvCache::Widen(size_t layer, size_t kv_head, size_t count, float* keys,
                    float* values) const {
  keys_.Widen(layer, kv_head, count, keys);
  values_.Widen(layer, kv_head, count, values);
}

}  // namespace rankforge
