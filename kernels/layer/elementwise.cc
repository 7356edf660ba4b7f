#include "kernels/layer/elementwise.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer/elementwise.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/numbers/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Vector at x + i of n values; lanes beyond n are `fill`.
HWY_INLINE Vec LoadOr(const float* HWY_RESTRICT x, size_t i, size_t n,
                      float fill) {
  const FloatTag d;
  if (i + LanesOf() <= n) return hn::LoadU(d, x + i);
  HWY_ALIGN float lanes[LanesOf()];
  for (size_t l = 0; l < LanesOf(); ++l) lanes[l] = i + l < n ? x[i + l] : fill;
  return hn::Load(d, lanes);
}

HWY_INLINE void StoreUpTo(Vec v, float* HWY_RESTRICT out, size_t i, size_t n) {
  const FloatTag d;
  if (i + LanesOf() <= n) {
    hn::StoreU(v, d, out + i);
    return;
  }
  HWY_ALIGN float lanes[LanesOf()];
  hn::Store(v, d, lanes);
  for (size_t l = 0; i + l < n; ++l) out[i + l] = lanes[l];
}

// a . b (n,) in the virtual shape of row dots.
HWY_INLINE float DotOf(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                       size_t n) {
  const FloatTag d;
  Vec partial[kBlockVectors];
  for (size_t v = 0; v < kBlockVectors; ++v) partial[v] = hn::Zero(d);
  size_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      partial[v] = hn::MulAdd(hn::LoadU(d, a + i + v * LanesOf()),
                              hn::LoadU(d, b + i + v * LanesOf()), partial[v]);
    });
  }
  if (i < n) {
    HWY_ALIGN float a_tail[kBlock] = {}, b_tail[kBlock] = {};
    for (size_t k = i; k < n; ++k) {
      a_tail[k - i] = a[k];
      b_tail[k - i] = b[k];
    }
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      partial[v] = hn::MulAdd(hn::Load(d, a_tail + v * LanesOf()),
                              hn::Load(d, b_tail + v * LanesOf()), partial[v]);
    });
  }
  return ReduceBlock(partial);
}

// Sum of x (n,) in kBlock partial sums.
HWY_INLINE float SumOf(const float* HWY_RESTRICT x, size_t n) {
  const FloatTag d;
  Vec partial[kBlockVectors];
  for (size_t v = 0; v < kBlockVectors; ++v) partial[v] = hn::Zero(d);
  for (size_t i = 0; i < n; i += kBlock) {
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      const size_t at = i + v * LanesOf();
      if (at < n) partial[v] = hn::Add(partial[v], LoadOr(x, at, n, 0.0f));
    });
  }
  return ReduceBlock(partial);
}

void RmsNormOfTarget(const float* x, const float* weight, size_t n,
                     float epsilon, float* out) {
  const FloatTag d;
  const float mean = DotOf(x, x, n) / static_cast<float>(n);
  const Vec scale = hn::Set(d, 1.0f / std::sqrt(mean + epsilon));
  for (size_t i = 0; i < n; i += LanesOf()) {
    StoreUpTo(
        hn::Mul(hn::Mul(LoadOr(x, i, n, 0), scale), LoadOr(weight, i, n, 0)),
        out, i, n);
  }
}

void AddInPlaceOfTarget(const float* x, size_t n, float* y) {
  for (size_t i = 0; i < n; i += LanesOf()) {
    StoreUpTo(hn::Add(LoadOr(y, i, n, 0), LoadOr(x, i, n, 0)), y, i, n);
  }
}

void SoftmaxOfTarget(float* x, size_t n) {
  const FloatTag d;
  const float max = *std::max_element(x, x + n);
  const Vec shift = hn::Set(d, max);
  for (size_t i = 0; i < n; i += LanesOf()) {
    StoreUpTo(hn::Exp(d, hn::Sub(LoadOr(x, i, n, max), shift)), x, i, n);
  }
  const Vec scale = hn::Set(d, 1.0f / SumOf(x, n));
  for (size_t i = 0; i < n; i += LanesOf()) {
    StoreUpTo(hn::Mul(LoadOr(x, i, n, 0), scale), x, i, n);
  }
}

void RotateHalfOfTarget(float* x, const float* cosines, const float* sines,
                        size_t n) {
  const size_t half = n / 2;
  for (size_t i = 0; i < half; i += LanesOf()) {
    const Vec c = LoadOr(cosines, i, half, 0), s = LoadOr(sines, i, half, 0);
    const Vec a = LoadOr(x, i, half, 0), b = LoadOr(x + half, i, half, 0);
    StoreUpTo(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), x, i, half);
    StoreUpTo(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), x + half, i, half);
  }
}

float DotOfTarget(const float* a, const float* b, size_t n) {
  return DotOf(a, b, n);
}

// A finite number times zero adds zero; any other adds NaN.
bool AllFiniteOfTarget(const float* x, size_t n) {
  const FloatTag d;
  Vec sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += LanesOf()) {
    sum = hn::MulAdd(LoadOr(x, i, n, 0), hn::Zero(d), sum);
  }
  return hn::AllTrue(d, hn::Eq(sum, hn::Zero(d)));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(RmsNormOfTarget);
void RmsNorm(const float* x, const float* weight, size_t n, float epsilon,
             float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormOfTarget)(x, weight, n, epsilon, out);
}

HWY_EXPORT(AddInPlaceOfTarget);
void AddInPlace(const float* x, size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(AddInPlaceOfTarget)(x, n, y);
}

HWY_EXPORT(SoftmaxOfTarget);
void Softmax(float* x, size_t n) {
  HWY_DYNAMIC_DISPATCH(SoftmaxOfTarget)(x, n);
}

HWY_EXPORT(RotateHalfOfTarget);
void RotateHalf(float* x, const float* cosines, const float* sines, size_t n) {
  HWY_DYNAMIC_DISPATCH(RotateHalfOfTarget)(x, cosines, sines, n);
}

HWY_EXPORT(DotOfTarget);
float Dot(const float* a, const float* b, size_t n) {
  return HWY_DYNAMIC_DISPATCH(DotOfTarget)(a, b, n);
}

HWY_EXPORT(AllFiniteOfTarget);
bool AllFinite(const float* x, size_t n) {
  return HWY_DYNAMIC_DISPATCH(AllFiniteOfTarget)(x, n);
}

// Value by value: few models have a cap, and the two paths of attention must
// agree.
void CapScores(float cap, float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

size_t ArgMax(const float* x, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; ++i) {
    if (x[i] > x[best] || x[best] != x[best]) best = i;
  }
  return best;
}

}  // namespace rankforge
#endif  // HWY_ONCE
