#include "runtime/model/attention.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "runtime/model/parallel.h"

namespace rankforge {

namespace {

float Scale(const ModelConfig& config) {
  return static_cast<float>(1 /
                            std::sqrt(static_cast<double>(config.head_dim)));
}

// Where q, k and v of a head lie in one token's qkv.
struct HeadOffsets {
  size_t q_stride;
  size_t k, v;  // of the first KV head
  size_t kv_stride;

  explicit HeadOffsets(const ModelConfig& config)
      : q_stride(config.qkv_by_head ? 3 * config.head_dim : config.head_dim),
        k(config.qkv_by_head ? config.head_dim : config.q_rows()),
        v(k + (config.qkv_by_head ? config.head_dim : config.kv_rows())),
        kv_stride(q_stride) {}
};

// Rotates the queries and the key of one KV head's group at one position, and
// stores the key and its value.
void RotateAndStore(const ModelConfig& config, size_t layer, size_t position,
                    size_t kv_head, float* qkv, KvCache& cache) {
  const size_t group = config.heads / config.kv_heads;
  const HeadOffsets at(config);
  const float* cosines = cache.cosines(position);
  const float* sines = cache.sines(position);
  const size_t rotated = config.rotary_dim();
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    RotateHalf(qkv + head * at.q_stride, cosines, sines, rotated);
  }
  float* const key = qkv + at.k + kv_head * at.kv_stride;
  RotateHalf(key, cosines, sines, rotated);
  cache.Store(layer, kv_head, position, key,
              qkv + at.v + kv_head * at.kv_stride);
}

// The first position that the newest of `count` attends to.
size_t FirstSeen(const ModelConfig& config, size_t count) {
  return config.window > 0 && count > config.window ? count - config.window : 0;
}

// All query heads that share one KV head, for the newest of `count` tokens.
void AttendOne(const ModelConfig& config, size_t layer, size_t kv_head,
               size_t count, const float* q, KvCache& cache, float* out) {
  const size_t group = config.heads / config.kv_heads;
  const size_t head = kv_head * group;
  const size_t next = kv_head + 1;
  const size_t first = FirstSeen(config, count);
  Attend(cache.type(),
         {.q = q + head * HeadOffsets(config).q_stride,
          .heads = group,
          .head_dim = config.head_dim,
          .keys = cache.keys(layer, kv_head, first),
          .values = cache.values(layer, kv_head, first),
          .key_scales = cache.key_scales(layer, kv_head, first),
          .value_scales = cache.value_scales(layer, kv_head, first),
          .count = count - first,
          .next_keys =
              next < config.kv_heads ? cache.keys(layer, next, first) : nullptr,
          .scale = Scale(config),
          .scratch = cache.scratch(kv_head),
          .out = out + head * config.head_dim});
}

// Query tokens of one head that share a GEMM. Large enough for the library,
// small enough that little of the square above the diagonal is computed.
constexpr size_t kQueryTile = 64;

// One query head, all tokens. `keys` and `values` are (first + tokens, dim).
void AttendMany(const ModelConfig& config, size_t head, size_t first,
                size_t tokens, const float* qkv, const float* keys,
                const float* values, std::vector<float>& scores, float* out) {
  const size_t dim = config.head_dim;
  const size_t q_stride = HeadOffsets(config).q_stride;
  const auto n = [](size_t value) { return static_cast<blasint>(value); };
  scores.resize(std::max(scores.size(), kQueryTile * (first + tokens)));
  for (size_t begin = 0; begin < tokens; begin += kQueryTile) {
    const size_t rows = std::min(kQueryTile, tokens - begin);
    const size_t count = first + begin + rows;  // positions the tile can see
    // scores (rows, count) = scale * q (rows, dim) @ keys (count, dim)^T
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n(rows), n(count),
                n(dim), Scale(config),
                qkv + begin * config.qkv_rows() + head * q_stride,
                n(config.qkv_rows()), keys, n(dim), 0, scores.data(), n(count));
    for (size_t row = 0; row < rows; ++row) {
      float* const line = scores.data() + row * count;
      const size_t seen = first + begin + row + 1;
      const size_t first_seen = FirstSeen(config, seen);
      Softmax(line + first_seen, seen - first_seen);
      std::fill(line, line + first_seen, 0.0f);
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
    const size_t size = count * config.head_dim;
    std::vector<float>& widened = scratch.widened[worker];
    widened.resize(std::max(widened.size(), 2 * size));
    float* const keys = widened.data();
    float* const values = keys + size;
    cache.Widen(layer, kv_head, count, keys, values);
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
      for (size_t kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
        RotateAndStore(config, layer, first + token, kv_head,
                       qkv + token * config.qkv_rows(), cache);
      }
    });
    AttendManyHeads(config, layer, tokens, qkv, cache, executor, scratch, out);
    return;
  }
  const size_t count = first + 1;
  // Below this many multiply-adds (a Llama-2-7b layer at 32 positions; about
  // 20 us on one core) the hand-over to other threads and the keys' way into
  // their caches cost as much as they save.
  constexpr size_t kParallelMacs = size_t{1} << 18;
  const bool parallel = 2 * config.q_rows() * count >= kParallelMacs;
  const auto attend_group = [&](size_t kv_head) {
    RotateAndStore(config, layer, first, kv_head, qkv, cache);
    AttendOne(config, layer, kv_head, count, qkv, cache, out);
  };
  if (parallel && executor.threads() > 1) {
    executor.Run(config.kv_heads, attend_group);
  } else {
    for (size_t head = 0; head < config.kv_heads; ++head) attend_group(head);
  }
}

}  // namespace rankforge
