// Mask producers against plain loops, on every target that this CPU has, for
// every rule, form, length and edge value.
#include "kernels/mask/mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/layer/activation.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLengths[] = {1, 3, 8, 63, 64, 65, 127, 128, 200, 1000};

constexpr std::array<MaskArrays, 8> kAllArrays = [] {
  std::array<MaskArrays, 8> all{};
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = {(i & 1) != 0, (i & 2) != 0, (i & 4) != 0};
  }
  return all;
}();

// Memory of one mask, with canaries beyond its end.
class GuardedStorage {
 public:
  explicit GuardedStorage(size_t count)
      : index_(MaskCapacity(count) + 1, kGuard),
        value_(MaskCapacity(count) + 1, std::bit_cast<float>(kGuard)),
        bits_(MaskWords(count) + 1, kGuard),
        zeroed_(count + 1, std::bit_cast<float>(kGuard)) {}
  MaskStorage storage() {
    return {index_.data(), value_.data(), bits_.data(), zeroed_.data()};
  }
  ~GuardedStorage() {
    EXPECT_EQ(index_.back(), kGuard);
    EXPECT_EQ(std::bit_cast<uint32_t>(value_.back()), kGuard);
    EXPECT_EQ(bits_.back(), kGuard);
    EXPECT_EQ(std::bit_cast<uint32_t>(zeroed_.back()), kGuard);
  }

 private:
  static constexpr uint32_t kGuard = 0x5eadbeef;
  std::vector<uint32_t> index_;
  std::vector<float> value_;
  std::vector<uint64_t> bits_;
  std::vector<float> zeroed_;
};

std::vector<uint32_t> BitPatterns(const float* values, size_t count) {
  std::vector<uint32_t> patterns(count);
  std::transform(values, values + count, patterns.begin(),
                 [](float value) { return std::bit_cast<uint32_t>(value); });
  return patterns;
}

// The view of a mask over v that keeps exactly the groups of `keep`, in
// `arrays` and no others. `v` null: a row mask.
void ExpectView(const std::vector<bool>& keep, const float* v, size_t count,
                size_t granularity, const MaskArrays& arrays,
                const MaskView& view) {
  std::vector<uint32_t> index;
  std::vector<float> value, zeroed(count, 0.0f);
  std::vector<uint64_t> bits(MaskWords(keep.size()), 0);
  for (size_t group = 0; group < keep.size(); ++group) {
    if (!keep[group]) continue;
    index.push_back(static_cast<uint32_t>(group));
    bits[group / 64] |= uint64_t{1} << (group % 64);
    for (size_t j = group * granularity; j < (group + 1) * granularity; ++j) {
      value.push_back(v != nullptr && j < count ? v[j] : 0);
      if (j < count) zeroed[j] = value.back();
    }
  }
  ASSERT_EQ(view.kept, index.size());
  EXPECT_EQ(view.groups, keep.size());
  EXPECT_EQ(view.granularity, granularity);
  ASSERT_NE(view.bits, nullptr);
  EXPECT_EQ(std::vector(view.bits, view.bits + bits.size()), bits);
  ASSERT_EQ(view.index != nullptr, arrays.index);
  if (arrays.index) {
    EXPECT_EQ(std::vector(view.index, view.index + view.kept), index);
  }
  ASSERT_EQ(view.value != nullptr, arrays.value && v != nullptr);
  if (view.value != nullptr) {
    EXPECT_EQ(BitPatterns(view.value, value.size()),
              BitPatterns(value.data(), value.size()));
  }
  ASSERT_EQ(view.zeroed != nullptr, arrays.zeroed && v != nullptr);
  if (view.zeroed != nullptr) {
    EXPECT_EQ(BitPatterns(view.zeroed, count),
              BitPatterns(zeroed.data(), count));
  }
}

std::vector<float> NormalValues(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// One test for each target that was compiled and that this CPU has.
class MaskTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

INSTANTIATE_TEST_SUITE_P(Targets, MaskTest,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const testing::TestParamInfo<int64_t>& info) {
                           return std::string(hwy::TargetName(info.param));
                         });

struct Channels {
  std::vector<float> v, tau, mu;
};

Channels RandomChannels(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Channels channels;
  for (size_t i = 0; i < count; ++i) {
    channels.v.push_back(normal(random));
    channels.tau.push_back(std::abs(normal(random)));
    channels.mu.push_back(0.3f * normal(random));
    switch (random() % 23) {  // edge values among the ordinary ones
      case 0:
        channels.v.back() = kNan;
        break;
      case 1:
        channels.v.back() = -kInfinity;
        break;
      case 2:
        channels.tau.back() = kInfinity;
        break;
      case 3:
        channels.tau.back() = kNan;
        break;
      case 4:  // exactly on the threshold
        channels.tau.back() = std::abs(channels.v.back());
        channels.mu.back() = 0;
        break;
      case 5:
        channels.v.back() = -0.0f;
        channels.tau.back() = 0;
        channels.mu.back() = 0;
        break;
      case 6:
        channels.mu.back() = kNan;
        break;
      default:
        break;
    }
  }
  return channels;
}

float ScoreOf(float value, const float* mu, size_t i, bool is_signed) {
  const float score = mu == nullptr ? value : value - mu[i];
  return is_signed ? score : std::abs(score);
}

std::vector<bool> KeptByThreshold(const std::vector<float>& score,
                                  const ThresholdRule& rule) {
  std::vector<bool> keep;
  for (size_t i = 0; i < score.size(); ++i) {
    const float s = ScoreOf(score[i], rule.mu, i, rule.signed_score);
    const float tau = rule.tau == nullptr ? rule.common_tau : rule.tau[i];
    keep.push_back(rule.comparison == Comparison::kGreater ? s > tau
                                                           : s >= tau);
  }
  return keep;
}

// body(rule) for every combination of a rule's switches.
template <class Body>
void ForEveryRule(const Channels& channels, Body body) {
  for (size_t i = 0; i < 16; ++i) {
    body(ThresholdRule{.tau = (i & 1) != 0 ? channels.tau.data() : nullptr,
                       .mu = (i & 2) != 0 ? channels.mu.data() : nullptr,
                       .comparison = (i & 4) != 0 ? Comparison::kGreater
                                                  : Comparison::kGreaterEqual,
                       .signed_score = (i & 8) != 0,
                       .common_tau = 0.5f});
  }
}

TEST_P(MaskTest, ThresholdIsTheFormulaForEveryRuleFormAndLength) {
  for (const size_t count : kLengths) {
    const Channels channels =
        RandomChannels(count, static_cast<unsigned>(count));
    ForEveryRule(channels, [&](const ThresholdRule& rule) {
      for (const MaskArrays& arrays : kAllArrays) {
        GuardedStorage memory(count);
        ExpectView(
            KeptByThreshold(channels.v, rule), channels.v.data(), count, 1,
            arrays,
            MakeMask(channels.v.data(), count, rule, memory.storage(), arrays));
      }
    });
  }
}

// Equals the mask over a stored act(gate) * up, bit for bit, also across
// blocks.
TEST_P(MaskTest, GatedMaskIsTheMaskOfTheProduct) {
  for (const size_t count : {1, 7, 64, 65, 200, 511, 512, 513, 1100}) {
    const auto seed = static_cast<unsigned>(count);
    const Channels channels = RandomChannels(count, seed);
    std::vector<float> up = NormalValues(count, seed + 1);
    up[count / 2] = kNan;
    for (const Activation activation :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      for (const float* factor :
           std::initializer_list<const float*>{up.data(), nullptr}) {
        const GatedValues values = {channels.v.data(), factor, activation};
        std::vector<float> h(count);
        Activate(activation, values.gate, factor, count, h.data());
        ForEveryRule(channels, [&](const ThresholdRule& rule) {
          for (const MaskArrays& arrays : kAllArrays) {
            GuardedStorage memory(count);
            ExpectView(
                KeptByThreshold(h, rule), h.data(), count, 1, arrays,
                MakeGatedMask(values, count, rule, memory.storage(), arrays));
          }
        });
      }
    }
  }
}

TEST_P(MaskTest, MultiplyKeptIsTheMaskOfTheProducts) {
  for (const size_t count : kLengths) {
    const std::vector<float> v = NormalValues(count, 1);
    const std::vector<float> all_factors = NormalValues(count, 2);
    for (const float tau : {0.0f, 0.7f, kInfinity}) {
      const ThresholdRule rule{.common_tau = tau};
      const std::vector<bool> keep = KeptByThreshold(v, rule);
      std::vector<float> factor(count), product(count);
      for (size_t i = 0; i < count; ++i) {
        factor[i] = keep[i] ? all_factors[i] : 0;
        product[i] = v[i] * factor[i];
      }
      for (const MaskArrays& arrays :
           {MaskArrays{}, MaskArrays{true, true, false},
            MaskArrays{false, false, true}}) {
        GuardedStorage memory(count);
        const MaskView view =
            MakeMask(v.data(), count, rule, memory.storage(), arrays);
        MultiplyKept(view, factor.data(), memory.storage());
        ExpectView(keep, product.data(), count, 1, arrays, view);
      }
    }
  }
}

TEST_P(MaskTest, ScoresMayBeOtherThanTheValues) {
  const size_t count = 200;
  const Channels channels = RandomChannels(count, 1);
  const std::vector<float> v = NormalValues(count, 2);
  const ThresholdRule rule{.tau = channels.tau.data(),
                           .score = channels.v.data()};
  const std::vector<bool> keep = KeptByThreshold(channels.v, rule);
  for (const float* values :
       std::initializer_list<const float*>{v.data(), nullptr}) {
    GuardedStorage memory(count);
    ExpectView(keep, values, count, 1, {},
               MakeMask(values, count, rule, memory.storage()));
  }
}

TEST_P(MaskTest, GroupsAreKeptIfAnyChannelIs) {
  for (const size_t granularity : {1, 2, 8, 32}) {
    for (const size_t count : kLengths) {
      const Channels channels =
          RandomChannels(count, static_cast<unsigned>(count));
      const ThresholdRule rule{.common_tau = 1.5f};
      const std::vector<bool> channel = KeptByThreshold(channels.v, rule);
      std::vector<bool> keep((count + granularity - 1) / granularity, false);
      for (size_t j = 0; j < count; ++j) {
        if (channel[j]) keep[j / granularity] = true;
      }
      GuardedStorage memory(count);
      ExpectView(keep, channels.v.data(), count, granularity, {},
                 MakeGroupMask(channels.v.data(), count, granularity, rule,
                               memory.storage()));
    }
  }
}

TEST_P(MaskTest, EmptyAndFullMasks) {
  const size_t count = 130;
  const std::vector<float> v(count, -2.0f);
  GuardedStorage memory(count);
  EXPECT_EQ(
      MakeMask(v.data(), count, {.common_tau = kInfinity}, memory.storage())
          .kept,
      0u);
  const MaskView full =
      MakeMask(v.data(), count, {.common_tau = 0}, memory.storage());
  EXPECT_EQ(full.kept, count);
  EXPECT_EQ(full.prefix, 128u);
  EXPECT_EQ(full.prefix_kept, 128u);
}

TEST_P(MaskTest, PrefixEndsAtTheFirstSparseWord) {
  const size_t count = 256;
  std::vector<float> v(count, 1.0f);
  for (size_t i = 0; i < 8; ++i) v[i] = 0;    // 56 of 64 kept: still dense
  for (size_t i = 64; i < 73; ++i) v[i] = 0;  // 55 of 64 kept: not
  GuardedStorage memory(count);
  const MaskView view =
      MakeMask(v.data(), count, {.common_tau = 0.5f}, memory.storage());
  EXPECT_EQ(view.prefix, 64u);
  EXPECT_EQ(view.prefix_kept, 56u);
}

// The k largest of all numbers; of equal ones those with lower indices.
std::vector<bool> KeptByRank(const std::vector<float>& score,
                             const TopKRule& rule) {
  std::vector<float> s(score.size());
  std::vector<size_t> order;
  for (size_t i = 0; i < s.size(); ++i) {
    s[i] = ScoreOf(score[i], rule.mu, i, rule.signed_score);
    if (!std::isnan(s[i])) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return s[a] > s[b]; });
  order.resize(std::min(order.size(), rule.k));
  std::vector<bool> keep(s.size(), false);
  for (const size_t i : order) keep[i] = true;
  return keep;
}

void ExpectTopK(const std::vector<float>& v, const TopKRule& rule) {
  GuardedStorage memory(v.size());
  ExpectView(KeptByRank(v, rule), v.data(), v.size(), 1, {},
             MakeTopKMask(v.data(), v.size(), rule, memory.storage()));
}

// Lengths below and above the one from which a sample narrows the search.
constexpr size_t kTopKLengths[] = {1, 63, 64, 200, 1023, 1024, 1100, 5000};

std::vector<size_t> SomeRanks(size_t count) {
  return {0,         1,     2,         count / 10, count / 3,         count / 2,
          count - 1, count, count + 1, 2 * count,  count - count / 16};
}

TEST_P(MaskTest, TopKIsARankingForEveryLengthAndRank) {
  for (const size_t count : kTopKLengths) {
    const Channels channels =
        RandomChannels(count, static_cast<unsigned>(count));
    for (const size_t k : SomeRanks(count)) {
      for (const float* mu :
           std::initializer_list<const float*>{channels.mu.data(), nullptr}) {
        for (const bool is_signed : {false, true}) {
          SCOPED_TRACE(testing::Message() << "count " << count << " k " << k);
          ExpectTopK(channels.v, {.k = k, .mu = mu, .signed_score = is_signed});
        }
      }
    }
  }
}

TEST_P(MaskTest, TopKTakesTheFirstOfEqualScores) {
  for (const size_t count : kTopKLengths) {
    std::vector<float> few_values = NormalValues(count, 3);
    for (float& value : few_values) value = std::round(2 * value) / 2;
    std::vector<float> mostly_zero = few_values;
    for (size_t i = 0; i < count; ++i) {
      if (i % 3 != 0) mostly_zero[i] = i % 2 == 0 ? 0.0f : -0.0f;
    }
    const std::vector<float> equal(count, -1.5f), none(count, kNan);
    for (const size_t k : SomeRanks(count)) {
      for (const bool is_signed : {false, true}) {
        const TopKRule rule{.k = k, .signed_score = is_signed};
        for (const auto& v : {few_values, mostly_zero, equal, none}) {
          SCOPED_TRACE(testing::Message() << "count " << count << " k " << k);
          ExpectTopK(v, rule);
        }
      }
    }
  }
}

// Values whose period is that of the sample, so that it sees only the largest,
// the smallest, infinities or nothing.
TEST_P(MaskTest, TopKIsExactWhereASampleMisleads) {
  for (const size_t count : {2560, 5000}) {
    const size_t step = count / 256;
    for (const float seen : {100.0f, 1e-20f, kInfinity, -kInfinity, kNan}) {
      std::vector<float> v = NormalValues(count, 4);
      for (size_t i = step / 2; i < count; i += step) v[i] = seen;
      for (const size_t k : SomeRanks(count)) {
        for (const bool is_signed : {false, true}) {
          SCOPED_TRACE(testing::Message() << "seen " << seen << " k " << k);
          ExpectTopK(v, {.k = k, .signed_score = is_signed});
        }
      }
    }
  }
}

TEST_P(MaskTest, TopKMakesTheFormsAskedForFromOtherScores) {
  const size_t count = 2000;
  const std::vector<float> v = NormalValues(count, 5);
  const std::vector<float> score = NormalValues(count, 6);
  const TopKRule rule{.k = 700, .score = score.data()};
  const std::vector<bool> keep = KeptByRank(score, rule);
  for (const MaskArrays& arrays : kAllArrays) {
    GuardedStorage memory(count);
    ExpectView(keep, v.data(), count, 1, arrays,
               MakeTopKMask(v.data(), count, rule, memory.storage(), arrays));
    ExpectView(keep, nullptr, count, 1, arrays,
               MakeTopKMask(nullptr, count, rule, memory.storage(), arrays));
  }
}

// A mask of any groups that a caller brings, in all three forms.
struct OutsideMask {
  std::vector<bool> keep;
  std::vector<uint64_t> bits;  // with bits set beyond the last group
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> index;
};

OutsideMask RandomOutsideMask(size_t groups, double density, unsigned seed) {
  std::mt19937 random(seed);
  std::bernoulli_distribution kept(density);
  OutsideMask mask;
  mask.bits.assign(MaskWords(groups), 0);
  if (groups % 64 != 0) mask.bits.back() = ~uint64_t{0} << (groups % 64);
  for (size_t group = 0; group < groups; ++group) {
    mask.keep.push_back(kept(random));
    mask.bytes.push_back(mask.keep.back() ? uint8_t(1 + random() % 255) : 0);
    if (!mask.keep.back()) continue;
    mask.bits[group / 64] |= uint64_t{1} << (group % 64);
    mask.index.push_back(static_cast<uint32_t>(group));
  }
  return mask;
}

TEST_P(MaskTest, MasksFromOutsideForEveryFormLengthAndGranularity) {
  for (const size_t granularity : {1, 3, 8, 32}) {
    for (const size_t count : kLengths) {
      const size_t groups = (count + granularity - 1) / granularity;
      std::vector<float> v = NormalValues(count, 9);
      v[0] = kNan;  // kept and dropped like any other
      v[count / 2] = -0.0f;
      for (const double density : {0.0, 0.1, 0.5, 1.0}) {
        const OutsideMask mask = RandomOutsideMask(
            groups, density, static_cast<unsigned>(count + granularity));
        for (const float* values :
             std::initializer_list<const float*>{v.data(), nullptr}) {
          for (const MaskArrays& arrays : kAllArrays) {
            const auto expect = [&](const MaskView& view) {
              ExpectView(mask.keep, values, count, granularity, arrays, view);
            };
            GuardedStorage memory(count);
            const MaskStorage storage = memory.storage();
            expect(MaskFromBits(mask.bits.data(), values, count, granularity,
                                storage, arrays));
            expect(MaskFromBytes(mask.bytes.data(), values, count, granularity,
                                 storage, arrays));
            expect(MaskFromIndex(mask.index.data(), mask.index.size(), values,
                                 count, granularity, storage, arrays));
          }
        }
      }
    }
  }
}

TEST(ArraysRead, NamesWhatEachCursorReads) {
  using enum Operation;
  EXPECT_EQ(ArraysRead(kDense, MaskForm::kNone),
            (MaskArrays{false, false, false}));
  EXPECT_EQ(ArraysRead(kRowMask, MaskForm::kBitset),
            (MaskArrays{true, false, false}));
  EXPECT_EQ(ArraysRead(kColumnMask, MaskForm::kIndexList),
            (MaskArrays{true, true, false}));
  EXPECT_EQ(ArraysRead(kColumnMask, MaskForm::kBitset),
            (MaskArrays{false, false, true}));
  EXPECT_EQ(ArraysRead(kColumnMask, MaskForm::kZeroed),
            (MaskArrays{false, false, true}));
  EXPECT_EQ(ArraysRead(kColumnMask, MaskForm::kPrefix), (MaskArrays{}));
  EXPECT_EQ((MaskArrays{true, false, false} | MaskArrays{false, false, true}),
            (MaskArrays{true, false, true}));
}

}  // namespace
}  // namespace rankforge
