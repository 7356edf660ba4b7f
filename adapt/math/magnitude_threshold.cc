#include "adapt/math/magnitude_threshold.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// 31 bits in two digits: the first finds the bin, the second is left to
// nth_element over the few values of that bin.
constexpr uint32_t kDigitShift = 15;
constexpr size_t kBins = size_t{1} << (31 - kDigitShift);
constexpr size_t kPart = size_t{1} << 18;  // values per part, in cache

}  // namespace

float MagnitudeThreshold(std::span<const float> values, size_t count,
                         Executor& executor) {
  if (count == 0) return std::numeric_limits<float>::infinity();
  if (count >= values.size()) return 0;
  const size_t parts = (values.size() + kPart - 1) / kPart;
  const auto part_of = [&](size_t part) {
    return values.subspan(part * kPart,
                          std::min(kPart, values.size() - part * kPart));
  };

  // One histogram per worker: integer sums do not depend on who counted what.
  std::vector<std::vector<uint32_t>> counts(executor.threads(),
                                            std::vector<uint32_t>(kBins));
  ParallelFor(executor, parts, [&](size_t part, size_t worker) {
    for (const float v : part_of(part)) {
      ++counts[worker][MagnitudeBits(v) >> kDigitShift];
    }
  });
  size_t above = 0;
  size_t bin = kBins;
  for (size_t in_bin = 0;; above += in_bin) {
    --bin;
    in_bin = 0;
    for (const auto& histogram : counts) in_bin += histogram[bin];
    if (above + in_bin >= count) break;
  }

  std::vector<std::vector<uint32_t>> found(parts);
  ParallelFor(executor, parts, [&](size_t part, size_t) {
    for (const float v : part_of(part)) {
      const uint32_t bits = MagnitudeBits(v);
      if (bits >> kDigitShift == bin) found[part].push_back(bits);
    }
  });
  std::vector<uint32_t> candidates;
  for (const auto& part : found) {
    candidates.insert(candidates.end(), part.begin(), part.end());
  }
  const auto nth =
      candidates.begin() + static_cast<std::ptrdiff_t>(count - above - 1);
  std::nth_element(candidates.begin(), nth, candidates.end(), std::greater<>());
  return std::bit_cast<float>(*nth);
}

KeepStatistics SummarizeKept(const std::vector<uint32_t>& by_channel,
                             std::vector<uint32_t> by_token) {
  KeepStatistics statistics;
  const double channels = static_cast<double>(by_channel.size());
  const double tokens = static_cast<double>(by_token.size());
  double total = 0;
  for (const uint32_t kept : by_channel) {
    statistics.frequency.push_back(static_cast<float>(kept / tokens));
    total += kept;
  }
  statistics.density = total / (tokens * channels);
  std::sort(by_token.begin(), by_token.end());
  for (const auto& [name, q] : {std::pair{"0.05", 0.05},
                                {"0.25", 0.25},
                                {"0.5", 0.5},
                                {"0.75", 0.75},
                                {"0.95", 0.95}}) {
    const size_t i = static_cast<size_t>(q * (tokens - 1));
    statistics.density_quantiles[name] = by_token[i] / channels;
  }
  return statistics;
}

}  // namespace rankforge
