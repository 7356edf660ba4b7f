#include "runtime/model/attention.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "kernels/bfloat16.h"
#include "kernels/elementwise.h"
#include "runtime/model/parallel.h"

namespace rankforge {

namespace {

float Scale(const ModelConfig& config) {
  return static_cast<float>(1 /
                            std::sqrt(static_cast<double>(config.head_dim)));
}

// Rotates q and k of one token and appends its keys and values.
void RotateAndStore(const ModelConfig& config, size_t layer, size_t position,
                    float* qkv, KvCache& cache) {
  const float* cosines = cache.cosines(position);
  const float* sines = cache.sines(position);
  float* const k = qkv + config.q_rows();
  const float* const v = k + config.kv_rows();
  for (size_t head = 0; head < config.heads; ++head) {
    RotateHalf(qkv + head * config.head_dim, cosines, sines, config.head_dim);
  }
  for (size_t head = 0; head < config.kv_heads; ++head) {
    float* const key = k + head * config.head_dim;
    RotateHalf(key, cosines, sines, config.head_dim);
    cache.Store(layer, head, position, key, v + head * config.head_dim);
  }
}

// All query heads that share one KV head, for the newest token.
void AttendOne(const ModelConfig& config, size_t layer, size_t kv_head,
               size_t count, const float* q, KvCache& cache, float* out) {
  const size_t group = config.heads / config.kv_heads;
  const size_t dim = config.head_dim;
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    if (cache.type() == KvType::kF32) {
      AttendF32(q + head * dim, cache.keys<float>(layer, kv_head),
                cache.values<float>(layer, kv_head), count, dim, dim,
                Scale(config), cache.scores(head), out + head * dim);
    } else {
      AttendBf16(q + head * dim, cache.keys<uint16_t>(layer, kv_head),
                 cache.values<uint16_t>(layer, kv_head), count, dim, dim,
                 Scale(config), cache.scores(head), out + head * dim);
    }
  }
}

// Query tokens of one head that share a GEMM. Large enough for the library,
// small enough that little of the square above the diagonal is computed.
constexpr size_t kQueryTile = 64;

// One query head, all tokens. `keys` and `values` are (first + tokens, dim).
void AttendMany(const ModelConfig& config, size_t head, size_t first,
                size_t tokens, const float* qkv, const float* keys,
                const float* values, std::vector<float>& scores, float* out) {
  const size_t dim = config.head_dim;
  const auto n = [](size_t value) { return static_cast<blasint>(value); };
  scores.resize(std::max(scores.size(), kQueryTile * (first + tokens)));
  for (size_t begin = 0; begin < tokens; begin += kQueryTile) {
    const size_t rows = std::min(kQueryTile, tokens - begin);
    const size_t count = first + begin + rows;  // positions the tile can see
    // scores (rows, count) = scale * q (rows, dim) @ keys (count, dim)^T
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n(rows), n(count),
                n(dim), Scale(config),
                qkv + begin * config.qkv_rows() + head * dim,
                n(config.qkv_rows()), keys, n(dim), 0, scores.data(), n(count));
    for (size_t row = 0; row < rows; ++row) {
      float* const line = scores.data() + row * count;
      const size_t seen = first + begin + row + 1;
      Softmax(line, seen);
      std::fill(line + seen, line + count, 0.0f);
    }
    // out (rows, dim) = scores (rows, count) @ values (count, dim)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n(rows), n(dim),
                n(count), 1, scores.data(), n(count), values, n(dim), 0,
                out + begin * config.q_rows() + head * dim, n(config.q_rows()));
  }
}

void AttendManyHeads(const ModelConfig& config, size_t layer, size_t tokens,
                     const float* qkv, const KvCache& cache, Executor& executor,
                     AttentionScratch& scratch, float* out) {
  const size_t group = config.heads / config.kv_heads;
  const size_t first = cache.length();
  const size_t count = first + tokens;
  scratch.scores.resize(executor.threads());
  scratch.widened.resize(executor.threads());
  ParallelFor(executor, config.kv_heads, [&](size_t kv_head, size_t worker) {
    const float* keys = cache.keys<float>(layer, kv_head);
    const float* values = cache.values<float>(layer, kv_head);
    if (cache.type() == KvType::kBf16) {
      const size_t size = count * config.head_dim;
      std::vector<float>& widened = scratch.widened[worker];
      widened.resize(std::max(widened.size(), 2 * size));
      std::transform(cache.keys<uint16_t>(layer, kv_head),
                     cache.keys<uint16_t>(layer, kv_head) + size,
                     widened.data(), FromBf16);
      std::transform(cache.values<uint16_t>(layer, kv_head),
                     cache.values<uint16_t>(layer, kv_head) + size,
                     widened.data() + size, FromBf16);
      keys = widened.data();
      values = widened.data() + size;
    }
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      AttendMany(config, head, first, tokens, qkv, keys, values,
                 scratch.scores[worker], out);
    }
  });
}

}  // namespace

void Attend(const ModelConfig& config, size_t layer, size_t tokens, float* qkv,
            KvCache& cache, Executor& executor, AttentionScratch& scratch,
            float* out) {
  const size_t first = cache.length();
  if (tokens > 1) {
    ParallelFor(executor, tokens, [&](size_t token, size_t) {
      RotateAndStore(config, layer, first + token,
                     qkv + token * config.qkv_rows(), cache);
    });
    AttendManyHeads(config, layer, tokens, qkv, cache, executor, scratch, out);
    return;
  }
  RotateAndStore(config, layer, first, qkv, cache);
  const size_t count = first + 1;
  // Below this many multiply-adds (a Llama-2-7b layer at 32 positions; about
  // 20 us on one core) the hand-over to other threads and the keys' way into
  // their caches cost as much as they save.
  constexpr size_t kParallelMacs = size_t{1} << 18;
  const bool parallel = 2 * config.q_rows() * count >= kParallelMacs;
  const auto attend_group = [&](size_t kv_head) {
    AttendOne(config, layer, kv_head, count, qkv, cache, out);
  };
  if (parallel && executor.threads() > 1) {
    executor.Run(config.kv_heads, attend_group);
  } else {
    for (size_t head = 0; head < config.kv_heads; ++head) attend_group(head);
  }
}

}  // namespace rankforge
