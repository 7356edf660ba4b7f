// Rounded row dots on AVX-512 with VNNI, whose vpdpbusd multiplies bytes and
// adds four neighbours to a 32-bit sum in one instruction; compiled with the
// flags of kernels/CMakeLists.txt. The same sums as rounded.cc computes, bit
// for bit.
#include "hwy/highway.h"

// Highway 1.0.3 offers VNNI only together with all of AVX3_DL. What is compiled
// here has names of its own, on top of its AVX3.
namespace hwy {
namespace N_AVX3_VNNI {
using namespace N_AVX3;  // NOLINT(google-build-using-namespace)
}  // namespace N_AVX3_VNNI
}  // namespace hwy
#undef HWY_NAMESPACE
#define HWY_NAMESPACE N_AVX3_VNNI

#include "kernels/entries.h"
#include "kernels/rounded_dot-inl.h"
#include "meta/shape.h"
#include "meta/variants.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

constexpr bool CompiledHere(const VariantSpec& spec) {
  return spec.algorithm == Algorithm::kRoundedDot;
}

inline constexpr auto kSpecs = Selected<&CompiledHere>();

template <VariantSpec spec>
inline constexpr VariantName kNameOf = NameOf(spec);

inline constexpr auto kEntries = []<size_t... i>(std::index_sequence<i...>) {
  return std::array<KernelEntry, sizeof...(i)>{
      KernelEntry{kSpecs[i], "vnni", "AVX3", kNameOf<kSpecs[i]>.c_str(),
                  SpecHash(kNameOf<kSpecs[i]>.view()),
                  &RoundedDot<kSpecs[i], DynamicShape>, 0, 0, true}...};
}
(std::make_index_sequence<kSpecs.size()>());

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE

std::span<const KernelEntry> RoundedVnniEntries() {
  return N_AVX3_VNNI::kEntries;
}

}  // namespace rankforge
HWY_AFTER_NAMESPACE();
