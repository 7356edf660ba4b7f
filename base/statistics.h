// What a handful of noisy timings say.
#ifndef RANKFORGE_BASE_STATISTICS_H_
#define RANKFORGE_BASE_STATISTICS_H_

#include <cstddef>
#include <span>
#include <vector>

namespace rankforge {

// Nanoseconds of one call, over n samples.
struct Timing {
  double median = 0;
  double mad = 0;
  double min = 0;
  size_t n = 0;
};

// The middle value, or the mean of the two in the middle; 0 for none.
double Median(std::vector<double> values);

// Median, not minimum: on a shared host the minimum is a lucky shot that no
// layer sees again. The minimum is kept beside it for people to look at.
Timing Summarise(std::span<const double> ns);

// The median over rounds of the time of `a` / the time of `b`, with its
// deviation. The machine drifts, so only times of one round are compared.
Timing PairedRatio(const std::vector<double>& a, const std::vector<double>& b);

// Two of the values, between which lies the median of what they are drawn from.
struct Interval {
  double low = 0;
  double high = 0;
};

// Each end is wrong with a chance of at most 5 %, whatever the distribution, as
// in the sign test: so far apart are the smallest and the largest of five to
// seven values. Fewer show nothing: the ends are infinite.
Interval MedianInterval(std::vector<double> values);

// A time and how far it may be off.
struct Estimate {
  double ns = 0;
  double error = 0;
};

// The median with its standard error, from the MAD as for normal noise.
Estimate EstimateOf(const Timing& timing);

// Whether the noise hides which one is lower. Differences above `margin` (a
// share of the lower one) are never ties, however noisy: a wide band would let
// a slow variant win by its place in the list.
bool Tied(const Estimate& a, const Estimate& b, double margin);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_STATISTICS_H_
