#include "kernels/attention.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/reduce-inl.h"
#include "kernels/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

inline constexpr size_t kSumVectors = kAttentionSums / LanesOf();

// What the passes over a block of positions share: `args` and its scratch.
// Everything of a head is padded to `width` elements.
struct HeadState {
  explicit HeadState(const AttentionArgs& args)
      : width(RoundUp(args.head_dim, kBlock)),
        q(args.scratch),
        out(q + args.heads * width),
        weights(out + args.heads * width),
        sums(weights + args.heads * kAttentionBlock),
        max(sums + args.heads * kAttentionSums) {
    for (size_t head = 0; head < args.heads; ++head) {
      const float* from = args.q + head * args.head_dim;
      float* to = q + head * width;
      std::fill(std::copy_n(from, args.head_dim, to), to + width, 0.0f);
    }
    std::fill_n(out, args.heads * width, 0.0f);
    std::fill_n(sums, args.heads * kAttentionSums, 0.0f);
    std::fill_n(max, args.heads, -std::numeric_limits<float>::infinity());
  }

  size_t width;
  float* q;        // (heads, width)
  float* out;      // (heads, width), not yet divided by the sum
  float* weights;  // (heads, kAttentionBlock): scores, then their weights
  float* sums;     // (heads, kAttentionSums) of exponentials
  float* max;      // (heads,) of the scores so far
};

// Rows of a block of positions, and what is fetched while they are read.
struct Rows {
  const std::byte* data;
  size_t count;
  const std::byte* fetched;  // `fetched_count` rows like these
  size_t fetched_count;
  size_t stride;
};

// scores (heads, kAttentionBlock) of `heads` heads that follow each other.
//
// Four dots at once: eight chains of additions on AVX2, which is what two FMA
// units with a latency of four cycles need.
template <WeightType type, size_t heads>
HWY_NOINLINE void ScorePass(const Rows& keys, const float* HWY_RESTRICT q,
                            size_t width, float* HWY_RESTRICT scores) {
  const FloatTag d;
  constexpr size_t kRows = 4 / heads;
  constexpr size_t kBytes = BlockBytes(type);
  for (size_t t = 0; t < keys.count; t += kRows) {
    const std::byte* row[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      row[r] = keys.data + std::min(t + r, keys.count - 1) * keys.stride;
    }
    const std::byte* fetched =
        keys.fetched + std::min(t, keys.fetched_count - 1) * keys.stride;
    Vec partial[4][kSumVectors];
    for (auto& dot : partial) {
      for (Vec& sum : dot) sum = hn::Zero(d);
    }
    for (size_t block = 0; block < width / kBlock; ++block) {
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        const float* xs = q + block * kBlock + v * LanesOf();
        Unroll<kRows>([&](auto r) RANKFORGE_LAMBDA {
          if constexpr (v == 0) {
            FetchBlock<Prefetch::kAhead, kBytes>(fetched + r * keys.stride +
                                                 block * kBytes);
          }
          const Vec w =
              Weights<type>::template Load<v>(row[r] + block * kBytes);
          Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
            Vec& sum = partial[r * heads + h][v % kSumVectors];
            sum = hn::MulAdd(w, hn::LoadU(d, xs + h * width), sum);
          });
        });
      });
    }
    float dots[4];
    ReduceFour(partial, dots);
    for (size_t r = 0; r < kRows && t + r < keys.count; ++r) {
      for (size_t h = 0; h < heads; ++h) {
        scores[h * kAttentionBlock + t + r] = dots[r * heads + h];
      }
    }
  }
}

// Vectors [begin, begin + vectors) of the outputs, counted from a block:
// out (heads, width) += sum over t of weights[t] * values[t].
template <WeightType type, size_t heads, size_t begin, size_t vectors>
HWY_INLINE void ValueTile(const Rows& values, size_t block, size_t width,
                          const float* HWY_RESTRICT weights,
                          float* HWY_RESTRICT out) {
  const FloatTag d;
  constexpr size_t kBytes = BlockBytes(type);
  constexpr size_t kTileBytes = kBytes * vectors / kBlockVectors;
  out += block * kBlock + begin * LanesOf();
  Vec sum[heads][vectors];
  Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
    Unroll<vectors>([&](auto v) RANKFORGE_LAMBDA {
      sum[h][v] = hn::LoadU(d, out + h * width + v * LanesOf());
    });
  });
  const std::byte* row = values.data + block * kBytes;
  const std::byte* fetched =
      values.fetched + block * kBytes + begin * kBytes / kBlockVectors;
  for (size_t t = 0; t < values.count; ++t) {
    if (t < values.fetched_count) {
      FetchBlock<Prefetch::kAhead, kTileBytes>(fetched);
    }
    Vec weight[heads];
    Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
      weight[h] = hn::Set(d, weights[h * kAttentionBlock + t]);
    });
    Unroll<vectors>([&](auto v) RANKFORGE_LAMBDA {
      constexpr size_t kVector = begin + v;
      const Vec value = Weights<type>::template Load<kVector % kBlockVectors>(
          row + kVector / kBlockVectors * kBytes);
      Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
        sum[h][v] = hn::MulAdd(value, weight[h], sum[h][v]);
      });
    });
    row += values.stride;
    fetched += values.stride;
  }
  Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
    Unroll<vectors>([&](auto v) RANKFORGE_LAMBDA {
      hn::StoreU(sum[h][v], d, out + h * width + v * LanesOf());
    });
  });
}

// 64 / heads outputs of each head at once: eight chains of additions on AVX2.
template <WeightType type, size_t heads>
HWY_NOINLINE void ValuePass(const Rows& values, size_t width,
                            const float* HWY_RESTRICT weights,
                            float* HWY_RESTRICT out) {
  const size_t blocks = width / kBlock;
  size_t block = 0;
  if constexpr (heads == 4) {
    constexpr size_t kHalf = kBlockVectors / 2;
    for (; block < blocks; ++block) {
      ValueTile<type, heads, 0, kHalf>(values, block, width, weights, out);
      ValueTile<type, heads, kHalf, kHalf>(values, block, width, weights, out);
    }
  }
  if constexpr (heads == 1) {
    for (; block + 2 <= blocks; block += 2) {
      ValueTile<type, heads, 0, 2 * kBlockVectors>(values, block, width,
                                                   weights, out);
    }
  }
  for (; block < blocks; ++block) {
    ValueTile<type, heads, 0, kBlockVectors>(values, block, width, weights,
                                             out);
  }
}

HWY_INLINE Vec ExpKeepingNan(Vec x) {
  const FloatTag d;
  return hn::IfThenElse(hn::Eq(x, x), hn::Exp(d, x), x);
}

// Turns the scores of a block into weights of its values. When they raise the
// maximum, what was added up so far is scaled down.
template <WeightType type>
HWY_NOINLINE void WeighBlock(const AttentionArgs& args, const HeadState& state,
                             size_t head, size_t first, size_t count) {
  const FloatTag d;
  constexpr bool kScaled = IsQuantized(type);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float* HWY_RESTRICT weights = state.weights + head * kAttentionBlock;
  for (size_t i = 0; i < count; i += LanesOf()) {
    Vec score = hn::LoadU(d, weights + i);
    if constexpr (kScaled) {
      score = hn::Mul(score, hn::LoadU(d, args.key_scales + first + i));
    }
    score = hn::Mul(score, hn::Set(d, args.scale));
    hn::StoreU(score, d, weights + i);
  }
  std::fill(weights + count, weights + kAttentionBlock, kLowest);
  Vec max = hn::Set(d, kLowest);
  for (size_t i = 0; i < count; i += LanesOf()) {
    max = hn::Max(max, hn::LoadU(d, weights + i));
  }
  const float block_max = hn::GetLane(hn::MaxOfLanes(d, max));
  float* HWY_RESTRICT sums = state.sums + head * kAttentionSums;
  if (block_max > state.max[head]) {
    const Vec factor = hn::Exp(d, hn::Set(d, state.max[head] - block_max));
    float* HWY_RESTRICT out = state.out + head * state.width;
    for (size_t i = 0; i < state.width; i += LanesOf()) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + i), factor), d, out + i);
    }
    for (size_t i = 0; i < kAttentionSums; i += LanesOf()) {
      hn::StoreU(hn::Mul(hn::LoadU(d, sums + i), factor), d, sums + i);
    }
    state.max[head] = block_max;
  }
  const Vec shift = hn::Set(d, state.max[head]);
  for (size_t i = 0; i < count; i += LanesOf()) {
    Vec weight = ExpKeepingNan(hn::Sub(hn::LoadU(d, weights + i), shift));
    float* sum = sums + i % kAttentionSums;
    hn::StoreU(hn::Add(hn::LoadU(d, sum), weight), d, sum);
    if constexpr (kScaled) {
      weight = hn::Mul(weight, hn::LoadU(d, args.value_scales + first + i));
    }
    hn::StoreU(weight, d, weights + i);
  }
}

// Heads that share a pass. Targets below AVX2 exist so that everything runs
// everywhere, and take one at a time: the unrolled passes of four were two
// thirds of the time that this file takes to compile.
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128 || \
    HWY_TARGET == HWY_SCALAR
inline constexpr size_t kHeadsAtOnce = 1;
#else
inline constexpr size_t kHeadsAtOnce = 4;
#endif

// pass(std::integral_constant<size_t, n>(), first) for all heads, n = 4, 2 or
// 1 of them at once.
template <size_t at_once = kHeadsAtOnce, class Pass>
HWY_INLINE void ForHeads(size_t heads, Pass pass, size_t first = 0) {
  for (; first + at_once <= heads; first += at_once) {
    pass(std::integral_constant<size_t, at_once>(), first);
  }
  if constexpr (at_once > 1) ForHeads<at_once / 2>(heads, pass, first);
}

template <WeightType type>
HWY_NOINLINE void AttendAs(const AttentionArgs& args) {
  const HeadState state(args);
  const size_t stride = KvStride(type, args.head_dim);
  for (size_t first = 0; first < args.count; first += kAttentionBlock) {
    const size_t count = std::min(kAttentionBlock, args.count - first);
    const size_t next = first + count;
    const size_t left = args.count - next;
    // While keys are multiplied, their values are on the way, and with these
    // the next keys.
    const Rows keys = {args.keys + first * stride, count,
                       args.values + first * stride, count, stride};
    Rows values = {args.values + first * stride, count,
                   args.keys + next * stride, std::min(left, kAttentionBlock),
                   stride};
    if (left == 0 && args.next_keys != nullptr) {
      values.fetched = args.next_keys;
      values.fetched_count = std::min(args.count, kAttentionBlock);
    }
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ScorePass<type, heads>(keys, state.q + head * state.width, state.width,
                             state.weights + head * kAttentionBlock);
    });
    for (size_t head = 0; head < args.heads; ++head) {
      WeighBlock<type>(args, state, head, first, count);
    }
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ValuePass<type, heads>(values, state.width,
                             state.weights + head * kAttentionBlock,
                             state.out + head * state.width);
    });
  }
  for (size_t head = 0; head < args.heads; ++head) {
    float* sums = state.sums + head * kAttentionSums;
    for (size_t half = kAttentionSums / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    const float inverse = 1 / sums[0];
    for (size_t i = 0; i < args.head_dim; ++i) {
      args.out[head * args.head_dim + i] =
          state.out[head * state.width + i] * inverse;
    }
  }
}

void AttendOfTarget(WeightType type, const AttentionArgs& args) {
  WithType<kKvTypes>(type, [&](auto constant) { AttendAs<constant>(args); });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(AttendOfTarget);
void Attend(WeightType type, const AttentionArgs& args) {
  HWY_DYNAMIC_DISPATCH(AttendOfTarget)(type, args);
}

}  // namespace rankforge
#endif  // HWY_ONCE
