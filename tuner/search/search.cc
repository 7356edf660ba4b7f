#include "tuner/search/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

namespace rankforge {
namespace {

constexpr size_t kDefault = 0;  // index of the default candidate

// What replaces the default must be ahead by so many standard errors beside the
// margin.
constexpr double kSureErrors = 2;

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
    const size_t expected = space_.expected;
    std::vector<size_t> others = OtherDensities();
    // The expected density decides the layout and gets half of the time.
    const double now = clock_.Seconds();
    const double half = others.empty() ? deadline : now + (deadline - now) / 2;

    const size_t screening =
        policy_.drops.empty() ? policy_.rounds : policy_.drops[0].after;
    screened_ = Race(WithThreadsOfDefault(), expected, screening, half);
    AddTwins(expected, &screened_);
    finalists_ = Race(screened_, expected, policy_.rounds, half);

    for (size_t i = 0; i < others.size(); ++i) {
      const double start = clock_.Seconds();
      const double share =
          (deadline - start) / static_cast<double>(others.size() - i);
      Race(Entrants(others[i]), others[i], policy_.other_rounds, start + share);
    }
    Settle(expected, deadline);
    for (const size_t density : others) Settle(density, deadline);
  }

  SearchResult TakeResult() {
    return {std::move(measurements_), complete_, refused_};
  }

 private:
  // Infinite where nothing was measured: all calls were refused.
  double MedianAt(size_t candidate, size_t density) const {
    return measurements_.Count(candidate, density) == 0
               ? INFINITY
               : measurements_.At(candidate, density).median;
  }

  std::vector<size_t> WithThreadsOfDefault() const {
    std::vector<size_t> result;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      if (space_.candidates[c].threads == space_.candidates[0].threads) {
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
    best.push_back(kDefault);
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

  // Who races at a density that is not the expected one: what passed the
  // screening, as the order changes with the density, and the zeroed forms,
  // which no screening below density 1 can judge. Both only with layouts and
  // threads that can still be chosen: where the density has a weight, those
  // that passed the screening, else those that won it.
  std::vector<size_t> Entrants(size_t density) const {
    const std::vector<size_t>& choosable =
        space_.weights[density] > 0 ? screened_ : finalists_;
    std::vector<size_t> entrants = {kDefault};
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      const Candidate& candidate = space_.candidates[c];
      const auto same_configuration = [&](size_t other) {
        return space_.candidates[other].layout == candidate.layout &&
               space_.candidates[other].threads == candidate.threads;
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
                              [](size_t c) { return c == kDefault; });
      }
      for (const size_t c : order) {
        if (measurements_.Count(c, density) > round) continue;
        const bool must =
            c == kDefault && round == 0 && density == space_.expected;
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
  // pass stood as untuned where others took .94 to .97 of the time, with half
  // of the budget unspent (llama-2-7b, bf16, a Xeon with AVX-512).
  void Settle(size_t density, double deadline) {
    const size_t rounds = measurements_.Count(kDefault, density);
    std::optional<size_t> best;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      // Those with less were dropped.
      if (c == kDefault || measurements_.Count(c, density) < rounds) continue;
      if (!best || MedianAt(c, density) < MedianAt(*best, density)) best = c;
    }
    if (!best || rounds < kMinSamples) return;
    for (size_t round = 0; round < policy_.settling_rounds; ++round) {
      const Estimate ratio =
          EstimateOf(PairedRatio(measurements_.Samples(*best, density),
                                 measurements_.Samples(kDefault, density)));
      const double lead = 1 - policy_.margin - ratio.ns;
      if (std::abs(lead) > kSureErrors * ratio.error) return;
      std::array<size_t, 2> order = {kDefault, *best};
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
      // Even its best sample is slow: a spike in two of the first three
      // samples must not drop the winner. The choice itself goes by medians.
      const double least = measurements_.At(c, density).min;
      if (c == kDefault || (least <= rule->ratio * best && rank < rule->keep)) {
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

// The candidates that share a layout and a number of threads: what a decision
// has one of.
struct Configuration {
  std::vector<size_t> members;  // declared order
  // By density; none where too little was measured.
  std::vector<std::optional<size_t>> winners;
  Estimate expected;  // over the weighted densities
};

class Chooser {
 public:
  Chooser(const SearchSpace& space, const Measurements& measurements,
          double margin)
      : space_(space), measurements_(measurements), margin_(margin) {}

  Decision Run() const {
    const std::vector<Configuration> configurations = Configurations();
    return ToDecision(*ChooseConfiguration(configurations));
  }

 private:
  bool Measured(size_t candidate, size_t density) const {
    return measurements_.Count(candidate, density) >= kMinSamples;
  }
  Estimate At(size_t candidate, size_t density) const {
    return EstimateOf(measurements_.At(candidate, density));
  }
  // Of the first configuration, which is the default's, on.
  std::vector<Configuration> Configurations() const {
    std::vector<Configuration> result;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      const Candidate& candidate = space_.candidates[c];
      auto found =
          std::find_if(result.begin(), result.end(), [&](const auto& other) {
            const Candidate& first = space_.candidates[other.members[0]];
            return first.layout == candidate.layout &&
                   first.threads == candidate.threads;
          });
      if (found == result.end()) found = result.emplace(result.end());
      found->members.push_back(c);
    }
    for (Configuration& configuration : result) {
      for (size_t d = 0; d < space_.densities.size(); ++d) {
        configuration.winners.push_back(Winner(configuration.members, d));
      }
    }
    return result;
  }

  // The least time, or the first of those tied with it; the default unless that
  // is beaten by the margin.
  std::optional<size_t> Winner(const std::vector<size_t>& members,
                               size_t density) const {
    std::optional<size_t> best;
    for (const size_t c : members) {
      if (!Measured(c, density)) continue;
      if (!best || At(c, density).ns < At(*best, density).ns) best = c;
    }
    // Without the default nothing proves that its challengers are better.
    if (!best || (members[0] == kDefault && !Measured(kDefault, density))) {
      return std::nullopt;
    }
    const Estimate least = At(*best, density);
    const auto winner =
        std::find_if(members.begin(), members.end(), [&](size_t c) {
          return Measured(c, density) && Tied(At(c, density), least, margin_);
        });
    if (members[0] == kDefault && !BeatsDefault(*winner, density)) {
      return kDefault;
    }
    return *winner;
  }

  // By the margin and beyond the noise, in the rounds that both were in: the
  // best of twenty equals looks better than it is. Without the noise, two runs
  // on a shared Zen 3 host agreed in 4 of 10 problems of llama-2-7b, and the
  // products of a token took 1.04 times as long as with the defaults.
  bool BeatsDefault(size_t candidate, size_t density) const {
    const Estimate ratio =
        EstimateOf(PairedRatio(measurements_.Samples(candidate, density),
                               measurements_.Samples(kDefault, density)));
    return ratio.ns + kSureErrors * ratio.error < 1 - margin_;
  }

  // The configuration with the least expected time, or the first of those tied
  // with it; the default's unless that is beaten by the margin.
  const Configuration* ChooseConfiguration(
      const std::vector<Configuration>& configurations) const {
    const Configuration* fallback = &configurations[0];
    const std::vector<size_t> densities = ComparableDensities(*fallback);
    if (densities.empty()) return fallback;
    const Estimate bar = Expected(*fallback, densities).value();
    std::vector<std::pair<const Configuration*, Estimate>> rivals;
    for (const Configuration& configuration : configurations) {
      const std::optional<Estimate> expected =
          Expected(configuration, densities);
      if (expected) rivals.emplace_back(&configuration, *expected);
    }
    const auto best = std::min_element(
        rivals.begin(), rivals.end(),
        [](const auto& a, const auto& b) { return a.second.ns < b.second.ns; });
    const auto winner =
        std::find_if(rivals.begin(), rivals.end(), [&](const auto& rival) {
          return Tied(rival.second, best->second, margin_);
        });
    const double noise =
        kSureErrors * std::hypot(winner->second.error, bar.error);
    return winner->second.ns + noise < (1 - margin_) * bar.ns ? winner->first
                                                              : fallback;
  }

  // Densities with a weight at which the default's configuration has a time.
  std::vector<size_t> ComparableDensities(const Configuration& fallback) const {
    std::vector<size_t> densities = AllOf(space_.densities.size());
    std::erase_if(densities, [&](size_t d) {
      return space_.weights[d] == 0 || !fallback.winners[d];
    });
    return densities;
  }

  std::optional<Estimate> Expected(const Configuration& configuration,
                                   const std::vector<size_t>& densities) const {
    Estimate sum;
    double variance = 0;
    for (const size_t d : densities) {
      if (!configuration.winners[d]) return std::nullopt;
      const Estimate time = At(*configuration.winners[d], d);
      sum.ns += space_.weights[d] * time.ns;
      variance += std::pow(space_.weights[d] * time.error, 2);
    }
    sum.error = std::sqrt(variance);
    return sum;
  }

  Decision ToDecision(const Configuration& configuration) const {
    const Candidate& first = space_.candidates[configuration.members[0]];
    Decision decision;
    decision.layout = first.layout;
    decision.threads = first.threads;
    decision.default_variant = space_.candidates[kDefault].variant;
    const size_t last = space_.densities.size() - 1;
    for (size_t d = 0; d <= last; ++d) {
      const size_t winner = WinnerNear(configuration, d);
      const Candidate& candidate = space_.candidates[winner];
      Bucket bucket;
      bucket.max_density =
          d == last ? 1 : (space_.densities[d] + space_.densities[d + 1]) / 2;
      bucket.variant = candidate.variant;
      bucket.spec_hash = candidate.spec_hash;
      bucket.ns = measurements_.At(winner, d);
      const Timing untuned = measurements_.At(kDefault, d);
      if (bucket.ns.median > 0 && untuned.median > 0) {
        bucket.vs_default = untuned.median / bucket.ns.median;
      }
      SetRunnerUp(configuration, winner, d, &bucket);
      decision.by_density.push_back(std::move(bucket));
    }
    decision.crossover_to_dense = Crossover(configuration, decision);
    return decision;
  }

  // The winner at density `d`, else at the nearest density that has one, else
  // the first of the configuration.
  size_t WinnerNear(const Configuration& configuration, size_t d) const {
    size_t nearest = configuration.members[0];
    double smallest = INFINITY;
    for (size_t i = 0; i < space_.densities.size(); ++i) {
      const double distance =
          std::abs(space_.densities[i] - space_.densities[d]);
      if (configuration.winners[i] && distance < smallest) {
        smallest = distance;
        nearest = *configuration.winners[i];
      }
    }
    return nearest;
  }

  void SetRunnerUp(const Configuration& configuration, size_t winner,
                   size_t density, Bucket* bucket) const {
    for (const size_t c : configuration.members) {
      if (c == winner || !Measured(c, density)) continue;
      const double ns = At(c, density).ns;
      if (bucket->runner_up.empty() || ns < bucket->runner_up_ns) {
        bucket->runner_up = space_.candidates[c].variant;
        bucket->runner_up_ns = ns;
      }
    }
  }

  // Lower limit of the run of zeroed winners that ends at density 1.
  double Crossover(const Configuration& configuration,
                   const Decision& decision) const {
    double crossover = 1;
    for (size_t d = space_.densities.size(); d-- > 0;) {
      if (!space_.candidates[WinnerNear(configuration, d)].zeroed) break;
      crossover = d == 0 ? 0 : decision.by_density[d - 1].max_density;
    }
    return crossover;
  }

  const SearchSpace& space_;
  const Measurements& measurements_;
  const double margin_;
};

}  // namespace

Measurements::Measurements(size_t candidates, size_t densities)
    : densities_(densities), cells_(candidates * densities) {}

const std::vector<double>& Measurements::CellAt(size_t candidate,
                                                size_t density) const {
  return cells_[candidate * densities_ + density];
}

void Measurements::Add(size_t candidate, size_t density, const Sample& sample) {
  cells_[candidate * densities_ + density].push_back(sample.ns);
  ++total_;
}

void Measurements::Forget(size_t candidate) {
  for (size_t d = 0; d < densities_; ++d) {
    std::vector<double>& cell = cells_[candidate * densities_ + d];
    total_ -= cell.size();
    cell.clear();
  }
}

void Measurements::Scale(double factor) {
  for (std::vector<double>& cell : cells_) {
    for (double& ns : cell) ns *= factor;
  }
}

size_t Measurements::Count(size_t candidate, size_t density) const {
  return CellAt(candidate, density).size();
}

const std::vector<double>& Measurements::Samples(size_t candidate,
                                                 size_t density) const {
  return CellAt(candidate, density);
}

Timing Measurements::At(size_t candidate, size_t density) const {
  return Summarise(CellAt(candidate, density));
}

SearchResult Search(const SearchSpace& space, const SearchPolicy& policy,
                    double deadline, Measurements known, Runner& runner,
                    Clock& clock, SearchObserver& observer) {
  Searcher searcher(space, policy, std::move(known), runner, clock, observer);
  searcher.Run(deadline);
  return searcher.TakeResult();
}

Decision Choose(const SearchSpace& space, const Measurements& measurements,
                double margin) {
  return Chooser(space, measurements, margin).Run();
}

Anchors MeasureAnchors(const SearchSpace& space, const Measurements& known,
                       Runner& runner) {
  const size_t density = space.expected;
  const auto before = [&](size_t c) { return known.At(c, density).median; };
  std::optional<size_t> incumbent;
  for (size_t c = 0; c < space.candidates.size(); ++c) {
    if (known.Count(c, density) > 0 &&
        (!incumbent || before(c) < before(*incumbent))) {
      incumbent = c;
    }
  }
  Anchors anchors;
  if (!incumbent) return anchors;
  anchors.candidates = {*incumbent};
  if (*incumbent != kDefault && known.Count(kDefault, density) > 0) {
    anchors.candidates.push_back(kDefault);
  }
  Measurements fresh(space.candidates.size(), space.densities.size());
  for (size_t round = 0; round < kMinSamples; ++round) {
    for (const size_t c : anchors.candidates) {
      fresh.Add(c, density, runner.Measure(c, density));
    }
  }
  double log_drift = 0;
  for (const size_t c : anchors.candidates) {
    const double ratio = fresh.At(c, density).median / before(c);
    if (!(std::abs(ratio - 1) <= 0.1)) return anchors;
    log_drift +=
        std::log(ratio) / static_cast<double>(anchors.candidates.size());
  }
  anchors.drift = std::exp(log_drift);
  return anchors;
}

}  // namespace rankforge
