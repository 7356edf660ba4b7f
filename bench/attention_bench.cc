// Attention of one layer for the newest token: rotation, the store of its key
// and value, and the pass over the cache, with useful bandwidth and roofline.
//
//   attention_bench --benchmark_filter='llama-2-7b/bf16/context:4096/'
//                   --benchmark_repetitions=9
//                   --benchmark_enable_random_interleaving=true
//
// Calls walk through the layers of a cache that together are four times the
// last-level cache (at least 256 MiB). Useful bytes are the keys and values of
// all positions, once, with their scales.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/affinity.h"
#include "bench/gemv_case.h"
#include "bench/roofline.h"
#include "runtime/model/forward/attention.h"
#include "runtime/threads/executor.h"

namespace rankforge {
namespace {

struct Shape {
  const char* name;
  size_t heads;
  size_t kv_heads;
  size_t head_dim;
};
constexpr Shape kShapes[] = {{"llama-2-7b", 32, 32, 128},
                             {"llama-3-8b", 32, 8, 128},
                             {"tinyllama-1.1b", 32, 4, 64}};
constexpr size_t kContexts[] = {256, 1024, 4096};

double LayerBytes(const Shape& shape, WeightType type, size_t context) {
  const double scale = IsQuantized(type) ? sizeof(float) : 0;
  return 2.0 * static_cast<double>(shape.kv_heads * context) *
         (static_cast<double>(BlockBytes(type, shape.head_dim)) + scale);
}

// A cache with `context` random positions in every layer.
struct BenchCache {
  ModelConfig config;
  KvCache cache;

  BenchCache(const ModelConfig& of, WeightType type, size_t context)
      : config(of), cache(config, type, context) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(1 << 16);
    for (float& value : values) value = normal(random);
    const size_t starts = values.size() - config.head_dim;
    for (size_t layer = 0; layer < config.layers; ++layer) {
      for (size_t head = 0; head < config.kv_heads; ++head) {
        for (size_t position = 0; position < context; ++position) {
          cache.Store(layer, head, position, &values[random() % starts],
                      &values[random() % starts]);
        }
      }
    }
    cache.Advance(context - 1);  // the newest one is stored anew
  }
};

// There is one cache at a time: a benchmark of another kind replaces it.
BenchCache& CacheFor(const Shape& shape, WeightType type, size_t context) {
  static std::string current;
  static std::unique_ptr<BenchCache> cache;
  const std::string key =
      fmt::format("{}/{}/{}", shape.name, Name(type), context);
  if (key != current) {
    cache.reset();
    ModelConfig config;
    config.heads = shape.heads;
    config.kv_heads = shape.kv_heads;
    config.head_dim = shape.head_dim;
    config.layers =
        ColdBytes() / static_cast<size_t>(LayerBytes(shape, type, context)) + 1;
    cache = std::make_unique<BenchCache>(config, type, context);
    current = key;
  }
  return *cache;
}

void RunAttention(benchmark::State& state, const Shape& shape, WeightType type,
                  size_t context, size_t threads) {
  auto& [config, cache] = CacheFor(shape, type, context);
  const auto executor = MakeDefaultExecutor(threads);
  AttentionScratch scratch;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(config.qkv_rows(0)), out(config.o_cols(0));
  for (float& value : qkv) value = normal(random);
  // Measured before this thread is pinned, which would leave it one CPU.
  static_cast<void>(ReadGbps(threads));
  // Goes on from the last call, to the layer that was read longest ago.
  static size_t visit = 0;
  {
    // The helpers keep to their CPUs, and so does this thread.
    const PinnedHere pin(UsableCpus().front());
    RunWithRoofline(
        state, LayerBytes(shape, type, context), threads, true, [&] {
          CausalAttention(config, visit++ % config.layers, 1, qkv.data(), cache,
                          *executor, scratch, out.data());
        });
  }
}

void RegisterAll() {
  for (const Shape& shape : kShapes) {
    for (const WeightType type : kKvTypes) {
      for (const size_t context : kContexts) {
        for (const size_t threads : {1, 2}) {
          const std::string name =
              fmt::format("{}/{}/context:{}/threads:{}", shape.name, Name(type),
                          context, threads);
          benchmark::RegisterBenchmark(name.c_str(),
                                       [=, &shape](benchmark::State& state) {
                                         RunAttention(state, shape, type,
                                                      context, threads);
                                       })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  rankforge::RegisterAll();
  return rankforge::RunBenchmarks(argc, argv);
}
