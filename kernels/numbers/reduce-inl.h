// Sums over partial sums, always halves onto halves: of 32 first p_i + p_(i +
// 16), then + p_(i + 8), ... + p_1, so that vector width does not change the
// result. Compiled once per target.
#if defined(RANKFORGE_KERNELS_NUMBERS_REDUCE_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_NUMBERS_REDUCE_INL_H_
#undef RANKFORGE_KERNELS_NUMBERS_REDUCE_INL_H_
#else
#define RANKFORGE_KERNELS_NUMBERS_REDUCE_INL_H_
#endif

#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Leaves the sum of all vectors in the first one.
template <size_t vectors>
HWY_INLINE void FoldVectors(Vec* HWY_RESTRICT partial) {
  for (size_t half = vectors / 2; half > 0; half /= 2) {
    for (size_t v = 0; v < half; ++v) {
      partial[v] = hn::Add(partial[v], partial[v + half]);
    }
  }
}

template <size_t vectors>
HWY_INLINE float ReduceBlock(Vec (&partial)[vectors]) {
  FoldVectors<vectors>(partial);
  HWY_ALIGN float lanes[LanesOf()];
  hn::Store(partial[0], FloatTag(), lanes);
  for (size_t half = LanesOf() / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The same for four at once, sums (4,), in a quarter of the instructions. On
// rows of 512 and 1024 in L3 on Zen 3 the gain is within the noise: 0.87
// to 1.11 times the speed of one by one.
#if HWY_TARGET == HWY_SCALAR
template <size_t vectors>
HWY_INLINE void ReduceFour(Vec (*partial)[vectors], float* HWY_RESTRICT sums) {
  for (size_t i = 0; i < 4; ++i) sums[i] = ReduceBlock(partial[i]);
}
#else
using QuadTag = hn::CappedTag<float, 4>;
using Quad = hn::Vec<QuadTag>;

template <class V>
HWY_INLINE Quad FoldToQuad(V v) {
  using Tag = hn::DFromV<V>;
  if constexpr (hn::MaxLanes(Tag()) > 4) {
    const hn::Half<Tag> half;
    return FoldToQuad(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

template <size_t vectors>
HWY_INLINE void ReduceFour(Vec (*partial)[vectors], float* HWY_RESTRICT sums) {
  Quad quad[4];
  Unroll<4>([&](auto i) RANKFORGE_LAMBDA {
    FoldVectors<vectors>(partial[i]);
    quad[i] = FoldToQuad(partial[i][0]);
  });
  const QuadTag d;
  // Lanes a0 + a2, b0 + b2, a1 + a3, b1 + b3.
  const auto fold = [&](Quad a, Quad b) RANKFORGE_LAMBDA {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  };
  const Quad low = fold(quad[0], quad[1]);
  const Quad high = fold(quad[2], quad[3]);
  hn::StoreU(hn::Add(hn::ConcatLowerLower(d, high, low),
                     hn::ConcatUpperUpper(d, high, low)),
             d, sums);
}
#endif

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_NUMBERS_REDUCE_INL_H_
