#include "kernels/layer/activation.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer/activation.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/layer/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Tag>;
constexpr size_t kLanes = hn::MaxLanes(Tag());

template <class Function>
void ForAll(const float* gate, const float* up, size_t n, float* out) {
  const Tag d;
  const Vec one = hn::Set(d, 1);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec factor = up == nullptr ? one : hn::LoadU(d, up + i);
    hn::StoreU(Function::Times(d, hn::LoadU(d, gate + i), factor), d, out + i);
  }
  if (i == n) return;
  HWY_ALIGN float last_gate[kLanes] = {}, last_up[kLanes] = {};
  std::copy(gate + i, gate + n, last_gate);
  if (up != nullptr) std::copy(up + i, up + n, last_up);
  const Vec factor = up == nullptr ? one : hn::Load(d, last_up);
  hn::Store(Function::Times(d, hn::Load(d, last_gate), factor), d, last_gate);
  std::copy(last_gate, last_gate + (n - i), out + i);
}

void ActivateOfTarget(Activation activation, const float* gate, const float* up,
                      size_t n, float* out) {
  WithActivation(activation, [&](auto function) {
    ForAll<decltype(function)>(gate, up, n, out);
  });
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
