// Causal attention over a KV cache, one token or many.
#ifndef RANKFORGE_RUNTIME_MODEL_ATTENTION_H_
#define RANKFORGE_RUNTIME_MODEL_ATTENTION_H_

#include <cstddef>
#include <vector>

#include "runtime/executor.h"
#include "runtime/model/config.h"
#include "runtime/model/kv_cache.h"

namespace rankforge {

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
void Attend(const ModelConfig& config, size_t layer, size_t tokens, float* qkv,
            KvCache& cache, Executor& executor, AttentionScratch& scratch,
            float* out);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_ATTENTION_H_
