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

// LanesOf() neighbours from `from` on, in order.
template <WeightType type>
HWY_INLINE Vec LoadInOrder(const std::byte* from) {
  const FloatTag d;
  if constexpr (type == WeightType::kBf16) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::RebindToUnsigned<FloatTag> du;
    const auto words = hn::PromoteTo(
        du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
    return hn::BitCast(d, hn::ShiftLeft<16>(words));
  } else {
    return Weights<type>::template Load<0>(from);
  }
}

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

// The scratch that the passes over a block of positions share. Outputs of a
// head are padded to whole blocks: `out_width` elements.
struct HeadState {
  explicit HeadState(const AttentionArgs& args)
      : out_width(RoundUp(args.value_dim, kBlock)),
        out(args.scratch),
        weights(out + args.heads * out_width),
        sums(weights + args.heads * kAttentionBlock),
        max(sums + args.heads * kAttentionSums) {
    std::fill_n(out, args.heads * out_width, 0.0f);
    std::fill_n(sums, args.heads * kAttentionSums, 0.0f);
    std::fill_n(max, args.heads, -std::numeric_limits<float>::infinity());
  }

  size_t out_width;
  float* out;      // (heads, out_width), not yet divided by the sum
  float* weights;  // (heads, kAttentionBlock): scores, then their weights
  float* sums;     // (heads, kAttentionSums) of exponentials
  float* max;      // (heads,) of the scores so far
};

// Keys of a block of positions, and what is fetched while they are read.
struct Keys {
  const std::byte* data;  // (dim, kAttentionBlock)
  size_t dim;
  const std::byte* fetched;
  size_t fetched_bytes;
};

// Scores (heads, kAttentionBlock) of `heads` neighbouring heads q (heads, dim),
// of all positions of a block, whether or not they are attended.
template <WeightType type, size_t heads>
HWY_NOINLINE void ScorePass(const Keys& keys, const float* HWY_RESTRICT q,
                            float* HWY_RESTRICT scores) {
  const FloatTag d;
  constexpr size_t kVectors = kAttentionBlock / LanesOf();
  constexpr size_t kBytes = KeyGroupBytes(type, 1);
  Vec sum[heads][kDotSums][kVectors];
  for (auto& of_head : sum) {
    for (auto& chain : of_head) {
      for (Vec& vector : chain) vector = hn::Zero(d);
    }
  }
  const auto add = [&](auto chain, size_t i) RANKFORGE_LAMBDA {
    Vec key[kVectors];
    Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
      key[v] =
          LoadInOrder<type>(keys.data + i * kBytes + v * (kBytes / kVectors));
    });
    Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
      const Vec factor = hn::Set(d, q[h * keys.dim + i]);
      Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
        sum[h][chain][v] = hn::MulAdd(key[v], factor, sum[h][chain][v]);
      });
    });
  };
  size_t i = 0;
  for (; i + kDotSums <= keys.dim; i += kDotSums) {
    if (i * kBytes < keys.fetched_bytes) {
      FetchBlock<Prefetch::kAhead, kDotSums * kBytes>(keys.fetched +
                                                      i * kBytes);
    }
    Unroll<kDotSums>([&](auto chain)
                         RANKFORGE_LAMBDA { add(chain, i + chain); });
  }
  if (i < keys.dim) add(std::integral_constant<size_t, 0>(), i);
  static_assert(kDotSums == 2);
  Unroll<heads>([&](auto h) RANKFORGE_LAMBDA {
    Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
      hn::StoreU(hn::Add(sum[h][0][v], sum[h][1][v]), d,
                 scores + h * kAttentionBlock + v * LanesOf());
    });
  });
}

// Values of some positions, and what is fetched while they are read.
struct Rows {
  const std::byte* data;
  size_t count;
  size_t stride;
  const std::byte* fetched;
  size_t fetched_count;
  size_t fetched_stride;
};

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

// So many outputs of each head at once that their chains of additions keep the
// FMA units busy, and that they stay in registers: two blocks for one head and
// on AVX-512, half a block for four heads elsewhere.
template <WeightType type, size_t heads>
HWY_NOINLINE void ValuePass(const Rows& values, size_t width,
                            const float* HWY_RESTRICT weights,
                            float* HWY_RESTRICT out) {
  constexpr bool kManyRegisters = LanesOf() == 16;
  const size_t blocks = width / kBlock;
  size_t block = 0;
  if constexpr (heads == 4 && !kManyRegisters) {
    constexpr size_t kHalf = kBlockVectors / 2;
    for (; block < blocks; ++block) {
      ValueTile<type, heads, 0, kHalf>(values, block, width, weights, out);
      ValueTile<type, heads, kHalf, kHalf>(values, block, width, weights, out);
    }
  }
  if constexpr (heads == 1 || kManyRegisters) {
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

// Turns the scores of positions [first + begin, first + end) into weights of
// their values, and those of other positions of the block into 0. If they raise
// the maximum, the sums so far are scaled down.
template <WeightType type>
HWY_NOINLINE void WeighBlock(const AttentionArgs& args, const HeadState& state,
                             size_t head, size_t first, size_t begin,
                             size_t end) {
  const FloatTag d;
  constexpr bool kScaled = IsQuantized(type);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float* HWY_RESTRICT weights = state.weights + head * kAttentionBlock;
  for (size_t i = 0; i < end; i += LanesOf()) {
    Vec score = hn::LoadU(d, weights + i);
    if constexpr (kScaled) {
      score = hn::Mul(score, hn::LoadU(d, args.key_scales + first + i));
    }
    score = hn::Mul(score, hn::Set(d, args.scale));
    hn::StoreU(score, d, weights + i);
  }
  if (args.cap > 0) CapScores(args.cap, weights + begin, end - begin);
  std::fill(weights, weights + begin, kLowest);
  std::fill(weights + end, weights + kAttentionBlock, kLowest);
  Vec max = hn::Set(d, kLowest);
  for (size_t i = 0; i < end; i += LanesOf()) {
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
  for (size_t i = 0; i < end; i += LanesOf()) {
    Vec weight = ExpKeepingNan(hn::Sub(hn::LoadU(d, weights + i), shift));
    float* sum = sums + i % kAttentionSums;
    hn::StoreU(hn::Add(hn::LoadU(d, sum), weight), d, sum);
    if constexpr (kScaled) {
      weight = hn::Mul(weight, hn::LoadU(d, args.value_scales + first + i));
    }
    hn::StoreU(weight, d, weights + i);
  }
}

// Heads that share a pass, at most. Targets below AVX2, which exist so that
// everything runs everywhere, take one at a time, as others would take two
// thirds of the time that this file takes to compile.
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128 || \
    HWY_TARGET == HWY_SCALAR
inline constexpr size_t kHeadsAtOnce = 1;
#else
inline constexpr size_t kHeadsAtOnce = 4;
#endif

// pass(std::integral_constant<size_t, n>(), first) for all heads: kHeadsAtOnce
// of them at once, then those that are left.
template <size_t at_once = kHeadsAtOnce, class Pass>
HWY_INLINE void ForHeads(size_t heads, Pass pass, size_t first = 0) {
  for (; first + at_once <= heads; first += at_once) {
    pass(std::integral_constant<size_t, at_once>(), first);
  }
  if constexpr (at_once > 1) ForHeads<at_once - 1>(heads, pass, first);
}

template <WeightType type>
HWY_NOINLINE void AttendAs(const AttentionArgs& args) {
  const HeadState state(args);
  const size_t group_bytes = KeyGroupBytes(type, args.key_dim);
  const size_t value_stride = KvStride(type, args.value_dim);
  for (size_t first = 0; first < args.end; first += kAttentionBlock) {
    const size_t begin = first == 0 ? args.begin : 0;
    const size_t end = std::min(kAttentionBlock, args.end - first);
    const std::byte* const next_keys =
        args.keys + (first / kAttentionBlock + 1) * group_bytes;
    // While keys are multiplied their values are fetched, and while values are
    // multiplied the next keys.
    const Keys keys = {args.keys + first / kAttentionBlock * group_bytes,
                       args.key_dim, args.values + first * value_stride,
                       end * value_stride};
    const bool last = first + kAttentionBlock >= args.end;
    const Rows values = {
        args.values + (first + begin) * value_stride,
        end - begin,
        value_stride,
        last ? args.next_keys : next_keys,
        last && args.next_keys == nullptr ? 0 : kAttentionBlock,
        group_bytes / kAttentionBlock};
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ScorePass<type, heads>(keys, args.q + head * args.key_dim,
                             state.weights + head * kAttentionBlock);
    });
    for (size_t head = 0; head < args.heads; ++head) {
      WeighBlock<type>(args, state, head, first, begin, end);
    }
    ForHeads(args.heads, [&](auto heads, size_t head) RANKFORGE_LAMBDA {
      ValuePass<type, heads>(values, state.out_width,
                             state.weights + head * kAttentionBlock + begin,
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
