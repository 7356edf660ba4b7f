#include "kernels/mask/mask.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/mask/mask_steps.h"

namespace rankforge {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The view that the producers fill. Without values it can only have the index.
MaskView ViewOf(const float* v, size_t count, size_t granularity,
                const MaskStorage& storage, const MaskArrays& arrays) {
  MaskView view;
  view.granularity = granularity;
  view.groups = (count + granularity - 1) / granularity;
  view.bits = storage.bits;
  if (arrays.index) view.index = storage.index;
  if (arrays.value && v != nullptr) view.value = storage.value;
  if (arrays.zeroed && v != nullptr) view.zeroed = storage.zeroed;
  return view;
}

// The memory of those arrays that `view` has.
Expansion ArraysOf(const MaskView& view, const MaskStorage& storage) {
  return {view.index == nullptr ? nullptr : storage.index,
          view.value == nullptr ? nullptr : storage.value,
          view.zeroed == nullptr ? nullptr : storage.zeroed};
}

Bound BoundOf(const ThresholdRule& rule) {
  return {rule.tau, rule.common_tau, rule.comparison == Comparison::kGreater};
}

size_t ApplyThreshold(const float* v, size_t count, const ThresholdRule& rule,
                      uint64_t* bits, const Expansion& to) {
  const Scores scores = {rule.score == nullptr ? v : rule.score, rule.mu,
                         rule.signed_score};
  return BestMaskSteps().threshold(scores, count, BoundOf(rule), bits, to);
}

// From one bit per channel to one per group, in place: set if any of its
// channels is.
void JoinBits(uint64_t* bits, size_t count, size_t granularity) {
  const uint64_t mask = (uint64_t{1} << granularity) - 1;
  const size_t groups = (count + granularity - 1) / granularity;
  for (size_t first = 0; first < groups; first += 64) {
    uint64_t joined = 0;
    for (size_t group = first; group < std::min(groups, first + 64); ++group) {
      const size_t channel = group * granularity;
      const bool any = (bits[channel / 64] >> (channel % 64) & mask) != 0;
      joined |= uint64_t{any} << (group - first);
    }
    bits[first / 64] = joined;
  }
}

// The rest of a mask over v whose bits are in `storage`.
MaskView ExpandBits(const float* v, size_t count, size_t granularity,
                    const MaskStorage& storage, const MaskArrays& arrays) {
  const MaskSteps& steps = BestMaskSteps();
  MaskView view = ViewOf(v, count, granularity, storage, arrays);
  Expansion to = ArraysOf(view, storage);
  if (granularity > 1) {
    if (to.value != nullptr || to.zeroed != nullptr) {
      steps.expand_groups(storage.bits, v, count, granularity, to);
    }
    to = {to.index, nullptr, nullptr};
  }
  view.kept = steps.expand(storage.bits, v, view.groups, to);
  if (granularity == 1) FindPrefix(view);
  return view;
}

Scores ScoresOf(const float* v, const TopKRule& rule) {
  return {rule.score == nullptr ? v : rule.score, rule.mu, rule.signed_score};
}

// The rule that keeps the scores from `threshold` on.
ThresholdRule AtThreshold(const TopKRule& rule, float threshold) {
  return {.mu = rule.mu,
          .signed_score = rule.signed_score,
          .score = rule.score,
          .common_tau = threshold};
}

float ScoreAt(const Scores& scores, size_t i) {
  const float score =
      scores.mu == nullptr ? scores.value[i] : scores.value[i] - scores.mu[i];
  return scores.is_signed ? score : std::fabs(score);
}

struct Interval {
  float low;   // included
  float high;  // excluded; NaN: none above
};

// All scores but NaN.
Interval AllScores(const Scores& scores) {
  return {scores.is_signed ? -kInfinity : 0.0f, kNan};
}

// Where the k-th largest of the scores probably lies, from evenly spaced ones:
// a rank estimated from n of them is off by at most sqrt(n) / 2 (one standard
// deviation), so the interval reaches three of those to both sides.
Interval Estimate(const Scores& scores, size_t count, size_t k) {
  constexpr size_t kSample = 256, kMargin = 24;
  const Interval all = AllScores(scores);
  if (count < 4 * kSample) return all;
  std::array<float, MaskCapacity(kSample)> sample;
  const size_t step = count / kSample;
  for (size_t i = 0; i < kSample; ++i) {
    sample[i] = ScoreAt(scores, i * step + step / 2);
  }
  const size_t rank = k * kSample / count;
  const auto at_rank = [&](size_t wanted, float low) {
    return BestMaskSteps().kth_largest(sample.data(), kSample, wanted, low,
                                       kNan);
  };
  const float low =
      rank + kMargin > kSample ? all.low : at_rank(rank + kMargin, all.low);
  return {low, rank <= kMargin ? kNan : at_rank(rank - kMargin, low)};
}

// The k-th largest score, or a smaller value that no other scores reach.
float TopKThreshold(const Scores& scores, size_t count, size_t k, float* band) {
  const MaskSteps& steps = BestMaskSteps();
  const Interval all = AllScores(scores);
  Interval interval = Estimate(scores, count, k);
  BandCount in =
      steps.collect(scores, count, interval.low, interval.high, band);
  if (in.above >= k) {
    interval = {interval.high, all.high};
  } else if (in.above + in.inside < k) {
    interval = {all.low, interval.low};
  } else {
    return steps.kth_largest(band, in.inside, k - in.above, interval.low,
                             interval.high);
  }
  // The estimate missed: all of the side where the k-th lies is searched.
  in = steps.collect(scores, count, interval.low, interval.high, band);
  return steps.kth_largest(band, in.inside, k - in.above, interval.low,
                           interval.high);
}

// The lowest `n` set bits.
uint64_t LowestSet(uint64_t bits, size_t n) {
  uint64_t rest = bits;
  for (; n > 0; --n) rest &= rest - 1;
  return bits ^ rest;
}

// Clears the last `surplus` of the bits whose scores equal the threshold.
void DropLastTies(const Scores& scores, size_t count, float threshold,
                  size_t surplus, uint64_t* bits) {
  constexpr size_t kWords = 16;
  const Bound above = {nullptr, threshold, true};
  uint64_t larger[kWords];
  for (size_t words = MaskWords(count); words > 0 && surplus > 0;) {
    const size_t first = (words - 1) / kWords * kWords;
    const size_t size = std::min(count, words * 64) - first * 64;
    BestMaskSteps().threshold(scores.From(first * 64), size, above, larger, {});
    for (; words > first; --words) {
      uint64_t& word = bits[words - 1];
      const uint64_t ties = word & ~larger[words - 1 - first];
      const auto number = static_cast<size_t>(std::popcount(ties));
      const size_t dropped = std::min(number, surplus);
      word &= ~ties | LowestSet(ties, number - dropped);
      surplus -= dropped;
    }
  }
}

}  // namespace

MaskView MakeMask(const float* v, size_t count, const ThresholdRule& rule,
                  const MaskStorage& storage, MaskArrays arrays) {
  if (rule.score != nullptr && rule.score != v) {
    ApplyThreshold(v, count, rule, storage.bits, {});
    return ExpandBits(v, count, 1, storage, arrays);
  }
  MaskView view = ViewOf(v, count, 1, storage, arrays);
  view.kept =
      ApplyThreshold(v, count, rule, storage.bits, ArraysOf(view, storage));
  FindPrefix(view);
  return view;
}

MaskView MakeGatedMask(const GatedValues& values, size_t count,
                       const ThresholdRule& rule, const MaskStorage& storage,
                       MaskArrays arrays) {
  MaskView view = ViewOf(values.gate, count, 1, storage, arrays);
  const GatedScores scores = {values.gate, values.up, values.activation,
                              rule.mu, rule.signed_score};
  view.kept = BestMaskSteps().threshold_gated(
      scores, count, BoundOf(rule), storage.bits, ArraysOf(view, storage));
  FindPrefix(view);
  return view;
}

void MultiplyKept(const MaskView& view, const float* factor,
                  const MaskStorage& storage) {
  if (view.value != nullptr) {
    for (size_t entry = 0; entry < view.kept; ++entry) {
      storage.value[entry] *= factor[view.index[entry]];
    }
  }
  if (view.zeroed != nullptr) {
    for (size_t i = 0; i < view.groups; ++i) storage.zeroed[i] *= factor[i];
  }
}

MaskView MakeGroupMask(const float* v, size_t count, size_t granularity,
                       const ThresholdRule& rule, const MaskStorage& storage,
                       MaskArrays arrays) {
  ApplyThreshold(v, count, rule, storage.bits, {});
  JoinBits(storage.bits, count, granularity);
  return ExpandBits(v, count, granularity, storage, arrays);
}

MaskView MakeTopKMask(const float* v, size_t count, const TopKRule& rule,
                      const MaskStorage& storage, MaskArrays arrays) {
  const Scores scores = ScoresOf(v, rule);
  const size_t k = std::min(rule.k, count);
  const float threshold =
      k == 0 ? kNan : TopKThreshold(scores, count, k, storage.value);
  const MaskView view =
      MakeMask(v, count, AtThreshold(rule, threshold), storage, arrays);
  if (view.kept <= k) return view;
  DropLastTies(scores, count, threshold, view.kept - k, storage.bits);
  return ExpandBits(v, count, 1, storage, arrays);
}

MaskView MaskFromBits(const uint64_t* bits, const float* v, size_t count,
                      size_t granularity, const MaskStorage& storage,
                      MaskArrays arrays) {
  const size_t groups = (count + granularity - 1) / granularity;
  std::copy(bits, bits + MaskWords(groups), storage.bits);
  if (groups % 64 != 0) {
    storage.bits[groups / 64] &= (uint64_t{1} << (groups % 64)) - 1;
  }
  return ExpandBits(v, count, granularity, storage, arrays);
}

MaskView MaskFromBytes(const uint8_t* bytes, const float* v, size_t count,
                       size_t granularity, const MaskStorage& storage,
                       MaskArrays arrays) {
  const size_t groups = (count + granularity - 1) / granularity;
  BestMaskSteps().bits_from_bytes(bytes, groups, storage.bits);
  return ExpandBits(v, count, granularity, storage, arrays);
}

MaskView MaskFromIndex(const uint32_t* index, size_t kept, const float* v,
                       size_t count, size_t granularity,
                       const MaskStorage& storage, MaskArrays arrays) {
  const size_t groups = (count + granularity - 1) / granularity;
  // Through bytes: writes to bits of one word wait for each other. 11008 values
  // at density 0.9 take 9 us instead of 21 (Zen 3).
  auto* bytes = reinterpret_cast<uint8_t*>(storage.value);
  std::fill(bytes, bytes + groups, uint8_t{0});
  for (size_t entry = 0; entry < kept; ++entry) bytes[index[entry]] = 1;
  BestMaskSteps().bits_from_bytes(bytes, groups, storage.bits);
  return ExpandBits(v, count, granularity, storage, arrays);
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
