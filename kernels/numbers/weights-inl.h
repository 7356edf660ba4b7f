// Loads of packed weights as f32 vectors, one block of kBlock at a time.
// Compiled once per target.
#if defined(RANKFORGE_KERNELS_NUMBERS_WEIGHTS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_NUMBERS_WEIGHTS_INL_H_
#undef RANKFORGE_KERNELS_NUMBERS_WEIGHTS_INL_H_
#else
#define RANKFORGE_KERNELS_NUMBERS_WEIGHTS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/kernel_args.h"
#include "meta/build.h"
#include "meta/packing.h"
#include "meta/variant.h"

// Attributes of a lambda in kernel code. Without them g++ 12 does not inline
// some lambdas and keeps the sums that they capture in memory.
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

// Load<v>(block): vector v of the block of kBlock weights at `block`, without
// their scale. Its lanes are elements v * lanes + lane.
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
// one load, one shift and one mask. Weights stored in order need a
// lane-crossing zero-extension and a shift per vector, which limit the speed in
// cache on Zen 3.
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
  // Without F16C. Highway's emulation turns infinities and NaN into numbers. A
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

// In order: the conversion of the CPU (F16C, NEON) widens as well.
template <>
struct Weights<WeightType::kF16> {
  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    return LoadHalves(block + v * LanesOf() * 2);
  }
};

// In order. Time against bf16 on Zen 3, weights in L2, eight columns per pass:
// sign extension and conversion 1.33 times; four bytes per word, taken apart by
// shifts 1.51, by masks (scaled by 2^24) 1.29.
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

// As stored (meta/packing.h), 0 to 15 for -8 to 7, times 2^kExponent<v>.
// Scaling sums or inputs by powers of two is exact and cheaper than shifting
// every weight. So is subtracting kNibbleZero once from the sum of a group.
//
// Dense 512 x 512 on Zen 3, columns8, time against bf16: this 1.28 to 1.35
// times, a look-up of the bf16 of each nibble by byte shuffles 1.42 to 1.53.
// Rows4 from memory: 1.25 to 1.3 times as fast as the look-up.
template <>
struct Weights<WeightType::kI4Group32> {
  template <size_t v>
  static constexpr size_t kExponent = 4 * (LanesOf() == 4 ? v / 2
                                                          : v * LanesOf() / 8);

  template <size_t v>
  static HWY_INLINE Vec Load(const std::byte* block) {
    const FloatTag d;
    const hn::RebindToSigned<FloatTag> d32;
    const hn::RebindToUnsigned<FloatTag> du;
    const auto nibbles =
        hn::And(Words<v>(block), hn::Set(du, uint32_t{15} << kExponent<v>));
    return hn::ConvertTo(d, hn::BitCast(d32, nibbles));
  }

 private:
  // The four words of a block, repeated. Lanes 4 to 7 of every 8 are shifted
  // down by 16; where vectors hold 16 lanes, the upper half is also shifted
  // by 4.
  template <size_t v>
  static HWY_INLINE auto Words(const std::byte* block) {
    const hn::RebindToUnsigned<FloatTag> du;
    const auto words =
        hn::LoadDup128(du, reinterpret_cast<const uint32_t*>(block));
    if constexpr (LanesOf() > 4) {
      alignas(64) static constexpr uint32_t kShifts[16] = {
          0, 0, 0, 0, 16, 16, 16, 16, 4, 4, 4, 4, 20, 20, 20, 20};
      return hn::Shr(words, hn::Load(du, kShifts));
    } else if constexpr (v % 2 == 1) {
      return hn::ShiftRight<16>(words);
    } else {
      return words;
    }
  }
};
template <>
struct Weights<WeightType::kI4Group64> : Weights<WeightType::kI4Group32> {};
template <>
struct Weights<WeightType::kI4mGroup32> : Weights<WeightType::kI4Group32> {};

// vec * 2^(sign * kExponent<v>) for types that have kExponent.
template <WeightType type, size_t v, int sign>
HWY_INLINE Vec Rescale(Vec vec) {
  if constexpr (kNibbles<type>) {
    constexpr size_t kExponent = Weights<type>::template kExponent<v>;
    constexpr auto kPower = static_cast<float>(size_t{1} << kExponent);
    if constexpr (kExponent > 0) {
      return hn::Mul(vec, hn::Set(FloatTag(), sign > 0 ? kPower : 1 / kPower));
    }
  }
  return vec;
}

// Calls body(std::integral_constant<size_t, i>) for i < n, unrolled.
template <size_t n, class Body>
HWY_INLINE void Unroll(Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) RANKFORGE_LAMBDA {
    (body(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

// The same for bodies that do not need a constant. A loop where code is
// instrumented (meta/build.h), which takes minutes to compile unrolled.
template <size_t n, class Body>
HWY_INLINE void UnrollRuns(Body body) {
  if constexpr (kRolledLoops) {
    for (size_t i = 0; i < n; ++i) body(i);
  } else {
    Unroll<n>(body);
  }
}

// The f16 scales of the next kScaledBlocks blocks of each row or column of a
// pass, as f32, and their minimums. They are converted one vector at a time:
// group by group would add two instructions to the dozen of a group of 32
// weights.
inline constexpr size_t kScaledBlocks = 64;

template <WeightType type, size_t runs>
class GroupScales {
 public:
  // Call it for the blocks of a pass in turn. Sets the scales and the minimums
  // from those of `block` on, times factor[r] (null: 1); those of block 0 lie
  // at run[r] + offsets. Adds each scale, or each minimum of types that have
  // them, to the element of its group in `sums` (null: no sums), in the order
  // of runs. Fetches those of the next pass. Does nothing for types without
  // groups.
  HWY_INLINE void Advance(size_t block, size_t blocks,
                          const std::byte* const* run,
                          const std::byte* const* next,
                          const GroupOffsets& offsets, const float* factor,
                          float* sums) {
    if constexpr (kGrouped) {
      if (block % kScaledBlocks != 0) return;
      const FloatTag d;
      const size_t group = block / kBlocksPerGroup;
      const size_t count =
          (std::min(blocks - block, kScaledBlocks) + kBlocksPerGroup - 1) /
          kBlocksPerGroup;
      const auto first = static_cast<ptrdiff_t>(group * 2);
      for (size_t r = 0; r < runs; ++r) {
        const std::byte* const scales = run[r] + offsets.scale + first;
        const std::byte* const minimums = run[r] + offsets.minimum + first;
        const Vec times = hn::Set(d, factor == nullptr ? 1.0f : factor[r]);
        // May read and convert a few bytes of weights after the last scale.
        for (size_t i = 0; i < count; i += LanesOf()) {
          const Vec scale = hn::Mul(LoadHalves(scales + i * 2), times);
          hn::Store(scale, d, scale_[r] + i);
          Vec added = scale;
          if constexpr (kMinimums<type>) {
            added = hn::Mul(LoadHalves(minimums + i * 2), times);
            hn::Store(added, d, minimum_[r] + i);
          }
          if (sums != nullptr) {
            float* const sum = sums + group + i;
            hn::StoreU(hn::Add(hn::LoadU(d, sum), added), d, sum);
          }
        }
        for (size_t i = 0; i < count * 2; i += kCacheLine) {
          __builtin_prefetch(next[r] + offsets.scale + first + i, 0, 3);
          if constexpr (kMinimums<type>) {
            __builtin_prefetch(next[r] + offsets.minimum + first + i, 0, 3);
          }
        }
      }
    }
  }
  // The scale of the group of a block; 1 for types without groups.
  HWY_INLINE Vec Of(size_t run, size_t block) const {
    const FloatTag d;
    if constexpr (kGrouped) {
      return hn::Set(d, scale_[run][block % kScaledBlocks / kBlocksPerGroup]);
    } else {
      return hn::Set(d, 1.0f);
    }
  }
  // The minimum of the group of a block; 0 for types without minimums.
  HWY_INLINE Vec MinimumOf(size_t run, size_t block) const {
    const FloatTag d;
    if constexpr (kMinimums<type>) {
      return hn::Set(d, minimum_[run][block % kScaledBlocks / kBlocksPerGroup]);
    } else {
      return hn::Zero(d);
    }
  }

 private:
  static constexpr bool kGrouped = FormatOf(type).scaling == Scaling::kGroup;
  static constexpr size_t kBlocksPerGroup =
      kGrouped ? FormatOf(type).group / kBlock : 1;
  static constexpr size_t kScales =
      kGrouped ? kScaledBlocks / kBlocksPerGroup : 1;
  HWY_ALIGN float scale_[runs][kScales];
  HWY_ALIGN float minimum_[kMinimums<type> ? runs : 1]
                          [kMinimums<type> ? kScales : 1];
};

// Adds to each of `size` outputs what the columns of its group add to all of
// them: group_sums has the sum of their factors, of which kNibbleZero, the zero
// of stored nibbles, is taken off, or the sum of their minimums.
template <WeightType type>
HWY_INLINE void AddGroupSums(const float* group_sums, size_t size, float* y) {
  const FloatTag d;
  constexpr size_t kGroup = FormatOf(type).group;
  const Vec times = hn::Set(d, kMinimums<type> ? 1.0f : -float{kNibbleZero});
  for (size_t begin = 0; begin < size; begin += kGroup) {
    const Vec sum = hn::Set(d, group_sums[begin / kGroup]);
    HWY_ALIGN float tail[kGroup] = {};
    const size_t count = std::min(kGroup, size - begin);
    float* group = count == kGroup ? y + begin : tail;
    if (group == tail) std::copy_n(y + begin, count, tail);
    for (size_t i = 0; i < kGroup; i += LanesOf()) {
      hn::StoreU(hn::MulAdd(times, sum, hn::LoadU(d, group + i)), d, group + i);
    }
    if (group == tail) std::copy_n(tail, count, y + begin);
  }
}

// Fetches the block at `block` into the cache level that `prefetch` names.
template <Prefetch prefetch, size_t bytes>
HWY_INLINE void FetchBlock(const std::byte* block) {
  if constexpr (prefetch != Prefetch::kNone && prefetch != Prefetch::kHeads) {
    // Locality 2 is prefetcht1 on x86: into L2. In L1 (t0) the lines of eight
    // whole columns evict each other before they are used.
    constexpr int kLocality = prefetch == Prefetch::kNextL2 ? 2 : 3;
    for (size_t line = 0; line < bytes; line += kCacheLine) {
      __builtin_prefetch(block + line, 0, kLocality);
    }
  }
}

// A pass over `blocks` blocks, `step` at a time, in up to two stretches. In
// each stretch blocks are fetched that lie a constant distance ahead.
struct FetchPlan {
  struct Stretch {
    size_t end;                       // in blocks
    const std::byte* const* streams;  // rows or columns to fetch from
    ptrdiff_t ahead;                  // in bytes, relative to the current one
  };
  Stretch stretches[2];
};

// `ahead`: KernelArgs::ahead.
template <WeightType type, Prefetch prefetch, size_t step>
HWY_INLINE FetchPlan PlanFetches(const std::byte* const* current,
                                 const std::byte* const* next, size_t blocks,
                                 size_t ahead) {
  if constexpr (prefetch == Prefetch::kAhead) {
    const size_t ahead_blocks = RoundUp(ahead / BlockBytes(type), step);
    const size_t split = blocks > ahead_blocks ? blocks - ahead_blocks : 0;
    return {
        {{split, current, static_cast<ptrdiff_t>(ahead)},
         {blocks, next, -static_cast<ptrdiff_t>(split * BlockBytes(type))}}};
  } else {
    static_assert(prefetch != Prefetch::kFar);  // runs as kAhead
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

#endif  // RANKFORGE_KERNELS_NUMBERS_WEIGHTS_INL_H_
