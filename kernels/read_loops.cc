#include "kernels/read_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/read_loops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// `streams` equal pieces are read side by side, a cache line of each in turn.
template <size_t streams, bool prefetch>
float ReadStreams(const void* data, size_t bytes) {
  // Far enough to cover DRAM latency at the rate of one core (about 100 ns at
  // 20 GB/s), and near enough to survive in L2.
  constexpr size_t kAhead = 4096;
  const FloatTag d;
  const size_t piece = bytes / streams / kCacheLine * kCacheLine;
  const char* HWY_RESTRICT begin = static_cast<const char*>(data);
  Vec sum[streams];
  for (size_t s = 0; s < streams; ++s) sum[s] = hn::Zero(d);
  constexpr size_t kVectors = kCacheLine / sizeof(float) / LanesOf();
  for (size_t i = 0; i < piece; i += kCacheLine) {
    Unroll<streams>([&](auto s) RANKFORGE_LAMBDA {
      const char* line = begin + s * piece + i;
      if constexpr (prefetch) __builtin_prefetch(line + kAhead, 0, 2);
      Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
        sum[s] = hn::Add(
            sum[s],
            hn::Load(d, reinterpret_cast<const float*>(line) + v * LanesOf()));
      });
    });
  }
  for (size_t s = 1; s < streams; ++s) sum[0] = hn::Add(sum[0], sum[s]);
  return hn::GetLane(hn::SumOfLanes(d, sum[0]));
}

std::span<const ReadLoop> ReadLoopsOfTarget() {
  static constexpr ReadLoop kLoops[] = {
      {"streams1", &ReadStreams<1, false>},
      {"streams1_prefetch", &ReadStreams<1, true>},
      {"streams2", &ReadStreams<2, false>},
      {"streams2_prefetch", &ReadStreams<2, true>},
      {"streams4", &ReadStreams<4, false>},
      {"streams4_prefetch", &ReadStreams<4, true>},
      {"streams8", &ReadStreams<8, false>},
      {"streams8_prefetch", &ReadStreams<8, true>}};
  return kLoops;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(ReadLoopsOfTarget);
std::span<const ReadLoop> ReadLoops() {
  return HWY_DYNAMIC_DISPATCH(ReadLoopsOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
