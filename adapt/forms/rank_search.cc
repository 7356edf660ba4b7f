#include "adapt/forms/rank_search.h"

#include <algorithm>
#include <bit>
#include <map>

#include "adapt/math/magnitude_threshold.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// 64 bins per octave of |z| (a bin is 1 % wide), for the 32 octaves below the
// largest value. Smaller values share the last bin: they add nothing that
// counts to the coverage.
constexpr uint32_t kBinShift = 17;
constexpr size_t kBins = size_t{64} * 32;

}  // namespace

double RankCost(size_t rows, size_t cols, size_t d, double kept,
                const CostModel& costs) {
  return (costs.Dense(d, cols) + costs.Masked(rows, kept)) /
         costs.Dense(rows, cols);
}

RankSearch::RankSearch(const Matrix<float>& z, size_t rows, size_t cols,
                       const RankGrid& grid, Executor& executor)
    : rows_(rows), cols_(cols), tokens_(z.cols), grid_(grid) {
  const size_t rank = z.rows;
  std::map<size_t, bool> searched;  // by d
  for (size_t d = InnerMultiple(0); grid.round && d < rank;
       d += InnerMultiple(d)) {
    searched[d] = false;
  }
  for (size_t d = rank; d > 0; d -= std::min(d, grid.step)) searched[d] = true;

  for (const auto& [d, is_searched] : searched) {
    candidates_.push_back({d, is_searched, std::vector<uint64_t>(kBins),
                           std::vector<double>(kBins)});
  }
  for (const float v : z.values) top_ = std::max(top_, MagnitudeBits(v));
  top_ >>= kBinShift;
  // Ranks between two neighbouring candidates are one part.
  ParallelFor(executor, candidates_.size(), [&](size_t i, size_t) {
    Candidate& candidate = candidates_[i];
    const size_t begin = i == 0 ? 0 : candidates_[i - 1].d;
    for (const float* v = z.row(begin); v != z.row(candidate.d); ++v) {
      const size_t bin =
          std::min<size_t>(top_ - (MagnitudeBits(*v) >> kBinShift), kBins - 1);
      ++candidate.count[bin];
      candidate.energy[bin] += static_cast<double>(*v) * *v;
    }
  });
  // First over candidates, then over bins.
  for (size_t i = 1; i < candidates_.size(); ++i) {
    for (size_t bin = 0; bin < kBins; ++bin) {
      candidates_[i].count[bin] += candidates_[i - 1].count[bin];
      candidates_[i].energy[bin] += candidates_[i - 1].energy[bin];
    }
  }
  for (Candidate& candidate : candidates_) {
    for (size_t bin = 1; bin < kBins; ++bin) {
      candidate.count[bin] += candidate.count[bin - 1];
      candidate.energy[bin] += candidate.energy[bin - 1];
    }
  }
  energy_ = candidates_.back().energy.back();
}

std::optional<RankChoice> RankSearch::At(const Candidate& candidate,
                                         double budget) const {
  const double d = static_cast<double>(candidate.d);
  // RankCost solved for the kept ranks.
  const CostModel& costs = grid_.costs;
  const double kept = costs.KeptFor(rows_, budget * costs.Dense(rows_, cols_) -
                                               costs.Dense(candidate.d, cols_));
  if (kept < 1 || kept >= d) return std::nullopt;
  const double wanted = kept * static_cast<double>(tokens_);
  const auto found =
      std::lower_bound(candidate.count.begin(), candidate.count.end(), wanted);
  const size_t bin = static_cast<size_t>(found - candidate.count.begin());
  const double count_above =
      bin == 0 ? 0 : static_cast<double>(candidate.count[bin - 1]);
  const double energy_above = bin == 0 ? 0 : candidate.energy[bin - 1];
  // The share of the last bin that is still taken.
  const double part = (wanted - count_above) /
                      (static_cast<double>(candidate.count[bin]) - count_above);
  const double coverage =
      (energy_above + part * (candidate.energy[bin] - energy_above)) / energy_;
  const uint32_t bin_bits = (top_ - static_cast<uint32_t>(bin)) << kBinShift;
  const uint32_t tau_bits =
      bin_bits + static_cast<uint32_t>((1 - part) * (1u << kBinShift));
  return RankChoice{.d = candidate.d,
                    .kept = kept,
                    .coverage = coverage,
                    .tau = std::bit_cast<float>(tau_bits),
                    .searched_d = candidate.d};
}

std::optional<RankChoice> RankSearch::Best(double budget) const {
  std::optional<RankChoice> best;
  for (const Candidate& candidate : candidates_) {
    if (!candidate.searched) continue;
    const std::optional<RankChoice> choice = At(candidate, budget);
    if (choice && (!best || choice->coverage > best->coverage)) best = choice;
  }
  if (!grid_.round) return best;
  // Takes the better neighbour among the multiples, or any multiple if the
  // search found nothing. All ranks are allowed, too: that adds no more
  // problems than there are layer shapes.
  std::optional<RankChoice> rounded;
  for (const Candidate& candidate : candidates_) {
    const size_t multiple = InnerMultiple(candidate.d);
    const bool allowed =
        candidate.d % multiple == 0 || candidate.d == candidates_.back().d;
    const bool near = !best || (candidate.d < best->d + multiple &&
                                best->d < candidate.d + multiple);
    if (!allowed || !near) continue;
    const std::optional<RankChoice> choice = At(candidate, budget);
    if (choice && (!rounded || choice->coverage > rounded->coverage)) {
      rounded = choice;
    }
  }
  if (!rounded || !best) return rounded;
  rounded->searched_d = best->d;
  rounded->rounding_loss = best->coverage - rounded->coverage;
  return rounded;
}

}  // namespace rankforge
