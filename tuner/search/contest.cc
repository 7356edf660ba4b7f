#include "tuner/search/contest.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "base/statistics.h"

namespace rankforge {
namespace {

// After so many rounds of all candidates, those leave whose best sample is not
// within kNear of the best median.
constexpr size_t kScreening = 3;
constexpr double kNear = 1.3;
// Rounds of those that are compared, per round of all candidates.
constexpr size_t kComparedRounds = 3;

// Times of several sides, taken in turns.
class Contest {
 public:
  // Each side has one candidate per density. Rounds in which a call was too
  // short for the clock do not count.
  Contest(const SearchSpace& space, std::vector<Side> sides, size_t rounds,
          uint64_t seed, Runner& runner)
      : space_(space), sides_(std::move(sides)) {
    std::mt19937_64 random(seed);
    const size_t densities = space.densities.size();
    for (size_t round = 0; round < rounds; ++round) {
      std::vector<std::map<size_t, double>> times(densities);
      bool complete = true;
      for (size_t d = 0; d < densities; ++d) {
        for (const size_t c : Shuffled(d, random)) {
          times[d][c] = runner.Measure(c, d).ns;
          complete = complete && times[d][c] > 0;
        }
      }
      if (complete) rounds_.push_back(std::move(times));
    }
  }

  // Of one side at one density, by round.
  std::vector<double> At(size_t side, size_t density) const {
    std::vector<double> ns;
    for (const auto& times : rounds_) {
      ns.push_back(times[density].at(sides_[side][density]));
    }
    return ns;
  }
  // Over the weights of the densities.
  std::vector<double> Expected(size_t side) const {
    std::vector<double> sums(rounds_.size(), 0);
    for (size_t d = 0; d < space_.densities.size(); ++d) {
      const std::vector<double> ns = At(side, d);
      for (size_t r = 0; r < ns.size(); ++r)
        sums[r] += space_.weights[d] * ns[r];
    }
    return sums;
  }

 private:
  std::vector<size_t> Shuffled(size_t density, std::mt19937_64& random) const {
    std::vector<size_t> order;
    for (const Side& side : sides_) order.push_back(side[density]);
    std::sort(order.begin(), order.end());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    std::shuffle(order.begin(), order.end(), random);
    return order;
  }

  const SearchSpace& space_;
  const std::vector<Side> sides_;
  std::vector<std::vector<std::map<size_t, double>>> rounds_;
};

// All candidates at one density; those that are far off leave after kScreening
// rounds, but `keep` stays.
void MeasureAll(const SearchSpace& space, size_t density, size_t keep,
                size_t rounds, std::mt19937_64& random, Runner& runner,
                Measurements* measurements) {
  std::vector<size_t> racers(space.candidates.size());
  for (size_t c = 0; c < racers.size(); ++c) racers[c] = c;
  for (size_t round = 0; round < rounds; ++round) {
    std::shuffle(racers.begin(), racers.end(), random);
    for (const size_t c : racers) {
      const Sample sample = runner.Measure(c, density);
      if (sample.ns > 0) measurements->Add(c, density, sample);
    }
    if (round + 1 != kScreening) continue;
    double best = INFINITY;
    for (const size_t c : racers) {
      if (measurements->Count(c, density) == 0) continue;
      best = std::min(best, measurements->At(c, density).median);
    }
    std::erase_if(racers, [&](size_t c) {
      return c != keep && measurements->At(c, density).min > kNear * best;
    });
  }
}

// The least median by density among the candidates of one configuration; none
// where too little of it was measured.
std::optional<Side> BestOf(const SearchSpace& space,
                           const Measurements& measurements,
                           const Candidate& configuration) {
  Side side;
  for (size_t d = 0; d < space.densities.size(); ++d) {
    std::optional<size_t> best;
    for (size_t c = 0; c < space.candidates.size(); ++c) {
      if (!SameConfiguration(space.candidates[c], configuration) ||
          measurements.Count(c, d) < kMinSamples) {
        continue;
      }
      if (!best ||
          measurements.At(c, d).median < measurements.At(*best, d).median) {
        best = c;
      }
    }
    if (!best) return std::nullopt;
    side.push_back(*best);
  }
  return side;
}

double ExpectedNs(const SearchSpace& space, const Measurements& measurements,
                  const Side& side) {
  double ns = 0;
  for (size_t d = 0; d < side.size(); ++d) {
    ns += space.weights[d] * measurements.At(side[d], d).median;
  }
  return ns;
}

// The sides of a contest, in this order. The rival of single variants and that
// of whole entries may differ.
enum SideIndex : size_t { kChosenSide, kDefaultSide, kVariants, kEntries };

VerifiedEntry Summary(const SearchSpace& space, const std::vector<Side>& sides,
                      const Contest& contest) {
  VerifiedEntry entry;
  const auto first = [&](SideIndex side) -> const Candidate& {
    return space.candidates[sides[side].front()];
  };
  entry.layout = first(kChosenSide).layout;
  entry.threads = first(kChosenSide).threads;
  entry.rival_layout = first(kEntries).layout;
  entry.rival_threads = first(kEntries).threads;
  const std::vector<double> chosen = contest.Expected(kChosenSide);
  entry.chosen_ns = Median(chosen);
  entry.regret = RatioOf(chosen, contest.Expected(kEntries));
  entry.vs_default = RatioOf(contest.Expected(kDefaultSide), chosen);
  for (size_t d = 0; d < space.densities.size(); ++d) {
    const std::vector<double> ns = contest.At(kChosenSide, d);
    VerifiedBucket bucket;
    bucket.density = space.densities[d];
    bucket.weight = space.weights[d];
    bucket.chosen = space.candidates[sides[kChosenSide][d]].variant;
    bucket.rival = space.candidates[sides[kVariants][d]].variant;
    bucket.best = space.candidates[sides[kEntries][d]].variant;
    bucket.chosen_ns = Median(ns);
    bucket.regret = RatioOf(ns, contest.At(kVariants, d));
    bucket.vs_default = RatioOf(contest.At(kDefaultSide, d), ns);
    entry.by_density.push_back(std::move(bucket));
  }
  return entry;
}

}  // namespace

TimeRatio RatioOf(const std::vector<double>& a, const std::vector<double>& b) {
  const Estimate ratio = EstimateOf(PairedRatio(a, b));
  return {ratio.ns, ratio.error};
}

VerifiedEntry VerifyEntry(const SearchSpace& space, const Side& chosen,
                          size_t rounds, uint64_t seed, Runner& runner) {
  std::mt19937_64 random(seed);
  Measurements measurements(space.candidates.size(), space.densities.size());
  for (size_t d = 0; d < space.densities.size(); ++d) {
    MeasureAll(space, d, chosen[d], rounds, random, runner, &measurements);
  }
  const Candidate& configuration = space.candidates[chosen.front()];
  const Side within =
      BestOf(space, measurements, configuration).value_or(chosen);
  Side best = within;
  for (const Candidate& candidate : space.candidates) {
    const std::optional<Side> side = BestOf(space, measurements, candidate);
    if (side && ExpectedNs(space, measurements, *side) <
                    ExpectedNs(space, measurements, best)) {
      best = *side;
    }
  }
  const Side untuned(space.densities.size(), kDefaultCandidate);
  const std::vector<Side> sides = {chosen, untuned, within, best};
  return Summary(space, sides,
                 Contest(space, sides, kComparedRounds * rounds, seed, runner));
}

VerifiedEntry CompareEntry(const SearchSpace& space, const Side& chosen,
                           const Side& rival, size_t rounds, uint64_t seed,
                           Runner& runner) {
  const Side untuned(space.densities.size(), kDefaultCandidate);
  const std::vector<Side> sides = {chosen, untuned, rival, rival};
  return Summary(space, sides,
                 Contest(space, sides, kComparedRounds * rounds, seed, runner));
}

}  // namespace rankforge
