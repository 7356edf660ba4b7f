#include "kernels/gemv/read_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv/read_loops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/numbers/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// The sum of the cache line at `line`, so that it has to be read.
HWY_INLINE Vec AddLine(Vec sum, const char* HWY_RESTRICT line) {
  const FloatTag d;
  constexpr size_t kVectors = kCacheLine / sizeof(float) / LanesOf();
  Unroll<kVectors>([&](auto v) RANKFORGE_LAMBDA {
    sum = hn::Add(
        sum, hn::Load(d, reinterpret_cast<const float*>(line) + v * LanesOf()));
  });
  return sum;
}

template <size_t streams>
HWY_INLINE float Total(Vec* HWY_RESTRICT sum) {
  for (size_t s = 1; s < streams; ++s) sum[0] = hn::Add(sum[0], sum[s]);
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum[0]));
}

// Reads `streams` equal pieces side by side, a cache line of each in turn.
template <size_t streams>
float ReadStreams(const void* data, size_t bytes) {
  const size_t piece = bytes / streams / kCacheLine * kCacheLine;
  const char* HWY_RESTRICT begin = static_cast<const char*>(data);
  Vec sum[streams];
  for (size_t s = 0; s < streams; ++s) sum[s] = hn::Zero(FloatTag());
  for (size_t i = 0; i < piece; i += kCacheLine) {
    Unroll<streams>([&](auto s) RANKFORGE_LAMBDA {
      sum[s] = AddLine(sum[s], begin + s * piece + i);
    });
  }
  return Total<streams>(sum);
}

// Reads `streams` neighbouring runs of 8 KiB side by side, then as many of the
// next, and fetches lines as far ahead as the kernels do. No other order of
// those tried reads more per second.
template <size_t streams>
float ReadRuns(const void* data, size_t bytes) {
  constexpr size_t kRun = 8192;
  static_assert(kReadLoopBytes % (streams * kRun) == 0);
  constexpr size_t kAhead = AheadBytes(Prefetch::kAhead);
  const char* HWY_RESTRICT run = static_cast<const char*>(data);
  Vec sum[streams];
  for (size_t s = 0; s < streams; ++s) sum[s] = hn::Zero(FloatTag());
  const char* const end = run + bytes / (streams * kRun) * (streams * kRun);
  for (; run < end; run += streams * kRun) {
    const auto read_until = [&](size_t& i, size_t end,
                                size_t ahead) RANKFORGE_LAMBDA {
      for (; i < end; i += kCacheLine) {
        Unroll<streams>([&](auto s) RANKFORGE_LAMBDA {
          const char* line = run + s * kRun + i;
          __builtin_prefetch(line + ahead, 0, 3);
          sum[s] = AddLine(sum[s], line);
        });
      }
    };
    size_t i = 0;
    read_until(i, kRun - kAhead, kAhead);
    // Near the end of a run: the run that comes `streams` further on.
    read_until(i, kRun, kAhead + (streams - 1) * kRun);
  }
  return Total<streams>(sum);
}

std::span<const ReadLoop> ReadLoopsOfTarget() {
  static constexpr ReadLoop kLoops[] = {
      {"streams1", &ReadStreams<1>},    {"streams2", &ReadStreams<2>},
      {"streams4", &ReadStreams<4>},    {"streams8", &ReadStreams<8>},
      {"runs1_prefetch", &ReadRuns<1>}, {"runs2_prefetch", &ReadRuns<2>},
      {"runs4_prefetch", &ReadRuns<4>}, {"runs8_prefetch", &ReadRuns<8>}};
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
