#include "kernels/mask/mask_steps.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/mask/compaction.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mask/mask_steps.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/layer/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using UTag = hn::RebindToUnsigned<Tag>;
using ITag = hn::RebindToSigned<Tag>;
using Vec = hn::Vec<Tag>;

// Channels, groups or bytes of one word of bits.
constexpr size_t kWord = 64;
constexpr size_t kLanes = hn::MaxLanes(Tag());
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A copy of the last channels of an array, which do not fill a word, filled up.
// Passes run over whole words, then over one of these.
template <class T>
struct LastWord {
  LastWord(const T* all, size_t count, T fill) {
    const size_t rest = all == nullptr ? 0 : count % kWord;
    if (rest > 0) std::copy(all + count - rest, all + count, copy);
    std::fill(copy + rest, copy + kWord, fill);
  }
  T copy[kWord];
};

// Filled up with NaN, which is in no mask.
class LastScores {
 public:
  LastScores(const Scores& all, size_t count)
      : value_(all.value, count, kNan),
        mu_(all.mu, count, 0),
        scores_{value_.copy, all.mu == nullptr ? nullptr : mu_.copy,
                all.is_signed} {}
  const Scores& scores() const { return scores_; }

 private:
  LastWord<float> value_, mu_;
  Scores scores_;
};

// Where the arrays of the last word go: zeroed to a copy, of which Finish
// writes what lies before the end.
class LastArrays {
 public:
  LastArrays(const Expansion& all, size_t count, size_t kept)
      : rest_(count % kWord),
        zeroed_(all.zeroed == nullptr ? nullptr : all.zeroed + count - rest_),
        to_{all.index == nullptr ? nullptr : all.index + kept,
            all.value == nullptr ? nullptr : all.value + kept,
            all.zeroed == nullptr ? nullptr : copy_} {}
  const Expansion& to() const { return to_; }
  void Finish() const {
    if (zeroed_ != nullptr) std::copy(copy_, copy_ + rest_, zeroed_);
  }

 private:
  size_t rest_;
  float* zeroed_;
  float copy_[kWord];
  Expansion to_;
};

// A mask as bits, and back; `bits` has none beyond the lanes.
template <class D>
HWY_INLINE uint64_t BitsOf(D d, hn::Mask<D> mask) {
  // As many bytes as are stored: a longer load would wait for the store.
  uint8_t stored[8];
  hn::StoreMaskBits(d, mask, stored);
  uint64_t bits = 0;
  std::memcpy(&bits, stored, (hn::MaxLanes(D()) + 7) / 8);
  return bits;
}
template <class D>
HWY_INLINE hn::Mask<D> MaskOf(D d, uint64_t bits) {
  uint8_t stored[8];
  std::memcpy(stored, &bits, sizeof(bits));
  return hn::LoadMaskBits(d, stored);
}

constexpr uint64_t LaneBits(size_t lanes) {
  return lanes >= 64 ? ~uint64_t{0} : (uint64_t{1} << lanes) - 1;
}

// The positions of the lanes whose bits are set, moved to the front, and those
// lanes of `v`.
//
// With AVX-512 an instruction. Below it from a table of our own: g++ 12 copies
// the 1 KiB table of hn::Compress in Highway 1.0.3 to the stack at each use:
// 61 us for 11008 values on Zen 3, without it 4.3.
HWY_INLINE hn::Vec<UTag> FrontPositions(uint64_t bits) {
  const UTag du;
  if constexpr (kLanes > kCompactionLanes) {
    return hn::Compress(hn::Iota(du, 0), MaskOf(du, bits));
  } else {
    const hn::Rebind<uint8_t, Tag> du8;
    return hn::PromoteTo(du, hn::LoadU(du8, kCompaction[bits].data()));
  }
}
HWY_INLINE Vec Front(Vec v, uint64_t bits) {
  const Tag d;
  if constexpr (kLanes > kCompactionLanes) {
    return hn::Compress(v, MaskOf(d, bits));
  } else {
    return hn::TableLookupLanes(v, hn::IndicesFromVec(d, FrontPositions(bits)));
  }
}

// Lanes of value - mu from i on, by the vectors of D.
template <bool has_mu, class D>
HWY_INLINE hn::Vec<D> Difference(D d, const Scores& scores, size_t i) {
  const auto value = hn::LoadU(d, scores.value + i);
  if constexpr (!has_mu) return value;
  return hn::Sub(value, hn::LoadU(d, scores.mu + i));
}
// What a score keeps of a difference: all bits, or all but the sign.
HWY_INLINE Vec ScoreBits(const Scores& scores) {
  return hn::BitCast(
      Tag(),
      hn::Set(UTag(), scores.is_signed ? ~uint32_t{0} : ~uint32_t{0} >> 1));
}

// Appends channels to the arrays of a mask, a vector at a time. Compacts in a
// register and stores the whole vector: the memory form of compress costs
// hundreds of micro-operations on Zen 4. Stores that cross cache lines are what
// limits this on Zen 3, so only wanted arrays are stored. Has no array as a
// member: g++ 12 then leaves the count in memory, which doubled the time.
//
// Callers copy their arguments (`in`) for a similar reason: a vector store
// could change what a reference points to, so g++ reads it again for every
// vector.
template <bool with_index, bool with_value, bool with_zeroed>
class ArrayWriter {
 public:
  static constexpr bool kReadsValues = with_value || with_zeroed;
  static constexpr bool kHasList = with_index || with_value;

  ArrayWriter(size_t first, const Expansion& to)
      : to_(to), base_(hn::Set(UTag(), static_cast<uint32_t>(first))) {}
  // The lanes of `keep`, which are also given as bits, of the next channels x.
  HWY_INLINE void Add(hn::Mask<Tag> keep, uint64_t bits, Vec x) {
    const Tag d;
    if constexpr (with_value) hn::StoreU(Front(x, bits), d, to_.value + kept_);
    if constexpr (with_index) {
      hn::StoreU(hn::Add(base_, FrontPositions(bits)), UTag(),
                 to_.index + kept_);
      base_ = hn::Add(base_, hn::Set(UTag(), static_cast<uint32_t>(kLanes)));
    }
    if constexpr (with_zeroed) {
      hn::StoreU(hn::IfThenElseZero(keep, x), d, to_.zeroed);
      to_.zeroed += kLanes;
    }
    if constexpr (kHasList) kept_ += static_cast<size_t>(std::popcount(bits));
  }
  // After the vectors of a word; `bits` of all of it.
  HWY_INLINE void EndWord(uint64_t bits) {
    if constexpr (!kHasList) kept_ += static_cast<size_t>(std::popcount(bits));
  }
  HWY_INLINE size_t kept() const { return kept_; }

 private:
  Expansion to_;
  hn::Vec<UTag> base_;
  size_t kept_ = 0;
};

// Bits and arrays of whole words in one pass, where the scores are those of the
// values and one load serves both. One pass for bits and another for the arrays
// takes 1.1 us instead of 0.8 (4096 values, index and value, stand-alone loops
// on Zen 3).
template <bool has_mu, bool strict, bool... wanted>
size_t ThresholdWords(const Scores& scores, size_t first, size_t count,
                      const Bound& bound, uint64_t* HWY_RESTRICT bits,
                      const Expansion& to) {
  const Tag d;
  const Scores in = scores;
  const Vec score_bits = ScoreBits(in);
  const LastWord<float> common(nullptr, 0, bound.common);
  const float* HWY_RESTRICT tau =
      bound.tau == nullptr ? common.copy : bound.tau;
  const size_t tau_step = bound.tau == nullptr ? 0 : kWord;
  ArrayWriter<wanted...> writer(first, to);
  for (size_t w = 0; w < count; w += kWord) {
    uint64_t word = 0;
    for (size_t i = 0; i < kWord; i += kLanes) {
      const Vec score = hn::And(Difference<has_mu>(d, in, w + i), score_bits);
      const Vec limit = hn::LoadU(d, tau + i);
      const auto keep = strict ? hn::Gt(score, limit) : hn::Ge(score, limit);
      const uint64_t lanes = BitsOf(d, keep);
      writer.Add(keep, lanes, hn::LoadU(d, in.value + w + i));
      word |= lanes << i;
    }
    writer.EndWord(word);
    bits[w / kWord] = word;
    tau += tau_step;
  }
  return writer.kept();
}

template <bool... wanted>
size_t ExpandWords(const uint64_t* HWY_RESTRICT bits, const float* v,
                   size_t first, size_t count, const Expansion& to) {
  const Tag d;
  constexpr bool kReadsValues = ArrayWriter<wanted...>::kReadsValues;
  ArrayWriter<wanted...> writer(first, to);
  for (size_t w = 0; w < count; w += kWord) {
    for (size_t i = 0; i < kWord; i += kLanes) {
      const uint64_t lanes = bits[w / kWord] >> i & LaneBits(kLanes);
      writer.Add(MaskOf(d, lanes), lanes,
                 kReadsValues ? hn::LoadU(d, v + w + i) : hn::Zero(d));
    }
    writer.EndWord(bits[w / kWord]);
  }
  return writer.kept();
}

template <bool... wanted>
struct Arrays {
  // [has mu][strict]
  static constexpr decltype(&ThresholdWords<false, false, wanted...>)
      kThreshold[2][2] = {{ThresholdWords<false, false, wanted...>,
                           ThresholdWords<false, true, wanted...>},
                          {ThresholdWords<true, false, wanted...>,
                           ThresholdWords<true, true, wanted...>}};
  static constexpr auto kExpand = ExpandWords<wanted...>;
};

// body(Arrays<...>()) with those that `to` wants.
template <bool... wanted, class Body>
size_t WithArrays(const Expansion& to, Body body) {
  if constexpr (sizeof...(wanted) == 3) {
    return body(Arrays<wanted...>());
  } else {
    const void* const array[] = {to.index, to.value, to.zeroed};
    return array[sizeof...(wanted)] == nullptr
               ? WithArrays<wanted..., false>(to, body)
               : WithArrays<wanted..., true>(to, body);
  }
}

// As MaskSteps::threshold; `first` is the index of the first channel.
size_t ThresholdFrom(size_t first, const Scores& scores, size_t count,
                     const Bound& bound, uint64_t* bits, const Expansion& to) {
  return WithArrays(to, [&](auto arrays) {
    const auto words = arrays.kThreshold[scores.mu != nullptr][bound.strict];
    const size_t whole = count / kWord * kWord;
    size_t kept = words(scores, first, whole, bound, bits, to);
    if (whole < count) {
      const LastScores last(scores, count);
      const LastWord<float> tau(bound.tau, count, bound.common);
      LastArrays rest(to, count, kept);
      kept +=
          words(last.scores(), first + whole, kWord,
                {tau.copy, 0, bound.strict}, bits + whole / kWord, rest.to());
      rest.Finish();
    }
    return kept;
  });
}

size_t Threshold(const Scores& scores, size_t count, const Bound& bound,
                 uint64_t* bits, const Expansion& to) {
  return ThresholdFrom(0, scores, count, bound, bits, to);
}

// A block of values that are computed on the way, 2 KiB: they stay in L1.
constexpr size_t kGatedBlock = 512;

template <class Function>
void GatedWords(const float* HWY_RESTRICT gate, const float* HWY_RESTRICT up,
                size_t count, float* HWY_RESTRICT out) {
  const Tag d;
  for (size_t i = 0; i < count; i += kLanes) {
    const Vec factor = up == nullptr ? hn::Set(d, 1) : hn::LoadU(d, up + i);
    hn::StoreU(Function::Times(d, hn::LoadU(d, gate + i), factor), d, out + i);
  }
}

// Block by block. Computing and comparing in one loop has 46 instructions per
// vector, yet it takes 11.6 us instead of 7.5 for 11008 values with index and
// value on Zen 3. For the zeroed copy alone, whose addresses do not depend on
// the comparison, both take 6.6 us.
size_t ThresholdGated(const GatedScores& scores, size_t count,
                      const Bound& bound, uint64_t* bits, const Expansion& to) {
  HWY_ALIGN float values[kGatedBlock];
  const auto from = [](auto* start, size_t offset) {
    return start == nullptr ? nullptr : start + offset;
  };
  size_t kept = 0;
  for (size_t first = 0; first < count; first += kGatedBlock) {
    const size_t size = std::min(kGatedBlock, count - first);
    const size_t whole = size / kWord * kWord;
    const float* const gate = scores.gate + first;
    const float* const up = from(scores.up, first);
    WithActivation(scores.activation, [&](auto function) {
      const auto words = GatedWords<decltype(function)>;
      words(gate, up, whole, values);
      if (whole == size) return;
      const LastWord<float> last_gate(gate, size, 0), last_up(up, size, 1);
      words(last_gate.copy, last_up.copy, kWord, values + whole);
    });
    kept += ThresholdFrom(
        first, {values, from(scores.mu, first), scores.is_signed}, size,
        {from(bound.tau, first), bound.common, bound.strict},
        bits + first / kWord,
        {from(to.index, kept), from(to.value, kept), from(to.zeroed, first)});
  }
  return kept;
}

size_t Expand(const uint64_t* bits, const float* v, size_t count,
              const Expansion& to) {
  return WithArrays(to, [&](auto arrays) {
    const size_t whole = count / kWord * kWord;
    size_t kept = arrays.kExpand(bits, v, 0, whole, to);
    if (whole < count) {
      const LastWord<float> last(v, count, 0);
      LastArrays rest(to, count, kept);
      kept += arrays.kExpand(bits + whole / kWord, last.copy, whole, kWord,
                             rest.to());
      rest.Finish();
    }
    return kept;
  });
}

size_t ExpandPartWords(const uint64_t* HWY_RESTRICT bits,
                       const uint64_t* HWY_RESTRICT part, const float* v,
                       size_t count, float* value) {
  const Tag d;
  ArrayWriter<false, true, false> writer(0, {nullptr, value, nullptr});
  for (size_t w = 0; w < count; w += kWord) {
    for (size_t i = 0; i < kWord; i += kLanes) {
      const uint64_t lanes = bits[w / kWord] >> i & LaneBits(kLanes);
      const auto own = MaskOf(d, part[w / kWord] >> i & LaneBits(kLanes));
      writer.Add(own, lanes, hn::IfThenElseZero(own, hn::LoadU(d, v + w + i)));
    }
  }
  return writer.kept();
}

void ExpandPart(const uint64_t* bits, const uint64_t* part, const float* v,
                size_t count, float* value) {
  const size_t whole = count / kWord * kWord;
  const size_t kept = ExpandPartWords(bits, part, v, whole, value);
  if (whole == count) return;
  const LastWord<float> last(v, count, 0);
  ExpandPartWords(bits + whole / kWord, part + whole / kWord, last.copy, kWord,
                  value + kept);
}

// Every group is stored where the next kept one belongs, whether it is kept or
// not: a branch on its bit would be mispredicted every other group.
template <class D>
HWY_INLINE void StoreGroup(D d, const float* HWY_RESTRICT v, size_t size,
                           bool keep, float* HWY_RESTRICT value,
                           float* HWY_RESTRICT zeroed) {
  const auto mask = MaskOf(d, keep ? LaneBits(hn::MaxLanes(d)) : 0);
  for (size_t i = 0; i < size; i += hn::MaxLanes(d)) {
    const auto x = hn::LoadU(d, v + i);
    if (value != nullptr) hn::StoreU(x, d, value + i);
    if (zeroed != nullptr) {
      hn::StoreU(hn::IfThenElseZero(mask, x), d, zeroed + i);
    }
  }
}

template <class D>
void ExpandGroupsBy(D d, const uint64_t* bits, const float* v, size_t count,
                    size_t granularity, const Expansion& to) {
  size_t kept = 0;
  for (size_t begin = 0; begin < count; begin += granularity) {
    const size_t group = begin / granularity;
    const bool keep = (bits[group / kWord] >> (group % kWord) & 1) != 0;
    float* value =
        to.value == nullptr ? nullptr : to.value + kept * granularity;
    if (begin + granularity <= count) {
      StoreGroup(d, v + begin, granularity, keep, value,
                 to.zeroed == nullptr ? nullptr : to.zeroed + begin);
    } else {
      float last[kWord] = {}, last_zeroed[kWord];
      std::copy(v + begin, v + count, last);
      StoreGroup(d, last, granularity, keep, value, last_zeroed);
      if (to.zeroed != nullptr) {
        std::copy(last_zeroed, last_zeroed + (count - begin),
                  to.zeroed + begin);
      }
    }
    kept += keep;
  }
}

void ExpandGroups(const uint64_t* bits, const float* v, size_t count,
                  size_t granularity, const Expansion& to) {
  using GroupTag = hn::CappedTag<float, 8>;
  if (granularity % hn::MaxLanes(GroupTag()) == 0) {
    ExpandGroupsBy(GroupTag(), bits, v, count, granularity, to);
  } else {
    ExpandGroupsBy(hn::CappedTag<float, 1>(), bits, v, count, granularity, to);
  }
}

// Adds the set lanes to counters of 32 bits.
HWY_INLINE hn::Vec<ITag> CountSet(hn::Vec<ITag> counters, hn::Mask<Tag> mask) {
  return hn::Sub(counters, hn::BitCast(ITag(), hn::VecFromMask(Tag(), mask)));
}
HWY_INLINE size_t Total(hn::Vec<ITag> counters) {
  return static_cast<size_t>(hn::GetLane(hn::SumOfLanes(ITag(), counters)));
}

template <bool has_mu>
BandCount CollectWords(const Scores& scores, size_t count, float low,
                       float high, float* HWY_RESTRICT band) {
  const Tag d;
  const Vec lowest = hn::Set(d, low), limit = hn::Set(d, high);
  const Scores in = scores;
  const Vec score_bits = ScoreBits(in);
  auto above = hn::Zero(ITag());
  size_t inside = 0;
  for (size_t i = 0; i < count; i += kLanes) {
    const Vec score = hn::And(Difference<has_mu>(d, in, i), score_bits);
    const auto is_above = hn::Ge(score, limit);
    const uint64_t in_band =
        BitsOf(d, hn::AndNot(is_above, hn::Ge(score, lowest)));
    above = CountSet(above, is_above);
    hn::StoreU(Front(score, in_band), d, band + inside);
    inside += static_cast<size_t>(std::popcount(in_band));
  }
  return {Total(above), inside};
}

BandCount Collect(const Scores& scores, size_t count, float low, float high,
                  float* band) {
  const auto words =
      scores.mu == nullptr ? CollectWords<false> : CollectWords<true>;
  const size_t whole = count / kWord * kWord;
  const BandCount first = words(scores, whole, low, high, band);
  if (whole == count) return first;
  const LastScores last(scores, count);
  const BandCount rest =
      words(last.scores(), kWord, low, high, band + first.inside);
  return {first.above + rest.above, first.inside + rest.inside};
}

// How many of values (count,), a multiple of kWord, reach `bound`.
HWY_INLINE size_t CountReaching(const float* HWY_RESTRICT values, size_t count,
                                float bound) {
  const Tag d;
  const Vec limit = hn::Set(d, bound);
  hn::Vec<ITag> even = hn::Zero(ITag()), odd = even;
  for (size_t w = 0; w < count; w += kWord) {
    for (size_t i = 0; i < kWord; i += 2 * kLanes) {
      even = CountSet(even, hn::Ge(hn::LoadU(d, values + w + i), limit));
      odd = CountSet(odd, hn::Ge(hn::LoadU(d, values + w + i + kLanes), limit));
    }
  }
  return Total(hn::Add(even, odd));
}

// Integers in the order of the floats, -0 just below +0, and back.
HWY_INLINE int32_t OrderOf(float value) {
  const auto bits = std::bit_cast<int32_t>(value);
  return bits < 0 ? bits ^ std::numeric_limits<int32_t>::max() : bits;
}
HWY_INLINE float AtOrder(int32_t order) {
  return std::bit_cast<float>(
      order < 0 ? order ^ std::numeric_limits<int32_t>::max() : order);
}

// Halves the interval of floats until one bound is left or exactly k reach it:
// some 13 passes over 2000 random values, 32 at most, and no branch that
// depends on their order.
float KthLargest(float* values, size_t count, size_t k, float low, float high) {
  const size_t padded = (count + kWord - 1) / kWord * kWord;
  std::fill(values + count, values + padded, kNan);
  int64_t reached = OrderOf(low);
  int64_t missed =
      std::isnan(high)
          ? int64_t{OrderOf(std::numeric_limits<float>::infinity())} + 1
          : OrderOf(high);
  while (missed - reached > 1) {
    const int64_t middle = reached + (missed - reached) / 2;
    const float bound = AtOrder(static_cast<int32_t>(middle));
    const size_t reaching = CountReaching(values, padded, bound);
    if (reaching == k) return bound;
    (reaching > k ? reached : missed) = middle;
  }
  return AtOrder(static_cast<int32_t>(reached));
}

using ByteTag = hn::CappedTag<uint8_t, kWord>;
constexpr size_t kByteLanes = hn::MaxLanes(ByteTag());

HWY_INLINE uint64_t WordFromBytes(const uint8_t* bytes) {
  const ByteTag d;
  uint64_t word = 0;
  for (size_t i = 0; i < kWord; i += kByteLanes) {
    const auto keep = hn::Ne(hn::LoadU(d, bytes + i), hn::Zero(d));
    word |= BitsOf(d, keep) << i;
  }
  return word;
}

void BitsFromBytes(const uint8_t* bytes, size_t count, uint64_t* bits) {
  const size_t words = count / kWord;
  for (size_t w = 0; w < words; ++w) bits[w] = WordFromBytes(bytes + w * kWord);
  if (words * kWord < count) {
    bits[words] = WordFromBytes(LastWord<uint8_t>(bytes, count, 0).copy);
  }
}

const MaskSteps* StepsOfTarget() {
  static constexpr MaskSteps kSteps = {Threshold,  ThresholdGated, Expand,
                                       ExpandPart, ExpandGroups,   Collect,
                                       KthLargest, BitsFromBytes};
  return &kSteps;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(StepsOfTarget);

const MaskSteps& BestMaskSteps() {
  return *HWY_DYNAMIC_DISPATCH(StepsOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
