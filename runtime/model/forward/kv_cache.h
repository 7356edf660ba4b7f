// Keys and values of one sequence, and the rotary angles of its positions.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_KV_CACHE_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_KV_CACHE_H_

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <vector>

#include "base/page_buffer.h"
#include "kernels/layer/attention.h"
#include "runtime/model/format/config.h"

namespace rankforge {

// What its prompt decided about the layers of a sequence.
struct LayerDecision {
  std::vector<size_t> skipped = {};   // what it does without, ascending
  std::map<size_t, double> rho = {};  // of all layers with routers (LayerSkip)
  size_t freed_bytes = 0;             // of keys and values of `skipped`
};

// Keys and values are arrays (layers, kv_heads, capacity) of one head's
// positions, so that attention streams them: values one position after the
// other, keys in groups of kAttentionBlock positions
// (kernels/layer/attention.h). Heads may have other sizes in other layers
// (docs/a3.md). i8 scales are f32: f16 would save 1.5 % of the bytes of a head
// with 128 elements, but round every value a second time. They are in an array
// of their own, because between the positions they would make every position
// reach into one more cache line. The constructor takes all memory; appending
// allocates nothing, unless layers that a sequence did without run again.
class KvCache {
 public:
  // `type` is one of kKvTypes.
  KvCache(const ModelConfig& config, WeightType type, size_t capacity);

  void Clear();
  // For models whose rotary frequencies depend on the length of the sequence:
  // chooses those of a sequence that begins with `tokens` tokens. Only for an
  // empty cache, because stored keys are rotated.
  void Begin(size_t tokens) {
    if (length_ == 0) long_ = IsLong(tokens);
  }
  // Whether `tokens` more would need other frequencies than those in the cache.
  bool ChangesFrequencies(size_t tokens) const {
    return length_ > 0 && IsLong(length_ + tokens) != long_;
  }
  // Forgets what was appended after the first `length` positions. A decision
  // stays.
  void Truncate(size_t length) { length_ = std::min(length_, length); }
  // Counts `tokens` appended to every layer as part of the sequence.
  void Advance(size_t tokens) { length_ += tokens; }

  // From here on, the sequence does without the layers that `decision` names:
  // nothing is appended to them. The memory of their keys and values goes back
  // to the system (PageBuffer::Release), but for the scales of i8, which are
  // one seventeenth of heads of 64 elements. Clear undoes it.
  void LeaveOut(LayerDecision decision);
  // None: the prompt has not ended, or the model never leaves out layers.
  const std::optional<LayerDecision>& decision() const { return decision_; }
  bool Runs(size_t layer) const { return !left_out_[layer]; }

  // sigmoid(w . h) of each position (LayerSkip), (capacity,) floats of a layer.
  // NaN where no router has judged a position. Takes the memory of all layers
  // when it is called first.
  float* Judgements(size_t layer);

  size_t length() const { return length_; }
  size_t capacity() const { return capacity_; }
  WeightType type() const { return type_; }
  // Whether the cache was made for models of this shape.
  bool Fits(const ModelConfig& config) const;

  // Stores one position of one head, rounded to type(). In i8 a value is off by
  // at most half a step, which is the largest magnitude of the position / 254.
  // A value that is not finite makes the whole position NaN.
  void Store(size_t layer, size_t kv_head, size_t position, const float* key,
             const float* value);

  // The first `count` positions of one head as stored: (count, qk_dim) and
  // (count, vo_dim) of the layer.
  void Widen(size_t layer, size_t kv_head, size_t count, float* keys,
             float* values) const;

  // One head's positions from `first` on, and their scales (null unless i8).
  // Of keys, the group that holds it.
  const std::byte* keys(size_t layer, size_t kv_head, size_t first = 0) const {
    return keys_.Position(layer, kv_head, first);
  }
  const std::byte* values(size_t layer, size_t kv_head,
                          size_t first = 0) const {
    return values_.Position(layer, kv_head, first);
  }
  const float* key_scales(size_t layer, size_t kv_head,
                          size_t first = 0) const {
    return keys_.Scales(layer, kv_head, first);
  }
  const float* value_scales(size_t layer, size_t kv_head,
                            size_t first = 0) const {
    return values_.Scales(layer, kv_head, first);
  }
  // Bytes of keys, values and their scales, for all positions.
  size_t bytes() const { return keys_.bytes() + values_.bytes(); }
  // Of one position in all layers.
  size_t position_bytes() const {
    return keys_.position_bytes() + values_.position_bytes();
  }

  // (rotary_dim / 2,) of one position, in this layer.
  const float* cosines(size_t layer, size_t position) const {
    return AnglesOf(layer).cosines.data() + position * rotary_half_;
  }
  const float* sines(size_t layer, size_t position) const {
    return AnglesOf(layer).sines.data() + position * rotary_half_;
  }
  // Scratch for the attention of query heads from `head` on, as far as nobody
  // else has those after it.
  float* scratch(size_t head) { return scratch_.data() + head * head_scratch_; }

 private:
  // The keys, or the values, of all heads of all layers.
  class Heads {
   public:
    // By position: the elements of a position are a run. By element: those of a
    // group of positions are (dim, kAttentionBlock).
    enum class Order { kByPosition, kByElement };
    // `dims`: elements of a head, by layer.
    Heads(WeightType type, Order order, size_t kv_heads, size_t capacity,
          std::vector<size_t> dims);
    // What holds position `first`: it, or its group.
    const std::byte* Position(size_t layer, size_t head, size_t first) const {
      return positions_.data() + Offset(layer, head, first);
    }
    const float* Scales(size_t layer, size_t head, size_t first) const {
      return scales_.empty() ? nullptr
                             : scales_.data() + ScaleIndex(layer, head, first);
    }
    void Store(size_t layer, size_t head, size_t position, const float* from);
    void Widen(size_t layer, size_t head, size_t count, float* to) const;
    const std::vector<size_t>& dims() const { return dims_; }
    size_t bytes() const {
      return begins_.back() + scales_.size() * sizeof(float);
    }
    size_t position_bytes() const;
    // Frees the positions of a layer; returns how many bytes.
    size_t Free(size_t layer) {
      return positions_.Release(begins_[layer], begins_[layer + 1]);
    }

   private:
    size_t Offset(size_t layer, size_t head, size_t position) const {
      if (order_ == Order::kByElement) position -= position % kAttentionBlock;
      return begins_[layer] +
             (head * capacity_ + position) * BytesOf(dims_[layer]);
    }
    // Of a position.
    size_t BytesOf(size_t dim) const {
      return order_ == Order::kByPosition
                 ? KvStride(type_, dim)
                 : KeyGroupBytes(type_, dim) / kAttentionBlock;
    }
    // From the group that Offset names to the first element of a position.
    size_t InGroup(size_t position) const {
      return position % kAttentionBlock * KeyGroupBytes(type_, 1) /
             kAttentionBlock;
    }
    size_t ScaleIndex(size_t layer, size_t head, size_t position) const {
      return (layer * kv_heads_ + head) * head_scales_ + position;
    }

    WeightType type_;
    Order order_;
    size_t kv_heads_;
    size_t capacity_;             // whole groups, by element
    std::vector<size_t> dims_;    // by layer
    std::vector<size_t> begins_;  // byte offsets of the layers, and the end
    size_t head_scales_;
    PageBuffer positions_;
    std::vector<float> scales_;
  };

  // (capacity, rotary_dim / 2) each.
  struct Angles {
    std::vector<float> cosines;
    std::vector<float> sines;
  };
  static Angles MakeAngles(const std::vector<float>& frequencies,
                           size_t capacity, double factor);
  const Angles& AnglesOf(size_t layer) const {
    if (windowed_[layer]) return window_angles_;
    return long_ ? long_angles_ : angles_;
  }
  bool IsLong(size_t tokens) const {
    return rope_scaling_.type == RopeScaling::Type::kLong &&
           tokens > rope_scaling_.positions;
  }

  WeightType type_;
  size_t layers_;
  size_t heads_;
  size_t kv_heads_;
  size_t capacity_;
  size_t length_ = 0;
  std::optional<LayerDecision> decision_;
  std::vector<bool> left_out_;     // by layer
  std::vector<float> judgements_;  // (layers, capacity), or empty
  Heads keys_;
  Heads values_;
  // The angles follow from these. Fits compares them instead of the angles.
  double rope_theta_;
  RopeScaling rope_scaling_;
  std::optional<double> window_rope_theta_;
  std::vector<bool> windowed_;  // by layer: whether window_angles_ are its own
  size_t rotary_half_;
  Angles angles_;
  Angles long_angles_;    // empty where no sequence can be long
  Angles window_angles_;  // empty where all layers have angles_
  bool long_ = false;
  size_t head_scratch_;
  std::vector<float> scratch_;  // (heads, head_scratch_)
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_KV_CACHE_H_
