#include "tuner/search/choose.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace rankforge {
namespace {

// Candidates that share a layout and a number of threads. A decision is made of
// one configuration.
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
  // The first is that of the default.
  std::vector<Configuration> Configurations() const {
    std::vector<Configuration> result;
    for (size_t c = 0; c < space_.candidates.size(); ++c) {
      const Candidate& candidate = space_.candidates[c];
      auto found =
          std::find_if(result.begin(), result.end(), [&](const auto& other) {
            return SameConfiguration(space_.candidates[other.members[0]],
                                     candidate);
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
    if (!best || (members[0] == kDefaultCandidate &&
                  !Measured(kDefaultCandidate, density))) {
      return std::nullopt;
    }
    const Estimate least = At(*best, density);
    const auto winner =
        std::find_if(members.begin(), members.end(), [&](size_t c) {
          return Measured(c, density) && Tied(At(c, density), least, margin_);
        });
    if (members[0] == kDefaultCandidate && !BeatsDefault(*winner, density)) {
      return kDefaultCandidate;
    }
    return *winner;
  }

  // By the margin and beyond the noise, in the rounds that both were in: the
  // best of twenty equals looks better than it is. Without regard to the noise,
  // two runs on a shared Zen 3 host agree in 4 of 10 problems of llama-2-7b,
  // and over the products of a token the defaults are 1.04 times as fast as the
  // table.
  bool BeatsDefault(size_t candidate, size_t density) const {
    const Estimate ratio = EstimateOf(
        PairedRatio(measurements_.Samples(candidate, density),
                    measurements_.Samples(kDefaultCandidate, density)));
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
    std::vector<size_t> densities;
    for (size_t d = 0; d < space_.densities.size(); ++d) {
      if (space_.weights[d] > 0 && fallback.winners[d]) densities.push_back(d);
    }
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
    decision.default_variant = space_.candidates[kDefaultCandidate].variant;
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
      const Timing untuned = measurements_.At(kDefaultCandidate, d);
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

Decision Choose(const SearchSpace& space, const Measurements& measurements,
                double margin) {
  return Chooser(space, measurements, margin).Run();
}

}  // namespace rankforge
