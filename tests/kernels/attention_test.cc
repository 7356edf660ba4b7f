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

// Cached positions of one KV head, as stored and as the kernel must read them.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<double> widened;  // (count, head_dim)
};

// Elements of ordinary size; integers are drawn, their scales too.
Stored RandomPositions(WeightType type, size_t count, size_t head_dim,
                       unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> integer(-127, 127);
  Stored stored;
  // NaN in what follows, and room to align.
  stored.bytes.assign(count * KvStride(type, head_dim) + kKvSlack + kCacheLine,
                      std::byte{255});
  std::fill_n(stored.bytes.begin(), count * KvStride(type, head_dim),
              std::byte{0});
  stored.scales.assign(RoundUp(count, kAttentionBlock), 1e30f);  // unused ones
  for (size_t t = 0; t < count; ++t) {
    stored.scales[t] = IsQuantized(type) ? 0.01f * std::abs(normal(random)) : 1;
    for (size_t i = 0; i < head_dim; ++i) {
      const float value = IsQuantized(type)
                              ? static_cast<float>(integer(random))
                              : normal(random);
      WithType<kKvTypes>(type, [&](auto constant) {
        const size_t place = KvPlace(type, head_dim, i);
        std::byte* block = stored.bytes.data() + t * KvStride(type, head_dim) +
                           place / kBlock * BlockBytes(type);
        StoreWeight<constant>(value, block, place % kBlock);
        stored.widened.push_back(
            double{StoredWeight<constant>(block, place % kBlock)} *
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

Attention RunAttention(WeightType type, size_t heads, Dims dims, size_t count,
                       const Stored& keys, const Stored& values,
                       const std::vector<float>& q, float cap = 0) {
  Attention run{q, std::vector<float>(heads * dims.value), keys, values};
  std::vector<float> scratch(AttentionScratchSize(heads, dims.key, dims.value),
                             NAN);
  Attend(type, {.q = run.q.data(),
                .heads = heads,
                .key_dim = dims.key,
                .value_dim = dims.value,
                .keys = Aligned(run.keys),
                .values = Aligned(run.values),
                .key_scales = keys.scales.data(),
                .value_scales = values.scales.data(),
                .count = count,
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
                             const Stored& values, size_t count, Dims dims,
                             double cap = 0) {
  std::vector<double> scores(count);
  double max = -std::numeric_limits<double>::infinity();
  for (size_t t = 0; t < count; ++t) {
    for (size_t i = 0; i < dims.key; ++i) {
      scores[t] += double{q[i]} * keys.widened[t * dims.key + i] * kScale;
    }
    if (cap > 0) scores[t] = cap * std::tanh(scores[t] / cap);
    max = std::max(max, scores[t]);
  }
  double sum = 0;
  std::vector<double> out(dims.value);
  for (size_t t = 0; t < count; ++t) {
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
      for (const size_t count : {1, 2, 5, 16, 17, 37, 64, 301}) {
        const Stored keys = RandomPositions(GetParam(), count, dims.key, 10);
        const Stored values =
            RandomPositions(GetParam(), count, dims.value, 11);
        const Attention run =
            RunAttention(GetParam(), heads, dims, count, keys, values, q);
        for (size_t head = 0; head < heads; ++head) {
          const std::vector<double> expected =
              Expected(&q[head * dims.key], keys, values, count, dims);
          for (size_t i = 0; i < dims.value; ++i) {
            ASSERT_NEAR(run.out[head * dims.value + i], expected[i], 3e-5)
                << dims.key << " and " << dims.value << " elements, head "
                << head << " of " << heads << ", " << count << " positions";
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, CappedScores) {
  constexpr Dims kDims = {48, 32};
  constexpr size_t kHeads = 3, kCount = 37;
  constexpr float kCap = 1.5f;
  const std::vector<float> q = RandomQueries(kHeads * kDims.key);
  const Stored keys = RandomPositions(GetParam(), kCount, kDims.key, 10);
  const Stored values = RandomPositions(GetParam(), kCount, kDims.value, 11);
  const Attention run =
      RunAttention(GetParam(), kHeads, kDims, kCount, keys, values, q, kCap);
  for (size_t head = 0; head < kHeads; ++head) {
    const std::vector<double> expected =
        Expected(&q[head * kDims.key], keys, values, kCount, kDims, kCap);
    for (size_t i = 0; i < kDims.value; ++i) {
      ASSERT_NEAR(run.out[head * kDims.value + i], expected[i], 3e-5) << head;
    }
  }
}

// However many heads share a pass, results equal those of each head alone, bit
// for bit.
TEST_P(AttentionTest, HeadsDoNotChangeEachOther) {
  constexpr size_t kHeadDim = 96, kCount = 75, kHeads = 7;
  const Stored keys = RandomPositions(GetParam(), kCount, kHeadDim, 1);
  const Stored values = RandomPositions(GetParam(), kCount, kHeadDim, 2);
  const std::vector<float> q = RandomQueries(kHeads * kHeadDim);
  const Attention all = RunAttention(GetParam(), kHeads, {kHeadDim, kHeadDim},
                                     kCount, keys, values, q);
  for (size_t head = 0; head < kHeads; ++head) {
    const auto begin = q.begin() + head * kHeadDim;
    const Attention one =
        RunAttention(GetParam(), 1, {kHeadDim, kHeadDim}, kCount, keys, values,
                     {begin, begin + kHeadDim});
    for (size_t i = 0; i < kHeadDim; ++i) {
      EXPECT_EQ(one.out[i], all.out[head * kHeadDim + i]) << head << " " << i;
    }
  }
}

// If all values are the same the result is that value, whatever the weights and
// however late the largest score comes.
TEST_P(AttentionTest, RisingScoresScaleWhatWasAddedUp) {
  constexpr size_t kHeadDim = 32, kCount = 100;
  Stored keys = RandomPositions(GetParam(), kCount, kHeadDim, 3);
  Stored values = RandomPositions(GetParam(), kCount, kHeadDim, 4);
  std::fill_n(keys.scales.begin(), kCount, 1.0f);
  std::fill_n(values.scales.begin(), kCount, 1.0f);
  WithType<kKvTypes>(GetParam(), [&](auto constant) {
    for (size_t t = 0; t < kCount; ++t) {
      const size_t row = t * KvStride(constant, kHeadDim);
      for (size_t i = 0; i < kHeadDim; ++i) {
        StoreWeight<constant>(static_cast<float>(t), &keys.bytes[row], i);
        StoreWeight<constant>(5, &values.bytes[row], i);
      }
    }
  });
  const std::vector<float> q(kHeadDim, 0.5f);
  const Attention run = RunAttention(GetParam(), 1, {kHeadDim, kHeadDim},
                                     kCount, keys, values, q);
  for (const float value : run.out) EXPECT_NEAR(value, 5, 1e-5);
}

// After half a block lies the next position.
TEST_P(AttentionTest, HalvesOfBlocksKeepToThemselves) {
  constexpr size_t kDim = 48, kCount = 20, kSeen = 7;
  const std::vector<float> q = RandomQueries(kDim);
  const Stored keys = RandomPositions(GetParam(), kCount, kDim, 5);
  const Stored values = RandomPositions(GetParam(), kCount, kDim, 6);
  Stored other = keys;
  const size_t seen = kSeen * KvStride(GetParam(), kDim);
  std::fill(other.bytes.begin() + seen, other.bytes.end(), std::byte{255});
  EXPECT_EQ(
      RunAttention(GetParam(), 1, {kDim, kDim}, kSeen, keys, values, q).out,
      RunAttention(GetParam(), 1, {kDim, kDim}, kSeen, other, values, q).out);
}

TEST_P(AttentionTest, NanInAKeyOrAValueShows) {
  constexpr size_t kHeadDim = 32, kCount = 40;
  const std::vector<float> q = RandomQueries(kHeadDim);
  const Stored good = RandomPositions(GetParam(), kCount, kHeadDim, 5);
  Stored bad = good;
  if (IsQuantized(GetParam())) {
    bad.scales[21] = NAN;
  } else {
    WithType<kKvTypes>(GetParam(), [&](auto constant) {
      std::byte* row = &bad.bytes[21 * KvStride(constant, kHeadDim)];
      for (size_t i = 0; i < kHeadDim; ++i) StoreWeight<constant>(NAN, row, i);
    });
  }
  for (const float value :
       RunAttention(GetParam(), 1, {kHeadDim, kHeadDim}, kCount, bad, good, q)
           .out) {
    EXPECT_TRUE(std::isnan(value));
  }
  for (const float value :
       RunAttention(GetParam(), 1, {kHeadDim, kHeadDim}, kCount, good, bad, q)
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
