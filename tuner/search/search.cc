#include "tuner/search/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

namespace rankforge {
namespace {

std::vector<size_t> AllOf(size_t count) {
  std::vector<size_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void SortUnique(std::vector<size_t>* values) {
  std::sort(values->begin(), values->end());
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

class Searcher {
 public:
  Searcher(const SearchSpace& space, const SearchPolicy& policy,
           Measurements known, Runner& runner, Clock& clock,
           SearchObserver& observer)
      : space_(space),
        policy_(policy),
        measurements_(std::move(known)),
        runner_(runner),
        clock_(clock),
        observer_(observer),
        random_(policy.seed) {}

  void Run(double deadline) {
    const std::vector<size_t> others = OtherDensities();
    // The expected density decides the layout and gets half of the time.
    const double now = clock_.Seconds();
    RaceExpected(others.empty() ? deadline : now + (deadline - now) / 2);
    RaceOthers(others, deadline);
    Settle(space_.expected, deadline);
    for (const size_t density : others) Settle(density, deadline);
  }

  SearchResult TakeResult() {
    return {std::move(measurements_), complete_, refused_};
  }

 private:
  // All variants once, then those that are left, and their twins.
  void RaceExpected(double deadline) {
    const size_t expected = space_.expected;
    const size_t screening =
        policy_.drops.empty() ? policy_.rounds : policy_.drops[0].after;
    screened_ = Race(OneOfEach(), expected, screening, deadline);
    AddTwins(expected, &screened_);
    finalists_ = Race(screened_, expected, policy_.rounds, deadline);
  }

  // In equal shares of what is left of the time.
  void RaceOthers(const std::vector<size_t>& densities, double deadline) {
    for (size_t i = 0; i < densities.size(); ++i) {
      const double start = clock_.Seconds();
      const double share =
          (deadline - start) / static_cast<double>(densities.size() - i);
      Race(Entrants(densities[i]), densities[i], policy_.other_rounds,
           start + share);
    }
  }

  // Infinite where nothing was measured: all calls were refused.
  double MedianAt(size_t candidate, size_t density) const {
    return measurements_.Count(candidate, density) == 0
               ? INFINITY
               : measurements_.At(candidate, density).median;
  }

  // Every variant and layout with the threads of the default, or with those
  // that share its sums.
  std::vector<size_t> OneOfEach() const {
    std::vector<size_t> result;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      const Candidate& candidate = space_.candidates[c];
      if (candidate.threads == space_.candidates[0].threads ||
          SumsOf(candidate.layout) > 1) {
        result.push_back(c);
      }
    }
    return result;
  }

  // All but the expected one, those that matter most first; of equal weight the
  // higher one, where the crossover to dense lies.
  std::vector<size_t> OtherDensities() const {
    std::vector<size_t> others = AllOf(space_.densities.size());
    std::erase(others, space_.expected);
    std::stable_sort(others.begin(), others.end(), [&](size_t a, size_t b) {
      if (space_.weights[a] != space_.weights[b]) {
        return space_.weights[a] > space_.weights[b];
      }
      return a > b;
    });
    return others;
  }

  // Adds the best of `racers`, and the default, with other numbers of threads.
  // Trying all of them twice would double the cost of screening to learn what
  // the best few tell as well.
  void AddTwins(size_t density, std::vector<size_t>* racers) const {
    std::vector<size_t> best = *racers;
    std::erase_if(
        best, [&](size_t c) { return measurements_.Count(c, density) == 0; });
    std::stable_sort(best.begin(), best.end(), [&](size_t a, size_t b) {
      return MedianAt(a, density) < MedianAt(b, density);
    });
    if (best.size() > policy_.twins) best.resize(policy_.twins);
    best.push_back(kDefaultCandidate);
    for (const size_t original : best) {
      for (size_t c = 0; c < space_.candidates.size(); ++c) {
        const Candidate& a = space_.candidates[original];
        const Candidate& b = space_.candidates[c];
        if (a.variant == b.variant && a.layout == b.layout) {
          racers->push_back(c);
        }
      }
    }
    SortUnique(racers);
  }

  // Who races at a density other than the expected one: what passed the
  // screening, because the order changes with the density, and the zeroed
  // forms, which no screening below density 1 can judge. Both need a layout and
  // a number of threads that can still be chosen: where the density has a
  // weight, those that passed the screening, else those of the finalists.
  std::vector<size_t> Entrants(size_t density) const {
    const std::vector<size_t>& choosable =
        space_.weights[density] > 0 ? screened_ : finalists_;
    std::vector<size_t> entrants = {kDefaultCandidate};
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      const Candidate& candidate = space_.candidates[c];
      const auto same_configuration = [&](size_t other) {
        return SameConfiguration(space_.candidates[other], candidate);
      };
      const auto same_variant = [&](size_t other) {
        return space_.candidates[other].variant == candidate.variant;
      };
      if (std::any_of(choosable.begin(), choosable.end(), same_configuration) &&
          (candidate.zeroed ||
           std::any_of(screened_.begin(), screened_.end(), same_variant))) {
        entrants.push_back(c);
      }
    }
    SortUnique(&entrants);
    return entrants;
  }

  // Measures `racers` until each has `rounds` samples, dropping the slow ones
  // on the way; returns those left. Ends early at `deadline`.
  std::vector<size_t> Race(std::vector<size_t> racers, size_t density,
                           size_t rounds, double deadline) {
    for (size_t round = 0; round < rounds; ++round) {
      std::vector<size_t> order = racers;
      std::shuffle(order.begin(), order.end(), random_);
      // Whatever the budget, the default has a time to be compared with.
      if (round == 0) {
        std::stable_partition(order.begin(), order.end(),
                              [](size_t c) { return c == kDefaultCandidate; });
      }
      for (const size_t c : order) {
        if (measurements_.Count(c, density) > round) continue;
        const bool must =
            c == kDefaultCandidate && round == 0 && density == space_.expected;
        if (!must && clock_.Seconds() >= deadline) {
          complete_ = false;
          return racers;
        }
        Take(c, density);
      }
      ApplyDropRule(density, round + 1, &racers);
    }
    return racers;
  }

  // Lets the default and the best of its rivals take turns until it is sure
  // whether the best is ahead by the margin. Without this, 8 or 12 columns a
  // pass stayed the choice where others are 1.03 to 1.06 times as fast, with
  // half of the budget unspent (llama-2-7b, bf16, a Xeon with AVX-512).
  void Settle(size_t density, double deadline) {
    const size_t rounds = measurements_.Count(kDefaultCandidate, density);
    std::optional<size_t> best;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      // Those with less were dropped.
      if (c == kDefaultCandidate || measurements_.Count(c, density) < rounds)
        continue;
      if (!best || MedianAt(c, density) < MedianAt(*best, density)) best = c;
    }
    if (!best || rounds < kMinSamples) return;
    for (size_t round = 0; round < policy_.settling_rounds; ++round) {
      const Estimate ratio = EstimateOf(
          PairedRatio(measurements_.Samples(*best, density),
                      measurements_.Samples(kDefaultCandidate, density)));
      const double lead = 1 - policy_.margin - ratio.ns;
      if (std::abs(lead) > kSureErrors * ratio.error) return;
      std::array<size_t, 2> order = {kDefaultCandidate, *best};
      std::shuffle(order.begin(), order.end(), random_);
      for (const size_t c : order) {
        if (clock_.Seconds() >= deadline || !Take(c, density)) return;
      }
    }
  }

  // One more sample; false: the call was refused.
  bool Take(size_t candidate, size_t density) {
    const Sample sample = runner_.Measure(candidate, density);
    if (sample.ns <= 0) {
      ++refused_;
      observer_.OnRefusal(candidate, density);
      return false;
    }
    measurements_.Add(candidate, density, sample);
    observer_.OnTrial(candidate, density, sample);
    return true;
  }

  void ApplyDropRule(size_t density, size_t rounds,
                     std::vector<size_t>* racers) {
    const DropRule* rule = nullptr;
    for (const DropRule& candidate : policy_.drops) {
      if (candidate.after <= rounds) rule = &candidate;
    }
    if (rule == nullptr || racers->empty()) return;
    std::vector<size_t> ranking = *racers;
    std::stable_sort(ranking.begin(), ranking.end(), [&](size_t a, size_t b) {
      return MedianAt(a, density) < MedianAt(b, density);
    });
    const double best = MedianAt(ranking[0], density);
    for (size_t rank = 0; rank < ranking.size(); ++rank) {
      const size_t c = ranking[rank];
      // It leaves if even its best sample is slow: spikes in two of the first
      // three samples must not drop the winner. The choice itself goes by
      // medians.
      const double least = measurements_.At(c, density).min;
      if (c == kDefaultCandidate ||
          (least <= rule->ratio * best && rank < rule->keep)) {
        continue;
      }
      observer_.OnDrop(c, density, rounds, least / best);
      std::erase(*racers, c);
    }
  }

  const SearchSpace& space_;
  const SearchPolicy& policy_;
  Measurements measurements_;
  Runner& runner_;
  Clock& clock_;
  SearchObserver& observer_;
  std::mt19937_64 random_;
  bool complete_ = true;
  size_t refused_ = 0;
  std::vector<size_t> screened_;   // left after screening, and their twins
  std::vector<size_t> finalists_;  // left at the expected density
};

}  // namespace

SearchResult Search(const SearchSpace& space, const SearchPolicy& policy,
                    double deadline, Measurements known, Runner& runner,
                    Clock& clock, SearchObserver& observer) {
  Searcher searcher(space, policy, std::move(known), runner, clock, observer);
  searcher.Run(deadline);
  return searcher.TakeResult();
}

}  // namespace rankforge
