#include "kernels/mask.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/compaction.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mask.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using MaskTag = hn::CappedTag<float, 16>;

// The lanes of `v` whose bits are set in `bits`, moved to the front.
//
// With AVX-512 an instruction. Below it from a table of our own: g++ 12 copies
// the 1 KiB table of hn::Compress in Highway 1.0.3 to the stack at each use:
// 61 us for 11008 values on Zen 3, without it 4.3.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Compact(D d, V v, hn::Mask<D> keep, size_t bits) {
  if constexpr (hn::MaxLanes(D()) > kCompactionLanes) {
    static_cast<void>(d);
    static_cast<void>(bits);
    return hn::Compress(v, keep);
  } else {
    static_cast<void>(keep);
    const hn::RebindToUnsigned<D> du;
    const hn::Rebind<uint8_t, D> du8;
    const auto lanes =
        hn::PromoteTo(du, hn::LoadU(du8, kCompaction[bits].data()));
    return hn::TableLookupLanes(v, hn::IndicesFromVec(d, lanes));
  }
}

// Appends the kept ones of the 64 values at `v` and returns how many. Compacts
// in a register and stores the whole vector: the memory form of compress costs
// hundreds of micro-operations on Zen 4, and every store lands within
// MaskCapacity.
template <bool has_mu, bool strict, bool is_signed>
HWY_INLINE size_t MaskWord(const float* HWY_RESTRICT v,
                           const float* HWY_RESTRICT tau,
                           const float* HWY_RESTRICT mu, uint32_t first,
                           uint32_t* HWY_RESTRICT index,
                           float* HWY_RESTRICT value, uint64_t& bits,
                           float* HWY_RESTRICT zeroed) {
  const MaskTag d;
  const hn::RebindToUnsigned<MaskTag> du;
  const size_t lanes = hn::Lanes(d);
  size_t kept = 0;
  const auto lane = hn::Iota(du, 0);
  bits = 0;
  for (size_t i = 0; i < 64; i += lanes) {
    const auto x = hn::LoadU(d, v + i);
    auto score = x;
    if constexpr (has_mu) score = hn::Sub(score, hn::LoadU(d, mu + i));
    if constexpr (!is_signed) score = hn::Abs(score);
    const auto threshold = hn::LoadU(d, tau + i);
    const auto keep =
        strict ? hn::Gt(score, threshold) : hn::Ge(score, threshold);
    // Two bytes and no more, to be read as they were stored.
    uint8_t stored[2] = {};
    hn::StoreMaskBits(d, keep, stored);
    const size_t word =
        hn::MaxLanes(d) > 8 ? stored[0] | stored[1] << 8 : stored[0];
    bits |= uint64_t{word} << i;
    hn::StoreU(Compact(d, x, keep, word), d, value + kept);
    const auto position =
        hn::Add(lane, hn::Set(du, first + static_cast<uint32_t>(i)));
    hn::StoreU(Compact(du, position, hn::RebindMask(du, keep), word), du,
               index + kept);
    hn::StoreU(hn::IfThenElseZero(keep, x), d, zeroed + i);
    kept += static_cast<size_t>(std::popcount(word));
  }
  return kept;
}

template <bool has_mu, bool strict, bool is_signed>
size_t MaskAll(const float* v, size_t count, const float* tau, const float* mu,
               const MaskStorage& storage) {
  size_t kept = 0;
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    kept += MaskWord<has_mu, strict, is_signed>(
        v + i, tau + i, has_mu ? mu + i : nullptr, static_cast<uint32_t>(i),
        storage.index + kept, storage.value + kept, storage.bits[i / 64],
        storage.zeroed + i);
  }
  if (i < count) {
    // The last word works on copies; beyond `count` nothing is kept.
    float v_tail[64] = {}, mu_tail[64] = {}, tau_tail[64], zeroed_tail[64];
    const size_t rest = count - i;
    std::fill(tau_tail, tau_tail + 64, std::numeric_limits<float>::infinity());
    std::copy(v + i, v + count, v_tail);
    std::copy(tau + i, tau + count, tau_tail);
    if (has_mu) std::copy(mu + i, mu + count, mu_tail);
    kept += MaskWord<has_mu, strict, is_signed>(
        v_tail, tau_tail, mu_tail, static_cast<uint32_t>(i),
        storage.index + kept, storage.value + kept, storage.bits[i / 64],
        zeroed_tail);
    std::copy(zeroed_tail, zeroed_tail + rest, storage.zeroed + i);
  }
  return kept;
}

size_t MaskOfTarget(const float* v, size_t count, const ThresholdRule& rule,
                    const MaskStorage& storage) {
  using Function = size_t (*)(const float*, size_t, const float*, const float*,
                              const MaskStorage&);
  // [has mu][strict][signed]
  static constexpr Function kFunctions[2][2][2] = {
      {{MaskAll<false, false, false>, MaskAll<false, false, true>},
       {MaskAll<false, true, false>, MaskAll<false, true, true>}},
      {{MaskAll<true, false, false>, MaskAll<true, false, true>},
       {MaskAll<true, true, false>, MaskAll<true, true, true>}}};
  const bool strict = rule.comparison == Comparison::kGreater;
  return kFunctions[rule.mu != nullptr][strict][rule.signed_score](
      v, count, rule.tau, rule.mu, storage);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(MaskOfTarget);

MaskView MakeMask(const float* v, size_t count, const ThresholdRule& rule,
                  const MaskStorage& storage) {
  MaskView view;
  view.kept = HWY_DYNAMIC_DISPATCH(MaskOfTarget)(v, count, rule, storage);
  view.index = storage.index;
  view.value = storage.value;
  view.bits = storage.bits;
  view.zeroed = storage.zeroed;
  view.groups = count;
  FindPrefix(view);
  return view;
}

MaskView MaskFromIndex(const uint32_t* index, size_t kept, const float* v,
                       size_t count, size_t granularity,
                       const MaskStorage& storage) {
  MaskView view;
  view.granularity = granularity;
  view.groups = (count + granularity - 1) / granularity;
  view.kept = kept;
  view.index = storage.index;
  view.bits = storage.bits;
  std::copy(index, index + kept, storage.index);
  std::fill(storage.bits, storage.bits + MaskWords(view.groups), 0);
  if (v != nullptr) {
    view.value = storage.value;
    view.zeroed = storage.zeroed;
    std::fill(storage.zeroed, storage.zeroed + count, 0.0f);
  }
  for (size_t k = 0; k < kept; ++k) {
    storage.bits[index[k] / 64] |= uint64_t{1} << (index[k] % 64);
    if (v == nullptr) continue;
    for (size_t g = 0; g < granularity; ++g) {
      const size_t j = index[k] * granularity + g;
      const float value = j < count ? v[j] : 0.0f;
      storage.value[k * granularity + g] = value;
      if (j < count) storage.zeroed[j] = value;
    }
  }
  if (granularity == 1 && v != nullptr) FindPrefix(view);
  return view;
}

void FindPrefix(MaskView& view) {
  view.prefix = 0;
  view.prefix_kept = 0;
  while (view.prefix + 64 <= view.groups) {
    const int kept = std::popcount(view.bits[view.prefix / 64]);
    if (kept < 56) break;
    view.prefix += 64;
    view.prefix_kept += static_cast<size_t>(kept);
  }
}

}  // namespace rankforge
#endif  // HWY_ONCE
