#include "runtime/model/forward/attention.h"

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/layer/attention.h"
#include "kernels/layer/elementwise.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

namespace {

// The rotary angles of one position for one KV head, which may have only some
// of the model's frequencies.
class Angles {
 public:
  Angles(const ModelConfig& config, size_t layer, size_t kv_head,
         size_t position, const KvCache& cache)
      : cosines_(cache.cosines(layer, position)),
        sines_(cache.sines(layer, position)),
        rotated_(config.rotated(layer)) {
    if (config.layer_dims.empty() ||
        config.layer_dims[layer].rotary_pairs.empty()) {
      return;
    }
    size_t i = 0;
    for (const size_t pair : config.layer_dims[layer].rotary_pairs[kv_head]) {
      gathered_[0][i] = cosines_[pair];
      gathered_[1][i] = sines_[pair];
      ++i;
    }
    cosines_ = gathered_[0].data();
    sines_ = gathered_[1].data();
  }
  Angles(const Angles&) = delete;
  Angles& operator=(const Angles&) = delete;

  void Rotate(float* x) const { RotateHalf(x, cosines_, sines_, rotated_); }

 private:
  const float* cosines_;
  const float* sines_;
  size_t rotated_;
  std::array<std::array<float, kMaxHeadDim / 2>, 2> gathered_;
};

// Does what RotateGroup does, then stores the key and its value.
void RotateAndStore(const ModelConfig& config, size_t layer, size_t position,
                    size_t kv_head, float* qkv, KvCache& cache) {
  RotateGroup(config, layer, kv_head, position, cache, qkv);
  const HeadOffsets at(config, layer);
  cache.Store(layer, kv_head, position, qkv + at.k(kv_head),
              qkv + at.v(kv_head));
}

// Query heads [begin, end), which share a KV head.
struct QueryHeads {
  size_t kv_head;
  size_t begin;
  size_t end;
};

// How threads share the query heads of a token. As many KV heads as each thread
// can have alike are whole, with all of their query heads, so that keys and
// values are read once. Those that are left over are cut by query heads where
// that shortens the longest share: of three KV heads two threads would have two
// and one.
class HeadShares {
 public:
  HeadShares(const ModelConfig& config, size_t threads)
      : group_(config.heads / config.kv_heads),
        whole_(config.kv_heads - config.kv_heads % threads),
        left_(config.kv_heads - whole_) {
    // The most query heads that one thread then has of those left over. Ties go
    // to fewer pieces, as every piece reads the keys and values.
    const auto most = [&](size_t pieces) {
      return (left_ * pieces + threads - 1) / threads *
             ((group_ + pieces - 1) / pieces);
    };
    for (size_t pieces = 2; pieces <= group_; ++pieces) {
      if (most(pieces) < most(pieces_)) pieces_ = pieces;
    }
  }

  size_t count() const { return whole_ + left_ * pieces_; }
  // KV heads below this are whole.
  size_t whole() const { return pieces_ == 1 ? whole_ + left_ : whole_; }
  QueryHeads At(size_t share) const {
    if (share < whole_) {
      return {share, share * group_, (share + 1) * group_};
    }
    const size_t kv_head = whole_ + (share - whole_) / pieces_;
    const size_t piece = (share - whole_) % pieces_;
    // The larger ones first.
    const auto bound = [&](size_t i) {
      return kv_head * group_ + (i * group_ + pieces_ - 1) / pieces_;
    };
    return {kv_head, bound(piece), bound(piece + 1)};
  }

 private:
  size_t group_;
  size_t whole_;
  size_t left_;
  size_t pieces_ = 1;
};

// Attention of `heads` for the last of `count` positions.
void AttendOne(const ModelConfig& config, size_t layer, const QueryHeads& heads,
               size_t count, const float* q, KvCache& cache, float* out) {
  const size_t kv_head = heads.kv_head;
  const size_t next = kv_head + 1;
  const size_t seen = FirstSeen(config, layer, count);
  // The positions of a group lie together.
  const size_t first = seen / kAttentionBlock * kAttentionBlock;
  Attend(cache.type(),
         {.q = q + HeadOffsets(config, layer).q(heads.begin),
          .heads = heads.end - heads.begin,
          .key_dim = config.qk_dim(layer),
          .value_dim = config.vo_dim(layer),
          .begin = seen - first,
          .end = count - first,
          .keys = cache.keys(layer, kv_head, first),
          .values = cache.values(layer, kv_head, first),
          .key_scales = cache.key_scales(layer, kv_head, first),
          .value_scales = cache.value_scales(layer, kv_head, first),
          .next_keys =
              next < config.kv_heads ? cache.keys(layer, next, first) : nullptr,
          .scale = AttentionScale(config),
          .cap = static_cast<float>(config.score_cap),
          .scratch = cache.scratch(heads.begin),
          .out = out + heads.begin * config.vo_dim(layer)});
}

// Query tokens of one head that share a GEMM: enough for the library to be
// fast, and few enough that little above the diagonal is computed.
constexpr size_t kQueryTile = 64;

// Attention of one query head for all tokens. `keys` are (first + tokens,
// qk_dim), `values` (first + tokens, vo_dim).
void AttendMany(const ModelConfig& config, size_t layer, size_t head,
                size_t first, size_t tokens, const float* qkv,
                const float* keys, const float* values,
                std::vector<float>& scores, float* out) {
  const size_t key_dim = config.qk_dim(layer);
  const size_t value_dim = config.vo_dim(layer);
  const size_t qkv_rows = config.qkv_rows(layer);
  const size_t out_stride = config.o_cols(layer);
  const size_t q_offset = HeadOffsets(config, layer).q(head);
  const auto n = [](size_t value) { return static_cast<blasint>(value); };
  scores.resize(std::max(scores.size(), kQueryTile * (first + tokens)));
  for (size_t begin = 0; begin < tokens; begin += kQueryTile) {
    const size_t rows = std::min(kQueryTile, tokens - begin);
    const size_t count = first + begin + rows;  // positions the tile can see
    // scores (rows, count) = scale * q (rows, key_dim) @ keys^T
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n(rows), n(count),
                n(key_dim), AttentionScale(config),
                qkv + begin * qkv_rows + q_offset, n(qkv_rows), keys,
                n(key_dim), 0, scores.data(), n(count));
    for (size_t row = 0; row < rows; ++row) {
      float* const line = scores.data() + row * count;
      const size_t seen = first + begin + row + 1;
      const size_t first_seen = FirstSeen(config, layer, seen);
      if (config.score_cap > 0) {
        CapScores(static_cast<float>(config.score_cap), line + first_seen,
                  seen - first_seen);
      }
      Softmax(line + first_seen, seen - first_seen);
      std::fill(line, line + first_seen, 0.0f);
      std::fill(line + seen, line + count, 0.0f);
    }
    // out (rows, value_dim) = scores (rows, count) @ values
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n(rows),
                n(value_dim), n(count), 1, scores.data(), n(count), values,
                n(value_dim), 0, out + begin * out_stride + head * value_dim,
                n(out_stride));
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
    const size_t key_size = count * config.qk_dim(layer);
    const size_t size = key_size + count * config.vo_dim(layer);
    std::vector<float>& widened = scratch.widened[worker];
    widened.resize(std::max(widened.size(), size));
    float* const keys = widened.data();
    float* const values = keys + key_size;
    cache.Widen(layer, kv_head, count, keys, values);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      AttendMany(config, layer, head, first, tokens, qkv, keys, values,
                 scratch.scores[worker], out);
    }
  });
}

}  // namespace

float AttentionScale(const ModelConfig& config) {
  const double divisor = config.query_scalar > 0
                             ? config.query_scalar
                             : static_cast<double>(config.head_dim);
  return static_cast<float>(1 / std::sqrt(divisor));
}

size_t FirstSeen(const ModelConfig& config, size_t layer, size_t count) {
  const size_t window = config.window_of(layer);
  return window > 0 && count > window ? count - window : 0;
}

void RotateGroup(const ModelConfig& config, size_t layer, size_t kv_head,
                 size_t position, const KvCache& cache, float* qkv) {
  const size_t group = config.heads / config.kv_heads;
  const HeadOffsets at(config, layer);
  const Angles angles(config, layer, kv_head, position, cache);
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    angles.Rotate(qkv + at.q(head));
  }
  angles.Rotate(qkv + at.k(kv_head));
}

HeadOffsets::HeadOffsets(const ModelConfig& config, size_t layer) {
  const size_t qk = config.qk_dim(layer);
  const size_t vo = config.vo_dim(layer);
  if (config.qkv_by_head) {
    q_stride_ = k_stride_ = v_stride_ = 2 * qk + vo;
    k_ = qk;
    v_ = 2 * qk;
  } else {
    q_stride_ = k_stride_ = qk;
    v_stride_ = vo;
    k_ = config.q_rows(layer);
    v_ = k_ + config.k_rows(layer);
  }
}

void CausalAttention(const ModelConfig& config, size_t layer, size_t tokens,
                     float* qkv, KvCache& cache, Executor& executor,
                     AttentionScratch& scratch, float* out) {
  const size_t first = cache.length();
  if (tokens > 1) {
    ParallelFor(executor, tokens, [&](size_t token, size_t) {
      for (size_t kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
        RotateAndStore(config, layer, first + token, kv_head,
                       qkv + token * config.qkv_rows(layer), cache);
      }
    });
    AttendManyHeads(config, layer, tokens, qkv, cache, executor, scratch, out);
    return;
  }
  DecodeAttention(config, layer, tokens, qkv, cache, executor, out);
}

void DecodeAttention(const ModelConfig& config, size_t layer, size_t tokens,
                     float* qkv, KvCache& cache, Executor& executor,
                     float* out) {
  const size_t first = cache.length();
  const size_t qkv_rows = config.qkv_rows(layer);
  const size_t o_cols = config.o_cols(layer);
  // Below this many multiply-adds (SmolLM2-135M at 7 positions; about 1 us on
  // one core), other threads cost as much as they save.
  constexpr size_t kParallelMacs = size_t{1} << 13;
  const bool parallel =
      (config.q_rows(layer) + o_cols) * (first + 1) * tokens >= kParallelMacs;
  const HeadShares shares(config, parallel ? executor.threads() : 1);
  const auto rotate = [&](size_t kv_head) {
    for (size_t t = 0; t < tokens; ++t) {
      RotateAndStore(config, layer, first + t, kv_head, qkv + t * qkv_rows,
                     cache);
    }
  };
  const auto attend = [&](size_t share) {
    const QueryHeads heads = shares.At(share);
    if (heads.kv_head < shares.whole()) rotate(heads.kv_head);
    for (size_t t = 0; t < tokens; ++t) {
      AttendOne(config, layer, heads, first + t + 1, qkv + t * qkv_rows, cache,
                out + t * o_cols);
    }
  };
  // What several threads read is there before they start.
  for (size_t kv_head = shares.whole(); kv_head < config.kv_heads; ++kv_head) {
    rotate(kv_head);
  }
  if (parallel && executor.threads() > 1) {
    executor.Run(shares.count(), attend);
  } else {
    for (size_t share = 0; share < shares.count(); ++share) attend(share);
  }
}

}  // namespace rankforge
