// Keys and values as they are stored, and attention over them.
#include "runtime/model/forward/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/model/forward/attention.h"
#include "runtime/threads/executor.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

ModelConfig ConfigOf(size_t heads, size_t kv_heads, size_t head_dim) {
  ModelConfig config;
  config.layers = 2;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  return config;
}

class KvCacheTest : public testing::TestWithParam<WeightType> {};

// The largest error of a value where the largest magnitude of the position is
// `largest`: half of the last bit kept, or half a step and the f32 rounding of
// scale and product.
float Bound(WeightType type, float value, float largest) {
  switch (type) {
    case WeightType::kF32:
      return 0;
    case WeightType::kBf16:
      return std::abs(value) * 0x1p-8f;
    case WeightType::kF16:
      return std::max(std::abs(value) * 0x1p-11f, 0x1p-25f);
    default:
      return largest / 254 * (1 + 1e-4f);
  }
}

TEST_P(KvCacheTest, StoresEveryPositionWithinTheBound) {
  for (const size_t dim : {2, 20, 64, 96, 128}) {
    const ModelConfig config = ConfigOf(4, 2, dim);
    constexpr size_t kCapacity = 19;
    KvCache cache(config, GetParam(), kCapacity);
    // All of them first, so that one that writes beside its place shows.
    const size_t runs = config.layers * config.kv_heads * kCapacity;
    const std::vector<float> keys = RandomVector(runs * dim, 1);
    const std::vector<float> values = RandomVector(runs * dim, 2);
    const auto place = [&](size_t layer, size_t head, size_t position) {
      return ((layer * config.kv_heads + head) * kCapacity + position) * dim;
    };
    const auto for_each = [&](auto body) {
      for (size_t layer = 0; layer < config.layers; ++layer) {
        for (size_t head = 0; head < config.kv_heads; ++head) {
          for (size_t t = 0; t < kCapacity; ++t) body(layer, head, t);
        }
      }
    };
    for_each([&](size_t layer, size_t head, size_t t) {
      cache.Store(layer, head, t, &keys[place(layer, head, t)],
                  &values[place(layer, head, t)]);
    });
    std::vector<float> read_keys(kCapacity * dim), read_values(kCapacity * dim);
    for_each([&](size_t layer, size_t head, size_t t) {
      cache.Widen(layer, head, t + 1, read_keys.data(), read_values.data());
      const auto check = [&](const std::vector<float>& stored,
                             const std::vector<float>& read) {
        const auto from = stored.begin() + place(layer, head, t);
        float largest = 0;
        for (size_t i = 0; i < dim; ++i) {
          largest = std::max(largest, std::abs(from[i]));
        }
        for (size_t i = 0; i < dim; ++i) {
          ASSERT_LE(std::abs(read[t * dim + i] - from[i]),
                    Bound(GetParam(), from[i], largest));
        }
      };
      check(keys, read_keys);
      check(values, read_values);
    });
  }
}

TEST_P(KvCacheTest, ZerosStayZerosAndWhatIsNotFiniteShows) {
  constexpr size_t kDim = 20;
  const ModelConfig config = ConfigOf(1, 1, kDim);
  KvCache cache(config, GetParam(), 3);
  const std::vector<float> zeros(kDim);
  std::vector<float> bad = RandomVector(kDim, 3);
  cache.Store(0, 0, 0, zeros.data(), zeros.data());
  bad[7] = std::numeric_limits<float>::infinity();
  cache.Store(0, 0, 1, bad.data(), zeros.data());
  bad[7] = std::numeric_limits<float>::quiet_NaN();
  cache.Store(0, 0, 2, zeros.data(), bad.data());
  std::vector<float> keys(3 * kDim), values(3 * kDim);
  cache.Widen(0, 0, 3, keys.data(), values.data());
  for (size_t i = 0; i < kDim; ++i) {
    EXPECT_EQ(keys[i], 0);
    EXPECT_EQ(values[kDim + i], 0);
    EXPECT_EQ(keys[2 * kDim + i], 0);
  }
  EXPECT_FALSE(std::isfinite(keys[kDim + 7]));
  EXPECT_TRUE(std::isnan(values[2 * kDim + 7]));
}

// Decoding position by position: the same bits on any number of threads and,
// within the rounding of f32 sums, what a prefill of all of them gives.
TEST_P(KvCacheTest, ThreadsAgreeAndSoDoesPrefill) {
  constexpr size_t kTokens = 70;
  for (const size_t dim : {20, 64, 96}) {
    // Enough heads that the last positions are shared out: KV heads that the
    // threads divide, and others, whose query heads are shared out.
    struct Case {
      size_t heads, kv_heads, window;
    };
    for (const auto& [heads, kv_heads, window] :
         {Case{64, 64, 0}, Case{64, 32, 0}, Case{64, 16, 0}, Case{64, 8, 0},
          Case{60, 3, 0}, Case{60, 1, 0}, Case{60, 3, 33}}) {
      ModelConfig config = ConfigOf(heads, kv_heads, dim);
      config.window = window;
      const std::vector<float> qkv =
          RandomVector(kTokens * config.qkv_rows(0), 4);
      std::vector<float> whole(kTokens * config.q_rows(0));
      AttentionScratch scratch;
      {
        KvCache cache(config, GetParam(), kTokens);
        std::vector<float> in = qkv;
        const auto executor = MakeSerialExecutor();
        CausalAttention(config, 1, kTokens, in.data(), cache, *executor,
                        scratch, whole.data());
      }
      std::vector<float> first;
      for (const size_t threads : {1, 2, 3, 5}) {
        KvCache cache(config, GetParam(), kTokens);
        std::vector<float> in = qkv, out(whole.size());
        const auto executor = MakeDefaultExecutor(threads);
        for (size_t t = 0; t < kTokens; ++t) {
          CausalAttention(config, 1, 1, &in[t * config.qkv_rows(0)], cache,
                          *executor, scratch, &out[t * config.q_rows(0)]);
          cache.Advance(1);
        }
        if (threads == 1) first = out;
        ASSERT_EQ(out, first) << threads << " threads";

        // The last ones together.
        constexpr size_t kTogether = 5;
        constexpr size_t kAlone = kTokens - kTogether;
        cache.Truncate(kAlone);
        in = qkv;
        std::fill(out.begin() + kAlone * config.q_rows(0), out.end(), 0.0f);
        DecodeAttention(config, 1, kTogether, &in[kAlone * config.qkv_rows(0)],
                        cache, *executor, &out[kAlone * config.q_rows(0)]);
        ASSERT_EQ(out, first) << threads << " threads, together";
      }
      for (size_t i = 0; i < whole.size(); ++i) {
        ASSERT_NEAR(whole[i], first[i], 2e-5f) << dim << " " << kv_heads;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, KvCacheTest, testing::ValuesIn(kKvTypes),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

}  // namespace
}  // namespace rankforge
