// Attention over stored keys and values against plain loops in double.
#include "kernels/layer/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/numbers/stored_weight.h"

namespace rankforge {
namespace {

// Positions [begin, end).
struct Range {
  size_t begin;
  size_t end;
};

enum class Kind { kKeys, kValues };

// Cached positions of one KV head, as stored and as the kernel must read them.
struct Stored {
  Kind kind;
  size_t head_dim;
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<double> widened;  // (count, head_dim)

  // Where element i of a position is: of a block, or alone.
  template <WeightType type>
  void Put(size_t t, size_t i, float value) {
    if (kind == Kind::kKeys) {
      StoreElement<type>(value, &bytes[Key<type>(t, i)]);
      return;
    }
    const size_t place = KvPlace(type, head_dim, i);
    StoreWeight<type>(value, &bytes[Block<type>(t, place)], place % kBlock);
  }
  template <WeightType type>
  float At(size_t t, size_t i) const {
    if (kind == Kind::kKeys)
      return StoredElement<type>(&bytes[Key<type>(t, i)]);
    const size_t place = KvPlace(type, head_dim, i);
    return StoredWeight<type>(&bytes[Block<type>(t, place)], place % kBlock);
  }

 private:
  template <WeightType type>
  size_t Key(size_t t, size_t i) const {
    return t / kAttentionBlock * KeyGroupBytes(type, head_dim) +
           (i * kAttentionBlock + t % kAttentionBlock) *
               (FormatOf(type).bits / 8);
  }
  template <WeightType type>
  size_t Block(size_t t, size_t place) const {
    return t * KvStride(type, head_dim) + place / kBlock * BlockBytes(type);
  }
};

// Elements of ordinary size; integers are drawn, their scales too. Positions
// before and after them are NaN.
Stored RandomPositions(WeightType type, Kind kind, Range range, size_t head_dim,
                       unsigned seed) {
  const auto [begin, end] = range;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> integer(-127, 127);
  Stored stored{kind, head_dim, {}, {}, {}};
  // Room to align.
  const size_t groups = RoundUp(end, kAttentionBlock);
  stored.bytes.assign(
      (kind == Kind::kKeys
           ? groups / kAttentionBlock * KeyGroupBytes(type, head_dim)
           : end * KvStride(type, head_dim) + kKvSlack) +
          kCacheLine,
      std::byte{255});
  if (kind == Kind::kValues) {
    std::fill(stored.bytes.begin() +
                  static_cast<long>(begin * KvStride(type, head_dim)),
              stored.bytes.begin() +
                  static_cast<long>(end * KvStride(type, head_dim)),
              std::byte{0});
  }
  stored.scales.assign(groups, 1e30f);  // unused ones
  stored.widened.resize(begin * head_dim);
  for (size_t t = begin; t < end; ++t) {
    stored.scales[t] = IsQuantized(type) ? 0.01f * std::abs(normal(random)) : 1;
    for (size_t i = 0; i < head_dim; ++i) {
      const float value = IsQuantized(type)
                              ? static_cast<float>(integer(random))
                              : normal(random);
      WithType<kKvTypes>(type, [&](auto constant) {
        stored.Put<constant>(t, i, value);
        stored.widened.push_back(double{stored.At<constant>(t, i)} *
                                 double{stored.scales[t]});
      });
    }
  }
  return stored;
}

// Keys and values lie aligned, as in a page buffer.
const std::byte* Aligned(Stored& stored) {
  void* from = stored.bytes.data();
  size_t room = stored.bytes.size();
  const size_t size = room - kCacheLine;
  const std::vector<std::byte> copy(stored.bytes.begin(),
                                    stored.bytes.end() - kCacheLine);
  auto* to = static_cast<std::byte*>(std::align(kCacheLine, size, from, room));
  std::copy(copy.begin(), copy.end(), to);
  return to;
}

struct Attention {
  std::vector<float> q;
  std::vector<float> out;
  Stored keys;
  Stored values;
};

constexpr float kScale = 0.3f;

struct Dims {
  size_t key;
  size_t value;
};

Attention RunAttention(WeightType type, size_t heads, Dims dims, Range range,
                       const Stored& keys, const Stored& values,
                       const std::vector<float>& q, float cap = 0) {
  Attention run{q, std::vector<float>(heads * dims.value), keys, values};
  std::vector<float> scratch(AttentionScratchSize(heads, dims.value), NAN);
  Attend(type, {.q = run.q.data(),
                .heads = heads,
                .key_dim = dims.key,
                .value_dim = dims.value,
                .begin = range.begin,
                .end = range.end,
                .keys = Aligned(run.keys),
                .values = Aligned(run.values),
                .key_scales = keys.scales.data(),
                .value_scales = values.scales.data(),
                .next_keys = nullptr,
                .scale = kScale,
                .cap = cap,
                .scratch = scratch.data(),
                .out = run.out.data()});
  return run;
}

std::vector<float> RandomQueries(size_t n) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> q(n);
  for (float& value : q) value = normal(random);
  return q;
}

// One head in double.
std::vector<double> Expected(const float* q, const Stored& keys,
                             const Stored& values, Range range, Dims dims,
                             double cap = 0) {
  std::vector<double> scores(range.end);
  double max = -std::numeric_limits<double>::infinity();
  for (size_t t = range.begin; t < range.end; ++t) {
    for (size_t i = 0; i < dims.key; ++i) {
      scores[t] += double{q[i]} * keys.widened[t * dims.key + i] * kScale;
    }
    if (cap > 0) scores[t] = cap * std::tanh(scores[t] / cap);
    max = std::max(max, scores[t]);
  }
  double sum = 0;
  std::vector<double> out(dims.value);
  for (size_t t = range.begin; t < range.end; ++t) {
    const double weight = std::exp(scores[t] - max);
    sum += weight;
    for (size_t i = 0; i < dims.value; ++i) {
      out[i] += weight * values.widened[t * dims.value + i];
    }
  }
  for (double& value : out) value /= sum;
  return out;
}

class AttentionTest : public testing::TestWithParam<WeightType> {};

// Sums and exponentials in f32: scores of magnitude 30 are off by a few 1e-6,
// and so are, relatively, their weights. Values are about 1.
TEST_P(AttentionTest, IsSoftmaxWeightedSum) {
  for (const Dims dims :
       {Dims{2, 2}, Dims{20, 20}, Dims{32, 32}, Dims{64, 64}, Dims{96, 96},
        Dims{128, 128}, Dims{160, 160}, Dims{16, 48}, Dims{48, 16},
        Dims{102, 80}, Dims{8, 112}}) {
    for (const size_t heads : {1, 2, 3, 4, 7, 8}) {
      const std::vector<float> q = RandomQueries(heads * dims.key);
      for (const Range range :
           {Range{0, 1}, Range{0, 2}, Range{0, 5}, Range{0, 16}, Range{0, 17},
            Range{0, 37}, Range{0, 64}, Range{0, 301}, Range{1, 2},
            Range{15, 16}, Range{3, 9}, Range{5, 32}, Range{15, 130}}) {
        const Stored keys =
            RandomPositions(GetParam(), Kind::kKeys, range, dims.key, 10);
        const Stored values =
            RandomPositions(GetParam(), Kind::kValues, range, dims.value, 11);
        const Attention run =
            RunAttention(GetParam(), heads, dims, range, keys, values, q);
        for (size_t head = 0; head < heads; ++head) {
          const std::vector<double> expected =
              Expected(&q[head * dims.key], keys, values, range, dims);
          for (size_t i = 0; i < dims.value; ++i) {
            ASSERT_NEAR(run.out[head * dims.value + i], expected[i], 3e-5)
                << dims.key << " and " << dims.value << " elements, head "
                << head << " of " << heads << ", positions " << range.begin
                << " to " << range.end;
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, CappedScores) {
  constexpr Dims kDims = {48, 32};
  constexpr size_t kHeads = 3;
  constexpr Range kRange = {5, 37};
  constexpr float kCap = 1.5f;
  const std::vector<float> q = RandomQueries(kHeads * kDims.key);
  const Stored keys =
      RandomPositions(GetParam(), Kind::kKeys, kRange, kDims.key, 10);
  const Stored values =
      RandomPositions(GetParam(), Kind::kValues, kRange, kDims.value, 11);
  const Attention run =
      RunAttention(GetParam(), kHeads, kDims, kRange, keys, values, q, kCap);
  for (size_t head = 0; head < kHeads; ++head) {
    const std::vector<double> expected =
        Expected(&q[head * kDims.key], keys, values, kRange, kDims, kCap);
    for (size_t i = 0; i < kDims.value; ++i) {
      ASSERT_NEAR(run.out[head * kDims.value + i], expected[i], 3e-5) << head;
    }
  }
}

// However many heads share a pass, results equal those of each head alone, bit
// for bit.
TEST_P(AttentionTest, HeadsDoNotChangeEachOther) {
  constexpr size_t kHeadDim = 96, kCount = 75, kHeads = 7;
  const Stored keys =
      RandomPositions(GetParam(), Kind::kKeys, {0, kCount}, kHeadDim, 1);
  const Stored values =
      RandomPositions(GetParam(), Kind::kValues, {0, kCount}, kHeadDim, 2);
  const std::vector<float> q = RandomQueries(kHeads * kHeadDim);
  const Attention all = RunAttention(GetParam(), kHeads, {kHeadDim, kHeadDim},
                                     {0, kCount}, keys, values, q);
  for (size_t head = 0; head < kHeads; ++head) {
    const auto begin = q.begin() + head * kHeadDim;
    const Attention one =
        RunAttention(GetParam(), 1, {kHeadDim, kHeadDim}, {0, kCount}, keys,
                     values, {begin, begin + kHeadDim});
    for (size_t i = 0; i < kHeadDim; ++i) {
      EXPECT_EQ(one.out[i], all.out[head * kHeadDim + i]) << head << " " << i;
    }
  }
}

// If all values are the same the result is that value, whatever the weights and
// however late the largest score comes.
TEST_P(AttentionTest, RisingScoresScaleWhatWasAddedUp) {
  constexpr size_t kHeadDim = 32, kCount = 100;
  Stored keys =
      RandomPositions(GetParam(), Kind::kKeys, {0, kCount}, kHeadDim, 3);
  Stored values =
      RandomPositions(GetParam(), Kind::kValues, {0, kCount}, kHeadDim, 4);
  std::fill_n(keys.scales.begin(), kCount, 1.0f);
  std::fill_n(values.scales.begin(), kCount, 1.0f);
  WithType<kKvTypes>(GetParam(), [&](auto constant) {
    for (size_t t = 0; t < kCount; ++t) {
      for (size_t i = 0; i < kHeadDim; ++i) {
        keys.Put<constant>(t, i, static_cast<float>(t));
        values.Put<constant>(t, i, 5);
      }
    }
  });
  const std::vector<float> q(kHeadDim, 0.5f);
  const Attention run = RunAttention(GetParam(), 1, {kHeadDim, kHeadDim},
                                     {0, kCount}, keys, values, q);
  for (const float value : run.out) EXPECT_NEAR(value, 5, 1e-5);
}

// What is stored for positions that are not attended does not matter: after
// half a block of values lies the next position, and keys are read in groups.
TEST_P(AttentionTest, OtherPositionsDoNotMatter) {
  constexpr size_t kDim = 48, kCount = 40;
  constexpr Range kSeen = {3, 23};
  const std::vector<float> q = RandomQueries(kDim);
  const Stored keys =
      RandomPositions(GetParam(), Kind::kKeys, {0, kCount}, kDim, 5);
  const Stored values =
      RandomPositions(GetParam(), Kind::kValues, {0, kCount}, kDim, 6);
  Stored other_keys = keys, other_values = values;
  for (size_t t = 0; t < kCount; ++t) {
    if (t >= kSeen.begin && t < kSeen.end) continue;
    WithType<kKvTypes>(GetParam(), [&](auto constant) {
      for (size_t i = 0; i < kDim; ++i) {
        const float value = IsQuantized(constant) ? 127 : NAN;
        other_keys.Put<constant>(t, i, value);
        other_values.Put<constant>(t, i, value);
      }
    });
    other_keys.scales[t] = other_values.scales[t] = NAN;
  }
  EXPECT_EQ(
      RunAttention(GetParam(), 1, {kDim, kDim}, kSeen, keys, values, q).out,
      RunAttention(GetParam(), 1, {kDim, kDim}, kSeen, other_keys, other_values,
                   q)
          .out);
}

TEST_P(AttentionTest, NanInAKeyOrAValueShows) {
  constexpr size_t kHeadDim = 32, kCount = 40;
  const std::vector<float> q = RandomQueries(kHeadDim);
  const Stored keys =
      RandomPositions(GetParam(), Kind::kKeys, {0, kCount}, kHeadDim, 5);
  const Stored values =
      RandomPositions(GetParam(), Kind::kValues, {0, kCount}, kHeadDim, 5);
  const auto with_nan = [&](Stored stored) {
    if (IsQuantized(GetParam())) {
      stored.scales[21] = NAN;
      return stored;
    }
    WithType<kKvTypes>(GetParam(), [&](auto constant) {
      for (size_t i = 0; i < kHeadDim; ++i) stored.Put<constant>(21, i, NAN);
    });
    return stored;
  };
  for (const float value : RunAttention(GetParam(), 1, {kHeadDim, kHeadDim},
                                        {0, kCount}, with_nan(keys), values, q)
                               .out) {
    EXPECT_TRUE(std::isnan(value));
  }
  for (const float value : RunAttention(GetParam(), 1, {kHeadDim, kHeadDim},
                                        {0, kCount}, keys, with_nan(values), q)
                               .out) {
    EXPECT_TRUE(std::isnan(value));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AttentionTest, testing::ValuesIn(kKvTypes),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

}  // namespace
}  // namespace rankforge
