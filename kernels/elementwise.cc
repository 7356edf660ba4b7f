#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/row_dot-inl.h"

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

// K and V of the cache as stored, widened to f32 in plain order.
HWY_INLINE Vec LoadStored(const float* HWY_RESTRICT p) {
  return hn::LoadU(FloatTag(), p);
}
HWY_INLINE Vec LoadStored(const uint16_t* HWY_RESTRICT p) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> du;
  return hn::BitCast(FloatTag(),
                     hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
}
HWY_INLINE float Widened(float value) { return value; }
HWY_INLINE float Widened(uint16_t value) {
  return hwy::F32FromBF16(hwy::bfloat16_t{value});
}

// a . b (n,) in the virtual shape of row dots.
template <class Stored>
HWY_INLINE float DotOf(const float* HWY_RESTRICT a,
                       const Stored* HWY_RESTRICT b, size_t n) {
  const FloatTag d;
  Vec partial[kBlockVectors];
  for (size_t v = 0; v < kBlockVectors; ++v) partial[v] = hn::Zero(d);
  size_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    Unroll<kBlockVectors>([&](auto v) RANKFORGE_LAMBDA {
      partial[v] = hn::MulAdd(hn::LoadU(d, a + i + v * LanesOf()),
                              LoadStored(b + i + v * LanesOf()), partial[v]);
    });
  }
  if (i < n) {
    HWY_ALIGN float a_tail[kBlock] = {}, b_tail[kBlock] = {};
    for (size_t k = i; k < n; ++k) {
      a_tail[k - i] = a[k];
      b_tail[k - i] = Widened(b[k]);
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

void SiluMulOfTarget(const float* gate, const float* up, size_t n, float* out) {
  const FloatTag d;
  const Vec one = hn::Set(d, 1.0f);
  for (size_t i = 0; i < n; i += LanesOf()) {
    const Vec g = LoadOr(gate, i, n, 0);
    const Vec e = hn::Exp(d, hn::Neg(g));
    StoreUpTo(hn::Mul(hn::Div(g, hn::Add(one, e)), LoadOr(up, i, n, 0)), out, i,
              n);
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

template <class Stored>
HWY_INLINE void Attend(const float* q, const Stored* k, const Stored* v,
                       size_t count, size_t head_dim, size_t stride,
                       float scale, float* scores, float* out) {
  const FloatTag d;
  for (size_t t = 0; t < count; ++t) {
    // The values are read in blocks of outputs, a line of each position: from
    // memory that would be slow, so they are fetched while the keys stream.
    const Stored* value = v + t * stride;
    for (size_t i = 0; i < head_dim; i += kCacheLine / sizeof(Stored)) {
      __builtin_prefetch(value + i, 0, 2);
    }
    scores[t] = DotOf(q, k + t * stride, head_dim) * scale;
  }
  SoftmaxOfTarget(scores, count);
  // Each output is one chain over the positions; a block of outputs stays in
  // registers.
  size_t begin = 0;
  for (; begin + kBlock <= head_dim; begin += kBlock) {
    Vec sum[kBlockVectors];
    for (size_t i = 0; i < kBlockVectors; ++i) sum[i] = hn::Zero(d);
    for (size_t t = 0; t < count; ++t) {
      const Vec weight = hn::Set(d, scores[t]);
      const Stored* row = v + t * stride + begin;
      Unroll<kBlockVectors>([&](auto i) RANKFORGE_LAMBDA {
        sum[i] = hn::MulAdd(LoadStored(row + i * LanesOf()), weight, sum[i]);
      });
    }
    Unroll<kBlockVectors>([&](auto i) RANKFORGE_LAMBDA {
      hn::StoreU(sum[i], d, out + begin + i * LanesOf());
    });
  }
  for (; begin < head_dim; ++begin) {
    float sum = 0;
    for (size_t t = 0; t < count; ++t) {
      sum = std::fma(Widened(v[t * stride + begin]), scores[t], sum);
    }
    out[begin] = sum;
  }
}

void AttendF32OfTarget(const float* q, const float* k, const float* v,
                       size_t count, size_t head_dim, size_t stride,
                       float scale, float* scores, float* out) {
  Attend(q, k, v, count, head_dim, stride, scale, scores, out);
}
void AttendBf16OfTarget(const float* q, const uint16_t* k, const uint16_t* v,
                        size_t count, size_t head_dim, size_t stride,
                        float scale, float* scores, float* out) {
  Attend(q, k, v, count, head_dim, stride, scale, scores, out);
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

HWY_EXPORT(SiluMulOfTarget);
void SiluMul(const float* gate, const float* up, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMulOfTarget)(gate, up, n, out);
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

HWY_EXPORT(AttendF32OfTarget);
void AttendF32(const float* q, const float* k, const float* v, size_t count,
               size_t head_dim, size_t stride, float scale, float* scores,
               float* out) {
  HWY_DYNAMIC_DISPATCH(AttendF32OfTarget)
  (q, k, v, count, head_dim, stride, scale, scores, out);
}

HWY_EXPORT(AttendBf16OfTarget);
void AttendBf16(const float* q, const uint16_t* k, const uint16_t* v,
                size_t count, size_t head_dim, size_t stride, float scale,
                float* scores, float* out) {
  HWY_DYNAMIC_DISPATCH(AttendBf16OfTarget)
  (q, k, v, count, head_dim, stride, scale, scores, out);
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
