// Products and sums of bytes, and the scales that belong to them, on the
// targets that multiply bytes. Compiled once per target.
#if defined(RANKFORGE_KERNELS_ROUNDED_BYTES_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ROUNDED_BYTES_INL_H_
#undef RANKFORGE_KERNELS_ROUNDED_BYTES_INL_H_
#else
#define RANKFORGE_KERNELS_ROUNDED_BYTES_INL_H_
#endif

#include <cstring>

#include "kernels/numbers/weights-inl.h"

// Headers per target are included for every target, always in this order,
// because their guards flip with each. Targets that do not multiply bytes get
// nothing from them.
#undef RANKFORGE_MULTIPLIES_BYTES
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#define RANKFORGE_MULTIPLIES_BYTES 1
#else
#define RANKFORGE_MULTIPLIES_BYTES 0
#endif

#if RANKFORGE_MULTIPLIES_BYTES
HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

using ByteTag = hn::Repartition<uint8_t, FloatTag>;
using Bytes = hn::Vec<ByteTag>;
using SumTag = hn::RebindToSigned<FloatTag>;
using Sums = hn::Vec<SumTag>;  // 32 bits
using WordTag = hn::Repartition<int16_t, FloatTag>;
using Words = hn::Vec<WordTag>;

inline constexpr size_t kVectorBytes = LanesOf() * sizeof(float);

// Instructions that Highway 1.0.3 has no names for.
#if HWY_TARGET == HWY_AVX3
// Neighbouring bytes, a unsigned times b signed, added to a word; saturates.
HWY_INLINE Words Products(Bytes a, Bytes b) {
  return Words{_mm512_maddubs_epi16(a.raw, b.raw)};
}
// Neighbouring words times those of b, added.
HWY_INLINE Sums Products(Words a, Words b) {
  return Sums{_mm512_madd_epi16(a.raw, b.raw)};
}
HWY_INLINE Bytes Magnitudes(Bytes w) { return Bytes{_mm512_abs_epi8(w.raw)}; }
// x with the signs of w.
HWY_INLINE Bytes CopySigns(Bytes x, Bytes w) {
  return Bytes{_mm512_mask_sub_epi8(x.raw, _mm512_movepi8_mask(w.raw),
                                    _mm512_setzero_si512(), x.raw)};
}
// Rounds to the nearest even integer. Values that do not fit, and NaN, give any
// integer.
HWY_INLINE Sums RoundToInt(Vec v) { return Sums{_mm512_cvtps_epi32(v.raw)}; }

// 32-bit values of two or four blocks, repeated over a vector.
template <size_t blocks>
HWY_INLINE Sums RepeatBlocks(const void* values) {
  static_assert(blocks == 2 || blocks == 4);
  if constexpr (blocks == 2) {
    int64_t pair;
    std::memcpy(&pair, values, sizeof(pair));
    return Sums{_mm512_set1_epi64(pair)};
  } else {
    return Sums{_mm512_broadcast_i32x4(
        _mm_loadu_si128(static_cast<const __m128i*>(values)))};
  }
}
// The 32-bit values of the blocks that a vector holds, each repeated over the
// lanes of its block.
template <size_t blocks>
HWY_INLINE Vec SpreadBlocks(const void* values) {
  constexpr int kLane2 = blocks == 2 ? 0 : 1, kLane3 = blocks == 2 ? 1 : 2;
  return Vec{_mm512_permutevar_ps(
      _mm512_castsi512_ps(RepeatBlocks<blocks>(values).raw),
      _mm512_setr_epi32(0, 0, 0, 0, kLane2, kLane2, kLane2, kLane2, kLane3,
                        kLane3, kLane3, kLane3, kLane2 + kLane3,
                        kLane2 + kLane3, kLane2 + kLane3, kLane2 + kLane3))};
}
// The same of the lower halves of words.
template <size_t blocks>
HWY_INLINE Words SpreadWords(const int32_t* values) {
  static_assert(blocks == 4);
  const __m512i lanes = _mm512_setr_epi64(
      0x0100010001000100, 0x0100010001000100, 0x0504050405040504,
      0x0504050405040504, 0x0908090809080908, 0x0908090809080908,
      0x0d0c0d0c0d0c0d0c, 0x0d0c0d0c0d0c0d0c);
  return Words{_mm512_shuffle_epi8(RepeatBlocks<blocks>(values).raw, lanes)};
}
#else
HWY_INLINE Words Products(Bytes a, Bytes b) {
  return Words{_mm256_maddubs_epi16(a.raw, b.raw)};
}
HWY_INLINE Sums Products(Words a, Words b) {
  return Sums{_mm256_madd_epi16(a.raw, b.raw)};
}
HWY_INLINE Bytes Magnitudes(Bytes w) {
  return Bytes{_mm256_sign_epi8(w.raw, w.raw)};
}
HWY_INLINE Bytes CopySigns(Bytes x, Bytes w) {
  return Bytes{_mm256_sign_epi8(x.raw, w.raw)};
}
HWY_INLINE Sums RoundToInt(Vec v) { return Sums{_mm256_cvtps_epi32(v.raw)}; }

HWY_INLINE Sums RepeatPair(const void* values) {
  int64_t pair;
  std::memcpy(&pair, values, sizeof(pair));
  return Sums{_mm256_set1_epi64x(pair)};
}
template <size_t blocks>
HWY_INLINE Vec SpreadBlocks(const void* values) {
  static_assert(blocks == 1 || blocks == 2);
  if constexpr (blocks == 1) {
    float value;
    std::memcpy(&value, values, sizeof(value));
    return hn::Set(FloatTag(), value);
  } else {
    return Vec{_mm256_permutevar_ps(_mm256_castsi256_ps(RepeatPair(values).raw),
                                    _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))};
  }
}
template <size_t blocks>
HWY_INLINE Words SpreadWords(const int32_t* values) {
  static_assert(blocks == 2);
  const __m256i lanes =
      _mm256_setr_epi64x(0x0100010001000100, 0x0100010001000100,
                         0x0504050405040504, 0x0504050405040504);
  return Words{_mm256_shuffle_epi8(RepeatPair(values).raw, lanes)};
}
#endif

// Sums of neighbouring words; the first of each two; the second.
HWY_INLINE Sums AddPairs(Words words) {
  return Products(words, hn::Set(WordTag(), 1));
}
HWY_INLINE Sums EvenWords(Words words) {
  return Products(words, hn::BitCast(WordTag(), hn::Set(SumTag(), 1)));
}
HWY_INLINE Sums OddWords(Words words) {
  return hn::ShiftRight<16>(hn::BitCast(SumTag(), words));
}

#ifdef __AVX512VNNI__
// a unsigned times b signed; four neighbours are added to one sum.
HWY_INLINE Sums SumOfProducts(Bytes a, Bytes b) {
  return Sums{_mm512_dpbusd_epi32(_mm512_setzero_si512(), a.raw, b.raw)};
}
// sums + the products of two pairs. Four products must fit 16 bits, as nibbles
// times bytes do.
HWY_INLINE Sums AddProducts(Sums sums, Bytes a0, Bytes b0, Bytes a1, Bytes b1) {
  return Sums{_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums.raw, a0.raw, b0.raw),
                                  a1.raw, b1.raw)};
}
#else
HWY_INLINE Sums SumOfProducts(Bytes a, Bytes b) {
  return AddPairs(Products(a, b));
}
HWY_INLINE Sums AddProducts(Sums sums, Bytes a0, Bytes b0, Bytes a1, Bytes b1) {
  return hn::Add(sums, AddPairs(hn::Add(Products(a0, b0), Products(a1, b1))));
}
#endif

HWY_INLINE Bytes LoadBytes(const void* from) {
  return hn::LoadU(ByteTag(), static_cast<const uint8_t*>(from));
}

// The low (0) or high (1) nibbles of bytes.
template <size_t half>
HWY_INLINE Bytes Nibbles(Bytes bytes) {
  const ByteTag d;
  const hn::Repartition<uint16_t, ByteTag> d16;
  if constexpr (half == 1) {
    bytes = hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, bytes)));
  }
  return hn::And(bytes, hn::Set(d, 15));
}

template <WeightType type>
inline constexpr size_t kBlocksPerGroup = FormatOf(type).group / kBlock;

// The f16 scales of blocks i to i + LanesOf(), that of block 0 at `scales`. May
// read a few bytes of weights after the last one.
template <WeightType type>
HWY_INLINE Vec BlockScales(const std::byte* scales, size_t i) {
  const Vec groups = LoadHalves(scales + i / kBlocksPerGroup<type> * 2);
  if constexpr (kBlocksPerGroup<type> == 1) {
    return groups;
  } else {
    static_assert(kBlocksPerGroup<type> == 2);
    alignas(64) static constexpr int32_t kTwice[16] = {0, 0, 1, 1, 2, 2, 3, 3,
                                                       4, 4, 5, 5, 6, 6, 7, 7};
    return hn::TableLookupLanes(groups,
                                hn::SetTableIndices(FloatTag(), kTwice));
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();
#endif  // RANKFORGE_MULTIPLIES_BYTES

#endif  // RANKFORGE_KERNELS_ROUNDED_BYTES_INL_H_
