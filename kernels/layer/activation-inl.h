// The activations of MLPs as vectors, for passes that also do something else.
// Compiled once per target.
#if defined(RANKFORGE_KERNELS_LAYER_ACTIVATION_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_LAYER_ACTIVATION_INL_H_
#undef RANKFORGE_KERNELS_LAYER_ACTIVATION_INL_H_
#else
#define RANKFORGE_KERNELS_LAYER_ACTIVATION_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/layer/activation.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// 1 + exp(-x) for x >= -87, where nothing overflows; 1 for x > 87.
//
// exp(-x) = 2^n exp(-r), r = x + n ln 2 in [-0.35, 0.35], with a polynomial of
// degree 6 (within 3e-9, fitted by weighted least squares). It takes half as
// many instructions as hn::Exp, whose range is wider: SiLU times up of 11008
// values takes 5 us instead of 9.4 (Zen 3).
template <class D, class V>
HWY_INLINE V OnePlusExpOfMinus(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  // Adding it rounds to an integer, which is then in the lowest bits.
  const V round = hn::Set(d, 12582912.0f);
  const V one = hn::Set(d, 1.0f), minus_one = hn::Set(d, -1.0f);
  x = hn::Min(x, hn::Set(d, 87.0f));
  const V shifted = hn::MulAdd(x, hn::Set(d, -1.44269504f), round);
  const V n = hn::Sub(shifted, round);
  V r = hn::MulAdd(n, hn::Set(d, 0.693145751953125f), x);
  r = hn::MulAdd(n, hn::Set(d, 1.428606765e-6f), r);
  V p = hn::MulAdd(r, hn::Set(d, 0.00138144672f), hn::Set(d, -0.00836878084f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.0416683927f));
  p = hn::MulAdd(p, r, hn::Set(d, -0.166665196f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994f));
  p = hn::MulAdd(p, r, minus_one);
  p = hn::MulAdd(p, r, one);
  const auto scaled =
      hn::Add(hn::BitCast(du, p), hn::ShiftLeft<23>(hn::BitCast(du, shifted)));
  return hn::Add(hn::BitCast(d, scaled), one);
}

// act(gate) * up of a vector; lanes do not depend on each other. NaN stays NaN,
// where comparing it is false.

// gate / (1 + exp(-gate)) * up. A gate below -87 counts as -87: the product is
// within 2e-36 of 0 there.
struct Silu {
  template <class D, class V>
  HWY_INLINE static V Times(D d, V gate, V up) {
    namespace hn = hwy::HWY_NAMESPACE;
    const V lowest = hn::Set(d, -87.0f);
    gate = hn::IfThenElse(hn::Lt(gate, lowest), lowest, gate);
    return hn::Mul(hn::Div(gate, OnePlusExpOfMinus(d, gate)), up);
  }
};

// Both forms of GeLU are x / (1 + exp(-x P(x^2))). In the tanh form P has two
// terms. In the exact form it is fitted to log(Phi / (1 - Phi)) / x on [0, 5.5]
// by weighted least squares: with seven terms x Phi is within 7e-8 before it is
// rounded to f32. An x below `kLowest` counts as `kLowest`, where the product
// is within 2e-7 of 0. Beyond `kHighest` the fit does not hold, and 1 + exp(..)
// is 1.
template <class Form>
struct Gelu {
  template <class D, class V>
  HWY_INLINE static V Times(D d, V x, V up) {
    namespace hn = hwy::HWY_NAMESPACE;
    const V lowest = hn::Set(d, Form::kLowest);
    x = hn::IfThenElse(hn::Lt(x, lowest), lowest, x);
    const V y = hn::Min(x, hn::Set(d, Form::kHighest));
    const V square = hn::Mul(y, y);
    constexpr size_t kTerms = sizeof(Form::kTerms) / sizeof(float);
    V p = hn::Set(d, Form::kTerms[kTerms - 1]);
    for (size_t i = kTerms - 1; i-- > 0;) {
      p = hn::MulAdd(p, square, hn::Set(d, Form::kTerms[i]));
    }
    return hn::Mul(hn::Div(x, OnePlusExpOfMinus(d, hn::Mul(y, p))), up);
  }
};

struct ExactForm {
  static constexpr float kLowest = -5.5f, kHighest = 5.5f;
  static constexpr float kTerms[] = {
      1.5957684f,    0.072668567f,    -6.625996e-5f, -1.10480323e-4f,
      7.9382198e-6f, -2.66892897e-7f, 3.6112344e-9f};
};
struct TanhForm {
  // exp(86): OnePlusExpOfMinus takes no larger one.
  static constexpr float kLowest = -9.9f, kHighest = 9.9f;
  static constexpr float kTerms[] = {1.5957691f, 0.071354816f};
};

// Calls body(the type of `activation`).
template <class Body>
HWY_INLINE void WithActivation(Activation activation, Body body) {
  switch (activation) {
    case Activation::kSilu:
      return body(Silu());
    case Activation::kGelu:
      return body(Gelu<ExactForm>());
    case Activation::kGeluTanh:
      return body(Gelu<TanhForm>());
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_LAYER_ACTIVATION_INL_H_
