// Mask producers: time per call and per value, by length and density. Values
// are in cache, as a layer leaves its outputs.
//
//   mask_bench --benchmark_filter='/11008/density:50$'
//              --benchmark_repetitions=9
//              --benchmark_enable_random_interleaving=true
//
// Names are PRODUCER/FORMS/COUNT/density:PERCENT.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bench/roofline.h"
#include "kernels/layer/activation.h"
#include "kernels/mask/mask.h"
#include "runtime/plan/plan.h"

namespace rankforge {
namespace {

constexpr size_t kCounts[] = {4096, 11008, 14336};
constexpr int kDensityPercents[] = {10, 30, 50, 90};

struct NamedArrays {
  const char* name;
  MaskArrays arrays;
};
// What kernels read: rows, columns by list, by bitset or zeroed, by prefix.
constexpr NamedArrays kArrays[] = {{"bits", {false, false, false}},
                                   {"index", {true, false, false}},
                                   {"list", {true, true, false}},
                                   {"zeroed", {false, false, true}},
                                   {"all", {}}};

// Values, a threshold that keeps `density` of them, and the mask in every form
// that a caller may have it in.
struct Workload {
  Workload(size_t count, double density)
      : values(count),
        mu(count, 0.01f),
        tau(count),
        gated(count),
        gated_tau(count),
        k(static_cast<size_t>(density * static_cast<double>(count))),
        bytes(count),
        scratch(count),
        outside(count) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random);
    Activate(Activation::kSilu, values.data(), values.data(), count,
             gated.data());
    FitTo(gated, gated_tau);
    FitTo(values, tau);
    for (size_t i = 0; i < mask.kept; ++i) bytes[mask.index[i]] = 1;
  }
  // The mask of the k largest of `of`, and the threshold that makes it.
  void FitTo(const std::vector<float>& of, std::vector<float>& threshold) {
    mask = MakeTopKMask(of.data(), of.size(), {.k = k}, outside.storage());
    float smallest = INFINITY;
    for (size_t i = 0; i < mask.kept; ++i) {
      smallest = std::fmin(smallest, std::fabs(mask.value[i]));
    }
    std::fill(threshold.begin(), threshold.end(), smallest);
  }

  std::vector<float> values, mu, tau;
  std::vector<float> gated;  // act(value) * value
  std::vector<float> gated_tau;
  size_t k;
  std::vector<uint8_t> bytes;
  MaskScratch scratch;  // what the timed producer writes
  MaskScratch outside;
  MaskView mask;  // in `outside`
};

using Producer = size_t (*)(Workload&, const MaskArrays&);

struct NamedProducer {
  const char* name;
  Producer run;
};

// The mask from the bits of the workload, over groups of neighbours.
size_t FromBits(Workload& w, const MaskArrays& arrays, size_t granularity) {
  return MaskFromBits(w.mask.bits, w.values.data(), w.values.size(),
                      granularity, w.scratch.storage(), arrays)
      .kept;
}

constexpr NamedProducer kProducers[] = {
    {"threshold",
     [](Workload& w, const MaskArrays& arrays) {
       return MakeMask(w.values.data(), w.values.size(), {.tau = w.tau.data()},
                       w.scratch.storage(), arrays)
           .kept;
     }},
    {"threshold_mu",
     [](Workload& w, const MaskArrays& arrays) {
       return MakeMask(w.values.data(), w.values.size(),
                       {.tau = w.tau.data(), .mu = w.mu.data()},
                       w.scratch.storage(), arrays)
           .kept;
     }},
    {"threshold_g8",
     [](Workload& w, const MaskArrays& arrays) {
       return MakeGroupMask(w.values.data(), w.values.size(), 8,
                            {.tau = w.tau.data()}, w.scratch.storage(), arrays)
           .kept;
     }},
    // act(gate) * up and its threshold, in one pass and in two.
    {"gated",
     [](Workload& w, const MaskArrays& arrays) {
       return MakeGatedMask({w.values.data(), w.values.data()}, w.values.size(),
                            {.tau = w.gated_tau.data()}, w.scratch.storage(),
                            arrays)
           .kept;
     }},
    {"gated_apart",
     [](Workload& w, const MaskArrays& arrays) {
       Activate(Activation::kSilu, w.values.data(), w.values.data(),
                w.values.size(), w.gated.data());
       return MakeMask(w.gated.data(), w.gated.size(),
                       {.tau = w.gated_tau.data()}, w.scratch.storage(), arrays)
           .kept;
     }},
    {"top_k",
     [](Workload& w, const MaskArrays& arrays) {
       return MakeTopKMask(w.values.data(), w.values.size(), {.k = w.k},
                           w.scratch.storage(), arrays)
           .kept;
     }},
    {"from_bits_g1",
     [](Workload& w, const MaskArrays& arrays) {
       return FromBits(w, arrays, 1);
     }},
    {"from_bits_g8",
     [](Workload& w, const MaskArrays& arrays) {
       return FromBits(w, arrays, 8);
     }},
    {"from_bits_g32",
     [](Workload& w, const MaskArrays& arrays) {
       return FromBits(w, arrays, 32);
     }},
    {"from_bytes",
     [](Workload& w, const MaskArrays& arrays) {
       return MaskFromBytes(w.bytes.data(), w.values.data(), w.values.size(), 1,
                            w.scratch.storage(), arrays)
           .kept;
     }},
    {"from_index", [](Workload& w, const MaskArrays& arrays) {
       return MaskFromIndex(w.mask.index, w.mask.kept, w.values.data(),
                            w.values.size(), 1, w.scratch.storage(), arrays)
           .kept;
     }}};

// body(workload) as benchmark `name`.
template <class Body>
void Register(const std::string& name, size_t count, int percent, Body body) {
  const auto run = [=](benchmark::State& state) {
    Workload workload(count, percent / 100.0);
    for (auto _ : state) {
      benchmark::DoNotOptimize(body(workload));
      benchmark::ClobberMemory();
    }
    state.counters["s_per_value"] =
        benchmark::Counter(static_cast<double>(count),
                           benchmark::Counter::kIsIterationInvariantRate |
                               benchmark::Counter::kInvert);
  };
  benchmark::RegisterBenchmark(
      fmt::format("{}/{}/density:{}", name, count, percent).c_str(), run)
      ->Unit(benchmark::kNanosecond);
}

void RegisterAll() {
  for (const NamedProducer& producer : kProducers) {
    for (const NamedArrays& arrays : kArrays) {
      for (const size_t count : kCounts) {
        for (const int percent : kDensityPercents) {
          Register(fmt::format("{}/{}", producer.name, arrays.name), count,
                   percent, [&producer, &arrays](Workload& w) {
                     return producer.run(w, arrays.arrays);
                   });
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
