// The xsimd backend for AVX2 with FMA; compiled with the flags of kernels/
// CMakeLists.txt.
#include "xsimd/xsimd.hpp"

namespace rankforge {
namespace {

using Arch = xsimd::fma3<xsimd::avx2>;
using Vec = xsimd::batch<float, Arch>;

constexpr const char* kTarget = "AVX2";
// Four of the 16 registers hold weights and inputs.
constexpr size_t kSums = 12;
// Four vectors, besides the values of eight columns. Speed of bf16 in L2 and L3
// against Highway's on Zen 3 with other numbers of blocks: one block 0.83
// to 1.1 times, two (values spill) 0.83 to 1.0, three 0.7 to 0.9.
constexpr size_t kHeldBlocks = 1;

inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
  return xsimd::fma(a, b, c);
}

// xsimd 8.1 converts between sizes one lane at a time.
inline Vec WidenBytes(const void* integers) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
      _mm_loadl_epi64(static_cast<const __m128i*>(integers))));
}

}  // namespace
}  // namespace rankforge

// Uses what is defined above.
#include "kernels/xsimd/xsimd-inl.h"

namespace rankforge {

std::span<const KernelEntry> XsimdAvx2Entries() { return kEntries; }

}  // namespace rankforge
