// The xsimd backend for AVX-512 (F, VL, DQ, BW: what Highway calls AVX3);
// compiled with the flags of kernels/CMakeLists.txt.
#include "xsimd/xsimd.hpp"

namespace rankforge {
namespace {

using Arch = xsimd::avx512bw;
using Vec = xsimd::batch<float, Arch>;

constexpr const char* kTarget = "AVX3";
// Of 32 registers.
constexpr size_t kSums = 24;
// 128 outputs are eight vectors: as many chains as two FMA units with a latency
// of four cycles need.
constexpr size_t kHeldBlocks = 4;

// xsimd::fma of 8.1 rounds twice on AVX-512: it multiplies, then adds.
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
  return _mm512_fmadd_ps(a, b, c);
}

// xsimd 8.1 converts between sizes one lane at a time.
inline Vec WidenBytes(const void* integers) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
      _mm_loadu_si128(static_cast<const __m128i*>(integers))));
}

}  // namespace
}  // namespace rankforge

// Uses what is defined above.
#include "kernels/xsimd/xsimd-inl.h"

namespace rankforge {

std::span<const KernelEntry> XsimdAvx3Entries() { return kEntries; }

}  // namespace rankforge
