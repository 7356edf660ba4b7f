// Loads of packed weights as f32 vectors, one block of kBlock at a time.
// Compiled once per target.
#if defined(RANKFORGE_KERNELS_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_WEIGHTS_INL_H_
#undef RANKFORGE_KERNELS_WEIGHTS_INL_H_
#else
#define RANKFORGE_KERNELS_WEIGHTS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bfloat16.h"
#include "kernels/kernel_args.h"
#include "meta/packing.h"
#include "meta/variant.h"

// Attributes of a lambda in kernel code. Left to itself, g++ 12 keeps some out
// of line, and with them the sums they capture in memory.
#ifndef RANKFORGE_LAMBDA
#define RANKFORGE_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most half a block, so that a block of split bf16 is whole vectors.
using FloatTag = hn::CappedTag<float, kBlock / 2>;
using Vec = hn::Vec<FloatTag>;

constexpr size_t LanesOf() { return hn::MaxLanes(FloatTag()); }
// Vectors in a block of kBlock weights.
inline constexpr size_t kBlockVectors = kBlock / LanesOf();

// Load<v>(block): vector v of the block of kBlock weights at `block`, its lanes
// being elements v * lanes + lane, without their scale.
template <WeightType type>
struct Weights;

template <>
struct Weights<WeightType::kF32> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    const FloatTag d;
    return hn::Load(d, reinterpret_cast<const float*>(block) + v * LanesOf());
  }
};

// Word j of 16 holds elements j and 16 + j (meta/packing.h): two vectors cost
// one load, one shift and one mask. In-order storage needs a lane-crossing
// zero-extension and a shift for each vector, which on Zen 3 was the limit in
// cache.
template <>
struct Weights<WeightType::kBf16> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    const hn::RebindToUnsigned<FloatTag> du;
    constexpr size_t kHalf = kBlockVectors / 2;
    return HalfOfWords<v / kHalf>(hn::Load(
        du,
        reinterpret_cast<const uint32_t*>(block) + (v % kHalf) * LanesOf()));
  }
  // The bf16 in the lower (0) or upper (1) halves of words, as f32.
  template <size_t half, class Words>
  static HWY_INLINE Vec HalfOfWords(Words words) {
    const FloatTag d;
    const hn::RebindToUnsigned<FloatTag> du;
    if constexpr (half == 0) {
      return hn::BitCast(d, hn::ShiftLeft<16>(words));
    } else {
      return hn::BitCast(d, hn::And(words, hn::Set(du, 0xffff0000u)));
    }
  }
};

// A vector of f16 at `halves`, as f32.
HWY_INLINE Vec LoadHalves(const std::byte* halves) {
  const FloatTag d;
#if HWY_TARGET >= HWY_SSE4 && HWY_ARCH_X86
  // Without F16C. Highway's emulation makes numbers of infinities and NaN. A
  // half moved to the place of an f32 is the same number times 2^-112.
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const auto bits = hn::PromoteTo(
      du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(halves)));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fff));
  const Vec finite = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)),
                             hn::Set(d, 0x1p112f));
  const auto is_finite =
      hn::BitCast(du, hn::VecFromMask(hn::Lt(hn::BitCast(d32, magnitude),
                                             hn::Set(d32, 0x7c00))));
  const auto exponent = hn::AndNot(is_finite, hn::Set(du, 0x7f800000u));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, magnitude));
  return hn::BitCast(d,
                     hn::Or(hn::BitCast(du, finite), hn::Or(exponent, sign)));
#else
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(
      d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(halves)));
#endif
}

// In order: the conversion of the CPU (F16C, NEON) widens, too.
template <>
struct Weights<WeightType::kF16> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    return LoadHalves(block + v * LanesOf() * 2);
  }
};

// In order. Zen 3, weights in L2, eight columns a pass, against bf16 at 1.00:
// sign extension and conversion 1.33, four bytes a word taken apart by shifts
// 1.51, by masks (scaled by 2^24) 1.29.
template <>
struct Weights<WeightType::kI8> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    const FloatTag d;
    const hn::Rebind<int8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> d32;
    return hn::ConvertTo(
        d, hn::PromoteTo(d32,
                         hn::LoadU(d8, reinterpret_cast<const int8_t*>(block) +
                                           v * LanesOf())));
  }
};
template <>
struct Weights<WeightType::kI8Group32> : Weights<WeightType::kI8> {};

// One lane has no shuffles, and no entries either (CompiledHere).
#if HWY_TARGET != HWY_SCALAR
// The two bytes of the bf16 of each 4-bit weight (-8 to 7, stored plus 8).
template <size_t byte>
constexpr std::array<uint8_t, 16> NibbleTable() {
  std::array<uint8_t, 16> table{};
  for (int i = 0; i < 16; ++i) {
    table[static_cast<size_t>(i)] = static_cast<uint8_t>(
        ToBf16(static_cast<float>(i - 8)) >> (8 * byte) & 0xff);
  }
  return table;
}
inline constexpr auto kNibbleLow = NibbleTable<0>();
inline constexpr auto kNibbleHigh = NibbleTable<1>();

// A byte shuffle looks up the bf16 of each nibble; even and odd ones are the
// halves of words (NibblePositionOf). Zen 3 as above: 1.51; shifting nibbles
// into words, extending their sign and converting 1.68; bytes extended to words
// and converted 2.08.
template <>
struct Weights<WeightType::kI4Group32> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    using Bf16 = Weights<WeightType::kBf16>;
    const hn::RebindToUnsigned<FloatTag> d32;
    const hn::Repartition<uint8_t, FloatTag> d8;
    const auto nibbles = Nibbles<v>(block);
    const auto low =
        hn::TableLookupBytes(hn::LoadDup128(d8, kNibbleLow.data()), nibbles);
    const auto high =
        hn::TableLookupBytes(hn::LoadDup128(d8, kNibbleHigh.data()), nibbles);
    // The second half of the bytes where v is odd, both halves side by side
    // where a vector holds all sixteen lanes.
    const auto halves = [&]() RANKFORGE_LAMBDA {
      if constexpr (LanesOf() == 16) {
        return hn::ConcatUpperLower(d8, hn::InterleaveUpper(d8, low, high),
                                    hn::InterleaveLower(d8, low, high));
      } else if constexpr (v * LanesOf() / 8 % 2 == 0) {
        return hn::InterleaveLower(d8, low, high);
      } else {
        return hn::InterleaveUpper(d8, low, high);
      }
    }();
    return Bf16::HalfOfWords<v * LanesOf() / 16>(hn::BitCast(d32, halves));
  }

 private:
  // Bytes of one nibble each, the low and the high ones of the block in turns
  // of 128 bits (a narrower vector: those that `v` needs).
  template <size_t v>
  static HWY_INLINE auto Nibbles(const std::byte* block) {
    const hn::Repartition<uint8_t, FloatTag> d8;
    const hn::Repartition<uint64_t, FloatTag> d64;
    const auto bytes =
        hn::LoadDup128(d8, reinterpret_cast<const uint8_t*>(block));
    const auto mask = hn::Set(d8, 15);
    if constexpr (LanesOf() == 4) {
      if constexpr (v % 2 == 0) {
        return hn::And(bytes, mask);
      } else {
        return hn::And(
            hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d64, bytes))), mask);
      }
    } else {
      alignas(64) static constexpr uint64_t kShifts[8] = {0, 0, 4, 4,
                                                          0, 0, 4, 4};
      return hn::And(hn::BitCast(d8, hn::Shr(hn::BitCast(d64, bytes),
                                             hn::Load(d64, kShifts))),
                     mask);
    }
  }
};
template <>
struct Weights<WeightType::kI4Group64> : Weights<WeightType::kI4Group32> {};
#endif  // HWY_TARGET != HWY_SCALAR

// Calls body(std::integral_constant<size_t, i>) for i < n, unrolled.
template <size_t n, class Body>
HWY_INLINE void Unroll(Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) RANKFORGE_LAMBDA {
    (body(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

// The same for bodies that do without a constant: a loop where the code is
// instrumented, which takes minutes to compile unrolled.
template <size_t n, class Body>
HWY_INLINE void UnrollRuns(Body body) {
#ifdef RANKFORGE_DEFAULT_VARIANTS
  for (size_t i = 0; i < n; ++i) body(i);
#else
  Unroll<n>(body);
#endif
}

// The f16 scales of the next kScaledBlocks blocks of each row or column of a
// pass, as f32. They are converted a vector at a time: group by group would be
// two instructions more for the dozen that a group of 32 weights takes.
inline constexpr size_t kScaledBlocks = 64;

template <WeightType type, size_t runs>
class GroupScales {
 public:
  // To be called for the blocks of a pass in turn. scale[r] = the scales from
  // that of `block` on, times factor[r] (null: 1); the scale of block 0 lies at
  // run[r] + offset. Fetches those of the next pass. Nothing for other types.
  HWY_INLINE void Advance(size_t block, size_t blocks,
                          const std::byte* const* run,
                          const std::byte* const* next, ptrdiff_t offset,
                          const float* factor) {
    if constexpr (kGrouped) {
      if (block % kScaledBlocks != 0) return;
      const FloatTag d;
      const size_t count =
          (std::min(blocks - block, kScaledBlocks) + kBlocksPerGroup - 1) /
          kBlocksPerGroup;
      offset += static_cast<ptrdiff_t>(block / kBlocksPerGroup * 2);
      for (size_t r = 0; r < runs; ++r) {
        const Vec times = hn::Set(d, factor == nullptr ? 1.0f : factor[r]);
        // May read and convert a few bytes of weights behind the last scale.
        for (size_t i = 0; i < count; i += LanesOf()) {
          const Vec loaded = LoadHalves(run[r] + offset + i * 2);
          hn::Store(hn::Mul(loaded, times), d, scale_[r] + i);
        }
        for (size_t i = 0; i < count * 2; i += kCacheLine) {
          __builtin_prefetch(next[r] + offset + i, 0, 3);
        }
      }
    }
  }
  HWY_INLINE Vec Of(size_t run, size_t block) const {
    const FloatTag d;
    return hn::Set(d, scale_[run][block % kScaledBlocks / kBlocksPerGroup]);
  }

 private:
  static constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;
  static constexpr size_t kBlocksPerGroup =
      kGrouped ? FormatOf(type).group / kBlock : 1;
  static constexpr size_t kScales =
      kGrouped ? kScaledBlocks / kBlocksPerGroup : 1;
  HWY_ALIGN float scale_[runs][kScales];
};

// Fetches the block at `block` into the cache level that `prefetch` names.
template <Prefetch prefetch, size_t bytes>
HWY_INLINE void FetchBlock(const std::byte* block) {
  if constexpr (prefetch != Prefetch::kNone && prefetch != Prefetch::kHeads) {
    // Locality 2 is prefetcht1 on x86: into L2. Into L1 (t0) the lines of
    // eight whole columns evict each other before they are used.
    constexpr int kLocality = prefetch == Prefetch::kNextL2 ? 2 : 3;
    for (size_t line = 0; line < bytes; line += kCacheLine) {
      __builtin_prefetch(block + line, 0, kLocality);
    }
  }
}

// A pass over `blocks` blocks, `step` at a time, in up to two stretches; in
// each, blocks ahead of the current one are fetched from other rows or columns.
struct FetchPlan {
  struct Stretch {
    size_t end;                       // in blocks
    const std::byte* const* streams;  // of which something is fetched
    ptrdiff_t ahead;                  // in bytes, relative to the current one
  };
  Stretch stretches[2];
};

// kAhead: lines between use and fetch. On a shared Zen 3 core with 8 columns a
// pass, density .52: 1 line .89 of the read bandwidth, 4 .93, 6 .90, 8 .91, the
// whole next pass (kNextL2) .82; density .32 on 11008 outputs: .74, .90, .91,
// .82, .69.
inline constexpr size_t kAheadLines = 6;

template <WeightType type, Prefetch prefetch, size_t step>
HWY_INLINE FetchPlan PlanFetches(const std::byte* const* current,
                                 const std::byte* const* next, size_t blocks) {
  if constexpr (prefetch == Prefetch::kAhead) {
    constexpr size_t kAheadBytes = kAheadLines * kCacheLine;
    constexpr size_t kAheadBlocks =
        RoundUp(kAheadBytes / BlockBytes(type), step);
    const size_t split = blocks > kAheadBlocks ? blocks - kAheadBlocks : 0;
    return {
        {{split, current, kAheadBytes},
         {blocks, next, -static_cast<ptrdiff_t>(split * BlockBytes(type))}}};
  } else {
    return {{{blocks, next, 0}, {blocks, next, 0}}};
  }
}

// kHeads: fetches the first lines of a row or column, where the hardware
// streamer has not started yet.
inline constexpr size_t kHeadLines = 4;
template <Prefetch prefetch>
HWY_INLINE void FetchHead(const void* begin) {
  if constexpr (prefetch == Prefetch::kHeads) {
    for (size_t line = 0; line < kHeadLines; ++line) {
      __builtin_prefetch(static_cast<const char*>(begin) + line * kCacheLine, 0,
                         3);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_WEIGHTS_INL_H_
