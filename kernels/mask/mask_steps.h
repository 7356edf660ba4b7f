// The vector passes that mask producers (mask.h) consist of. Every producer
// makes bits, one per channel or group; one pass makes the other arrays from
// the bits. Results are the same on all targets, bit for bit.
#ifndef RANKFORGE_KERNELS_MASK_MASK_STEPS_H_
#define RANKFORGE_KERNELS_MASK_MASK_STEPS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/layer/activation.h"

namespace rankforge {

// What is compared: |value_j - mu_j| or, signed, value_j - mu_j.
struct Scores {
  const float* value = nullptr;  // (count,)
  const float* mu = nullptr;     // (count,) or null: zero
  bool is_signed = false;

  Scores From(size_t first) const {
    return {value + first, mu == nullptr ? nullptr : mu + first, is_signed};
  }
};

// The same of value_j = act(gate_j) * up_j, which is not stored.
struct GatedScores {
  const float* gate = nullptr;  // (count,)
  const float* up = nullptr;    // (count,) or null: act(gate_j) alone
  Activation activation = Activation::kSilu;
  const float* mu = nullptr;  // (count,) or null: zero
  bool is_signed = false;
};

// What it is compared with. A NaN on either side drops the channel.
struct Bound {
  const float* tau = nullptr;  // (count,) or null: `common` for all
  float common = 0;
  bool strict = false;  // > instead of >=
};

// Where arrays of a mask go; null: not made.
struct Expansion {
  uint32_t* index;
  float* value;
  float* zeroed;
};

// How many scores lie at or above a band, and how many inside it.
struct BandCount {
  size_t above = 0;
  size_t inside = 0;
};

// `bits` are MaskWords(count) words; those beyond `count` are written as zero
// and not read as anything else.
struct MaskSteps {
  // Keeps the scores that reach the bound: writes bits and the arrays of `to`,
  // which hold the values without mu subtracted; returns how many are kept.
  // Whole vectors are stored: index and value need room beyond their end
  // (MaskCapacity), zeroed does not.
  size_t (*threshold)(const Scores& scores, size_t count, const Bound& bound,
                      uint64_t* bits, const Expansion& to);
  // The same for computed values, which equal those of Activate bit for bit.
  size_t (*threshold_gated)(const GatedScores& scores, size_t count,
                            const Bound& bound, uint64_t* bits,
                            const Expansion& to);
  // The arrays of `to` over v (count,), and how many are kept. v may be null
  // where only `index` is made.
  size_t (*expand)(const uint64_t* bits, const float* v, size_t count,
                   const Expansion& to);
  // value: v at the set `bits`, but 0 where `part`, a subset, lacks the bit.
  void (*expand_part)(const uint64_t* bits, const uint64_t* part,
                      const float* v, size_t count, float* value);
  // Writes value and zeroed from one bit per group of `granularity` <=
  // kMaxGranularity neighbours. A group that reaches beyond `count` is filled
  // up with zeros.
  void (*expand_groups)(const uint64_t* bits, const float* v, size_t count,
                        size_t granularity, const Expansion& to);
  // band: the scores in [low, high) in their order; room for MaskCapacity.
  // `high` NaN is above all, and a NaN score in no band.
  BandCount (*collect)(const Scores& scores, size_t count, float low,
                       float high, float* band);
  // The largest bound that at least k of values (count,) reach, or any smaller
  // one that just as many reach, searched in [low, high); `low` if fewer than k
  // reach it. Overwrites `values` up to MaskCapacity.
  float (*kth_largest)(float* values, size_t count, size_t k, float low,
                       float high);
  // bits: one for each byte (count,) that is not zero.
  void (*bits_from_bytes)(const uint8_t* bytes, size_t count, uint64_t* bits);
};

// Those of the best target.
const MaskSteps& BestMaskSteps();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_MASK_MASK_STEPS_H_
