// Causal attention over a KV cache, one token or many.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_ATTENTION_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/model/format/config.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Where q, k and v of a head lie in one token's qkv.
class HeadOffsets {
 public:
  HeadOffsets(const ModelConfig& config, size_t layer);
  size_t q(size_t head) const { return head * q_stride_; }
  size_t k(size_t kv_head) const { return k_ + kv_head * k_stride_; }
  size_t v(size_t kv_head) const { return v_ + kv_head * v_stride_; }

 private:
  size_t q_stride_, k_stride_, v_stride_;
  size_t k_, v_;  // of the first KV head
};

// The factor of scores. It follows from the model's head_dim, or from a field
// of its own, even where heads of a layer have fewer elements.
float AttentionScale(const ModelConfig& config);
// The first position that the last of `count` positions attends to.
size_t FirstSeen(const ModelConfig& config, size_t layer, size_t count);

// Rotates a KV head's key and the queries of its group by the angles of
// `position`, which `cache` has. `qkv` is q, k and v of one token.
void RotateGroup(const ModelConfig& config, size_t layer, size_t kv_head,
                 size_t position, const KvCache& cache, float* qkv);

// Memory of the prefill path, grown on demand; one vector per worker.
struct AttentionScratch {
  std::vector<std::vector<float>> scores;
  std::vector<std::vector<float>> widened;  // keys and values of a head
};

// qkv (tokens, qkv_rows of the layer) holds q, k, v of the tokens at positions
// cache.length() onwards. Rotates q and k in place, stores k and v in layer
// `layer` of the cache, and writes the heads' results to out (tokens, o_cols).
// For one token, does as DecodeAttention. For several, runs a library GEMM.
void CausalAttention(const ModelConfig& config, size_t layer, size_t tokens,
                     float* qkv, KvCache& cache, Executor& executor,
                     AttentionScratch& scratch, float* out);

// The same with the attention kernels, one token after the other: each gets the
// bits of a call with that token alone. Allocates nothing.
void DecodeAttention(const ModelConfig& config, size_t layer, size_t tokens,
                     float* qkv, KvCache& cache, Executor& executor,
                     float* out);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_ATTENTION_H_
