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

// What scores are multiplied by: those of the model's own heads where a layer
// has fewer elements.
float AttentionScale(const ModelConfig& config);
// The first position that the newest of `count` attends to.
size_t FirstSeen(const ModelConfig& config, size_t count);

// Rotates the queries of a KV head's group and its key in `qkv`, one token's
// q, k and v, by the angles of `position`, which `cache` has.
void RotateGroup(const ModelConfig& config, size_t layer, size_t kv_head,
                 size_t position, const KvCache& cache, float* qkv);

// Memory of the prefill path, grown on demand; one vector a worker.
struct AttentionScratch {
  std::vector<std::vector<float>> scores;
  std::vector<std::vector<float>> widened;  // keys and values of a head
};

// qkv (tokens, qkv_rows of the layer) holds q, k, v of the tokens at positions
// cache.length() onwards. Rotates q and k in place, stores k and v in layer
// `layer` of the cache, and writes the heads' results to out (tokens, o_cols).
// One token goes through the attention kernels and allocates nothing; several
// go through a library GEMM.
void CausalAttention(const ModelConfig& config, size_t layer, size_t tokens,
                     float* qkv, KvCache& cache, Executor& executor,
                     AttentionScratch& scratch, float* out);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_ATTENTION_H_
