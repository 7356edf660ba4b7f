#include "kernels/layer/attention.h"

#include <algorithm>
#include <limits>

#include "kernels/layer/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/numbers/reduce-inl.h"
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

inline constexpr size_t kSumVectors = kAttentionSums / LanesOf();

// Vector v of a block of a position: rows of half blocks are not aligned.
template <WeightType type, size_t v>
HWY_INLINE Vec LoadOf(const std::byte* block) {
  if constexpr (type == WeightType::kBf16) {
    const hn::RebindToUnsigned<FloatTag> du;
    constexpr size_t kHalf = kBlockVectors / 2;
    return Weights<type>::template HalfOfWords<v / kHalf>(hn::LoadU(
        du,
        reinterpret_cast<const uint32_t*>(block) + (v % kHalf) * LanesOf()));
  } else {
    return Weights<type>::template Load<v>(block);
  }
}

// Lanes of vector v of half a block that are the position's own.
template <WeightType type, size_t v>
constexpr size_t OwnLanes() {
  size_t lanes = 0;
  for (size_t i = 0; i < kKvMultiple; ++i) {
    lanes += KvPlace(type, kKvMultiple, i) / LanesOf() == v;
  }
  return lanes;
}

// The scratch that the passes over a block of positions share. Rows of a head
// are padded to whole blocks: `width` elements of keys, `out_width` of values.
template <WeightType type>
struct HeadState {
  explicit HeadState(const AttentionArgs& args)
      : width(RoundUp(args.key_dim, kBlock)),
        out_width(RoundUp(args.value_dim, kBlock)),
        q(args.scratch),
        out(q + args.heads * width),
        weights(out + args.heads * out_width),
        sums(weights + args.heads * kAttentionBlock),
        max(sums + args.heads * kAttentionSums) {
    std::fill_n(q, args.heads * width, 0.0f);
    for (size_t head = 0; head < args.heads; ++head) {
      for (size_t i = 0; i < args.key_dim; ++i) {
        q[head * width + KvPlace(type, args.key_dim, i)] =
            args.q[head * args.key_dim + i];
      }
    }
    std::fill_n(out, args.heads * out_width, 0.0f);
    std::fill_n(sums, args.heads * kAttentionSums, 0.0f);
    std::fill_n(max, args.heads, -std::numeric_limits<float>::infinity());
  }

  size_t width;
  size_t out_width;
  float* q;        // (heads, width)
  float* out;      // (heads, out_width), not yet divided by the sum
  float* weights;  // (heads, kAttentionBlock): scores, then their weights
  float* sums;     // (heads, kAttentionSums) of exponentials
  float* max;      // (heads,) of the scores so far
};

// Rows of a block of positions, and what is fetched while they are read.
struct Rows {
  const std::byte* data;
  size_t count;
  size_t stride;
  const std::byte* fetched;
  size_t fetched_count;
  size_t fetched_stride;
};

// scores (heads, kAttentionBlock) of `heads` neighbouring heads. `half`: the
// last block is half a block. The elements after it belong to the next position
// and count as 0; they are not multiplied by 0, because what is not finite
// would remain.
//
// Four dots at once: on AVX2 that is eight chains of additions, which two FMA
// units with a latency of four cycles need.
template <WeightType type, size_t heads>
HWY_NOINLINE void ScorePass(const Rows& keys, const float* HWY_RESTRICT q,
                            size_t width, bool half,
                            float* HWY_RESTRICT scores) {
  const FloatTag d;
  constexpr size_t kRows = 4 / heads;
  constexpr size_t kBytes = BlockBytes(type);
  for (size_t t = 0; t < keys.count; t += kRows) {
    const std::byte* row[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      row[r] = keys.data + std::min(t + r, keys.count - 1) * keys.stride;
    }
    const std::byte* fetched =
        keys.fetched +
        std::min(t, keys.fetched_count - 1) * keys.fetched_stride;
    Vec partial[4][kSumVectors];
    for (auto& dot : partial) {
      for (Vec& sum : dot) sum = hn::Zero(d);
    }
    const auto add = [&](auto is_half, size_t block) RANKFORGE_LAMBDA {
      Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
        constexpr size_t kOwn = is_half ? OwnLanes<type, v>() : LanesOf();
        const float* xs = q + block * kBlock + v * LanesOf();
        Unroll<kRows>([&]([[maybe_unused]] auto r) RANKFORGE_LAMBDA {
          if constexpr (v == 0) {
            FetchBlock<Prefetch::kAhead, kBytes>(
                fetched + r * keys.fetched_stride + block * kBytes);
          }
          if constexpr (kOwn > 0) {
            Vec w = LoadOf<type, v>(row[r] + block * kBytes);
            if constexpr (kOwn < LanesOf()) {
              w = hn::IfThenElseZero(hn::FirstN(d, kOwn), w);
            }
            Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
              Vec& sum = partial[r * heads + h][v % kSumVectors];
              sum = hn::MulAdd(w, hn::LoadU(d, xs + h * width), sum);
            });
          }
        });
      });
    };
    const size_t whole = width / kBlock - (half ? 1 : 0);
    for (size_t block = 0; block < whole; ++block) {
      add(std::false_type(), block);
    }
    if (half) add(std::true_type(), whole);
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
      const Vec value = LoadOf<type, kVector % kBlockVectors>(
          row + kVector / kBlockVectors * kBytes);
      Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
        sum[h][v] = hn::MulAdd(value, weight[h], sum[h][v]);
      });
    });
    row += values.stride;
    fetched += values.fetched_stride;
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

// Turns the scores of a block into weights of its values. If they raise the
// maximum, the sums so far are scaled down.
template <WeightType type>
HWY_NOINLINE void WeighBlock(const AttentionArgs& args,
                             const HeadState<type>& state, size_t head,
                             size_t first, size_t count) {
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
  if (args.cap > 0) CapScores(args.cap, weights, count);
  std::fill(weights + count, weights + kAttentionBlock, kLowest);
  Vec max = hn::Set(d, kLowest);
  for (size_t i = 0; i < count; i += LanesOf()) {
    max = hn::Max(max, hn::LoadU(d, weights + i));
  }
  const float block_max = hn::GetLane(hn::MaxOfLanes(d, max));
  float* HWY_RESTRICT sums = state.sums + head * kAttentionSums;
  if (block_max > state.max[head]) {
    const Vec factor = hn::Exp(d, hn::Set(d, state.max[head] - block_max));
    float* HWY_RESTRICT out = state.out + head * state.out_width;
    for (size_t i = 0; i < state.out_width; i += LanesOf()) {
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

// Heads that share a pass. Targets below AVX2, which exist so that everything
// runs everywhere, take one at a time: unrolled passes of four would take two
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
  const HeadState<type> state(args);
  const size_t key_stride = KvStride(type, args.key_dim);
  const size_t value_stride = KvStride(type, args.value_dim);
  const bool half_keys = RoundUp(args.key_dim, kKvMultiple) % kBlock != 0;
  for (size_t first = 0; first < args.count; first += kAttentionBlock) {
    const size_t count = std::min(kAttentionBlock, args.count - first);
    const size_t next = first + count;
    const size_t left = args.count - next;
    // While keys are multiplied their values are fetched, and while values are
    // multiplied the next keys.
    const Rows keys = {args.keys + first * key_stride,     count, key_stride,
                       args.values + first * value_stride, count, value_stride};
    Rows values = {args.values + first * value_stride,
                   count,
                   value_stride,
                   args.keys + next * key_stride,
                   std::min(left, kAttentionBlock),
                   key_stride};
    if (left == 0 && args.next_keys != nullptr) {
      values.fetched = args.next_keys;
      values.fetched_count = std::min(args.count, kAttentionBlock);
    }
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ScorePass<type, heads>(keys, state.q + head * state.width, state.width,
                             half_keys, state.weights + head * kAttentionBlock);
    });
    for (size_t head = 0; head < args.heads; ++head) {
      WeighBlock<type>(args, state, head, first, count);
    }
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ValuePass<type, heads>(values, state.out_width,
                             state.weights + head * kAttentionBlock,
                             state.out + head * state.out_width);
    });
  }
  for (size_t head = 0; head < args.heads; ++head) {
    float* sums = state.sums + head * kAttentionSums;
    for (size_t half = kAttentionSums / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    const float inverse = 1 / sums[0];
    for (size_t i = 0; i < args.value_dim; ++i) {
      args.out[head * args.value_dim + i] =
          state.out[head * state.out_width + KvPlace(type, args.value_dim, i)] *
          inverse;
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
