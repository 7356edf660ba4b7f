#include "kernels/activation.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Tag>;
constexpr size_t kLanes = hn::MaxLanes(Tag());

struct Silu {
  HWY_INLINE static Vec Times(Vec gate, Vec up) {
    return SiluTimes(Tag(), gate, up);
  }
};

// Both forms of GeLU are x / (1 + exp(-x P(x^2))): P has two terms in the tanh
// form, and is fitted to log(Phi / (1 - Phi)) / x in the exact one, on [0, 5.5]
// by weighted least squares (seven terms: within 7e-8 of x Phi before f32
// rounds). Below `lowest` the product is within 2e-7 of 0 and x counts as it;
// beyond `highest` the fit does not hold, and 1 + exp(..) is 1.
template <class Form>
struct Gelu {
  HWY_INLINE static Vec Times(Vec x, Vec up) {
    const Tag d;
    const Vec lowest = hn::Set(d, Form::kLowest);
    x = hn::IfThenElse(hn::Lt(x, lowest), lowest, x);  // NaN stays
    const Vec y = hn::Min(x, hn::Set(d, Form::kHighest));
    const Vec square = hn::Mul(y, y);
    constexpr size_t kTerms = sizeof(Form::kTerms) / sizeof(float);
    Vec p = hn::Set(d, Form::kTerms[kTerms - 1]);
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
  // exp(86): OnePlusExpOfMinus knows no more.
  static constexpr float kLowest = -9.9f, kHighest = 9.9f;
  static constexpr float kTerms[] = {1.5957691f, 0.071354816f};
};

template <class Function>
void ForAll(const float* gate, const float* up, size_t n, float* out) {
  const Tag d;
  const Vec one = hn::Set(d, 1);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec factor = up == nullptr ? one : hn::LoadU(d, up + i);
    hn::StoreU(Function::Times(hn::LoadU(d, gate + i), factor), d, out + i);
  }
  if (i == n) return;
  HWY_ALIGN float last_gate[kLanes] = {}, last_up[kLanes] = {};
  std::copy(gate + i, gate + n, last_gate);
  if (up != nullptr) std::copy(up + i, up + n, last_up);
  const Vec factor = up == nullptr ? one : hn::Load(d, last_up);
  hn::Store(Function::Times(hn::Load(d, last_gate), factor), d, last_gate);
  std::copy(last_gate, last_gate + (n - i), out + i);
}

void ActivateOfTarget(Activation activation, const float* gate, const float* up,
                      size_t n, float* out) {
  switch (activation) {
    case Activation::kSilu:
      return ForAll<Silu>(gate, up, n, out);
    case Activation::kGelu:
      return ForAll<Gelu<ExactForm>>(gate, up, n, out);
    case Activation::kGeluTanh:
      return ForAll<Gelu<TanhForm>>(gate, up, n, out);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(ActivateOfTarget);

void Activate(Activation activation, const float* gate, const float* up,
              size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ActivateOfTarget)(activation, gate, up, n, out);
}

}  // namespace rankforge
#endif  // HWY_ONCE
