// Loads of packed weights as f32 vectors, one block of kBlock at a time.
// Compiled once per target.
#if defined(RANKFORGE_KERNELS_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_WEIGHTS_INL_H_
#undef RANKFORGE_KERNELS_WEIGHTS_INL_H_
#else
#define RANKFORGE_KERNELS_WEIGHTS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
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

template <WeightType type>
struct Weights;

template <>
struct Weights<WeightType::kF32> {
  using Stored = float;

  // Vector v of the block at `block`, its lanes being elements v * N + lane.
  template <size_t v>
  static HWY_INLINE Vec Load(const Stored* HWY_RESTRICT block) {
    const FloatTag d;
    return hn::Load(d, block + v * hn::Lanes(d));
  }
};

// Word j of 16 holds elements j and 16 + j (meta/packing.h): two vectors cost
// one load, one shift and one mask. In-order storage needs a lane-crossing
// zero-extension and a shift for each vector, which on Zen 3 was the limit in
// cache.
template <>
struct Weights<WeightType::kBf16> {
  using Stored = uint16_t;

  template <size_t v>
  static HWY_INLINE Vec Load(const Stored* HWY_RESTRICT block) {
    const FloatTag d;
    const hn::RebindToUnsigned<FloatTag> du;
    constexpr size_t kHalf = kBlockVectors / 2;
    const auto words = hn::Load(du, reinterpret_cast<const uint32_t*>(block) +
                                        (v % kHalf) * hn::Lanes(d));
    if constexpr (v < kHalf) {
      return hn::BitCast(d, hn::ShiftLeft<16>(words));
    } else {
      return hn::BitCast(d, hn::And(words, hn::Set(du, 0xffff0000u)));
    }
  }
};

// Calls body(std::integral_constant<size_t, i>) for i < n, unrolled.
template <size_t n, class Body>
HWY_INLINE void Unroll(Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) RANKFORGE_LAMBDA {
    (body(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

// Fetches the block at `block` into the cache level that `prefetch` names.
template <Prefetch prefetch, class Stored>
HWY_INLINE void FetchBlock(const Stored* block) {
  if constexpr (prefetch != Prefetch::kNone && prefetch != Prefetch::kHeads) {
    // Locality 2 is prefetcht1 on x86: into L2. Into L1 (t0) the lines of
    // eight whole columns evict each other before they are used.
    constexpr int kLocality = prefetch == Prefetch::kNextL2 ? 2 : 3;
    constexpr size_t kLines = kBlock * sizeof(Stored) / kCacheLine;
    for (size_t line = 0; line < kLines; ++line) {
      __builtin_prefetch(
          reinterpret_cast<const char*>(block) + line * kCacheLine, 0,
          kLocality);
    }
  }
}

// A pass over `blocks` blocks in up to two stretches; in each, blocks ahead of
// the current one are fetched from other rows or columns.
template <class Stored>
struct FetchPlan {
  struct Stretch {
    size_t end;                    // in blocks
    const Stored* const* streams;  // of which something is fetched
    ptrdiff_t ahead;               // in blocks, relative to the current one
  };
  Stretch stretches[2];
};

// kAhead: lines between use and fetch. On a shared Zen 3 core with 8 columns a
// pass, density .52: 1 line .89 of the read bandwidth, 4 .93, 6 .90, 8 .91, the
// whole next pass (kNextL2) .82; density .32 on 11008 outputs: .74, .90, .91,
// .82, .69.
inline constexpr size_t kAheadLines = 6;

template <Prefetch prefetch, class Stored>
HWY_INLINE FetchPlan<Stored> PlanFetches(const Stored* const* current,
                                         const Stored* const* next,
                                         size_t blocks) {
  if constexpr (prefetch == Prefetch::kAhead) {
    constexpr size_t kAheadBlocks =
        kAheadLines * kCacheLine / (kBlock * sizeof(Stored));
    const size_t split = blocks > kAheadBlocks ? blocks - kAheadBlocks : 0;
    return {{{split, current, kAheadBlocks},
             {blocks, next, -static_cast<ptrdiff_t>(split)}}};
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
