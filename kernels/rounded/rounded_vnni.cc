// Rounded rows on AVX-512 with VNNI, whose vpdpbusd multiplies bytes and
// adds four neighbours to a 32-bit sum in one instruction. Results equal those
// of rounded.cc bit for bit. Compiled with the flags of kernels/CMakeLists.txt.
#include "hwy/highway.h"

// Highway 1.0.3 offers VNNI only together with all of AVX3_DL. This file
// extends its AVX3, under names of its own.
namespace hwy {
namespace N_AVX3_VNNI {
using namespace N_AVX3;  // NOLINT(google-build-using-namespace)
}  // namespace N_AVX3_VNNI
}  // namespace hwy
#undef HWY_NAMESPACE
#define HWY_NAMESPACE N_AVX3_VNNI

#include "kernels/entries.h"
#include "kernels/entry_table-inl.h"
#include "kernels/rounded/rounded_dot-inl.h"
#include "kernels/rounded/rounded_interleaved-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct VnniKernel {
  static void Run(const KernelArgs& args) {
    if constexpr (spec.algorithm == Algorithm::kRoundedInterleaved) {
      RoundedInterleaved<spec>(args);
    } else {
      RoundedDot<spec, Shape>(args);
    }
  }
};

constexpr bool MultipliesIntegers(const VariantSpec& spec) {
  return (spec.algorithm == Algorithm::kRoundedDot ||
          spec.algorithm == Algorithm::kRoundedInterleaved) &&
         !NeedsNativeBf16(spec);
}

inline constexpr auto kSpecs = Selected<&MultipliesIntegers>();
inline constexpr auto kEntries =
    EntriesOf<kSpecs, VnniKernel, DynamicShape>("vnni", "AVX3");

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE

std::span<const KernelEntry> RoundedVnniEntries() {
  return N_AVX3_VNNI::kEntries;
}

}  // namespace rankforge
HWY_AFTER_NAMESPACE();
