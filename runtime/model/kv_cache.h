// Keys and values of one sequence, and the rotary angles of its positions.
#ifndef RANKFORGE_RUNTIME_MODEL_KV_CACHE_H_
#define RANKFORGE_RUNTIME_MODEL_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/model/config.h"
#include "runtime/page_buffer.h"

namespace rankforge {

enum class KvType : uint8_t { kF32, kBf16 };

// Keys and values lie as (layers, kv_heads, capacity, head_dim): one head's
// positions are contiguous, so that attention streams them. All memory is
// taken here; appending allocates nothing.
class KvCache {
 public:
  KvCache(const ModelConfig& config, KvType type, size_t capacity);

  void Clear() { length_ = 0; }
  // Counts `tokens` appended to every layer as part of the sequence.
  void Advance(size_t tokens) { length_ += tokens; }
  size_t length() const { return length_; }
  size_t capacity() const { return capacity_; }
  KvType type() const { return type_; }
  // Whether the cache was made for models of this shape.
  bool Fits(const ModelConfig& config) const;

  // Stores one position of one head, rounded to type().
  void Store(size_t layer, size_t kv_head, size_t position, const float* key,
             const float* value);

  // (capacity, head_dim) of one head, as type().
  template <class T>
  const T* keys(size_t layer, size_t kv_head) const {
    return reinterpret_cast<const T*>(keys_.data() + Offset(layer, kv_head));
  }
  template <class T>
  const T* values(size_t layer, size_t kv_head) const {
    return reinterpret_cast<const T*>(values_.data() + Offset(layer, kv_head));
  }

  // (head_dim / 2,) of one position.
  const float* cosines(size_t position) const {
    return cosines_.data() + position * (head_dim_ / 2);
  }
  const float* sines(size_t position) const {
    return sines_.data() + position * (head_dim_ / 2);
  }
  // (capacity,) scratch for the attention scores of one query head.
  float* scores(size_t head) { return scores_.data() + head * capacity_; }

 private:
  size_t Offset(size_t layer, size_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * capacity_ * head_dim_ * value_bytes_;
  }

  KvType type_;
  size_t value_bytes_;
  size_t layers_;
  size_t heads_;
  size_t kv_heads_;
  size_t head_dim_;
  double rope_theta_;
  size_t capacity_;
  size_t length_ = 0;
  PageBuffer keys_;
  PageBuffer values_;
  std::vector<float> cosines_;  // (capacity, head_dim / 2)
  std::vector<float> sines_;
  std::vector<float> scores_;  // (heads, capacity)
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_KV_CACHE_H_
