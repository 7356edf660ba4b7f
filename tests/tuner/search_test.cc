// The promises of the search, with a runner and a clock that are made up.
#include "tuner/search/search.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "tuner/search/choose.h"
#include "tuner/search/resume.h"

namespace rankforge {
namespace {

class FakeClock : public Clock {
 public:
  double Seconds() override { return seconds; }
  double seconds = 0;
};

// Every candidate has a true time at every density; samples are that times a
// noise that is mostly small and now and then a large delay.
class FakeRunner : public Runner {
 public:
  FakeRunner(std::vector<std::vector<double>> true_ns, double noise,
             uint64_t seed, FakeClock* clock)
      : true_ns_(std::move(true_ns)),
        noise_(noise),
        random_(seed),
        clock_(clock) {}

  Sample Measure(size_t candidate, size_t density) override {
    std::exponential_distribution<double> delay(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    double factor = 1 + noise_ * delay(random_);
    if (uniform(random_) < 0.05) factor += 50 * noise_;
    clock_->seconds += 0.001;
    calls.emplace_back(candidate, density);
    return {true_ns_[candidate][density] * factor};
  }

  std::vector<std::pair<size_t, size_t>> calls;

 private:
  std::vector<std::vector<double>> true_ns_;  // [candidate][density]
  double noise_;
  std::mt19937_64 random_;
  FakeClock* clock_;
};

class Recorder : public SearchObserver {
 public:
  void OnTrial(size_t, size_t, const Sample&) override { ++trials; }
  void OnDrop(size_t candidate, size_t density, size_t, double) override {
    dropped[density].insert(candidate);
  }
  void OnRefusal(size_t, size_t) override { ++refused; }
  size_t trials = 0;
  size_t refused = 0;
  std::map<size_t, std::set<size_t>> dropped;
};

constexpr double kForever = 1e9;

// Names "a", "b", ...; all on one layout with one thread.
SearchSpace OneLayout(size_t candidates, std::vector<double> densities = {1}) {
  SearchSpace space;
  for (size_t c = 0; c < candidates; ++c) {
    space.candidates.push_back(
        {std::string(1, static_cast<char>('a' + c)), c, Layout::kInOut, 1});
  }
  space.densities = std::move(densities);
  space.weights.assign(space.densities.size(), 0);
  space.weights[0] = 1;
  return space;
}

SearchPolicy Thorough(uint64_t seed) {
  SearchPolicy policy;
  policy.drops = {{3, 1.5, 16}, {6, 1.2, 8}};
  policy.rounds = 15;
  policy.other_rounds = 9;
  policy.twins = 3;
  policy.seed = seed;
  return policy;
}

struct Outcome {
  Decision decision;
  Recorder recorder;
  size_t calls = 0;
  bool complete = false;
};

Outcome Tune(const SearchSpace& space,
             const std::vector<std::vector<double>>& true_ns, double noise,
             uint64_t noise_seed, double deadline = kForever,
             SearchPolicy policy = Thorough(7)) {
  FakeClock clock;
  FakeRunner runner(true_ns, noise, noise_seed, &clock);
  Outcome outcome;
  const SearchResult result =
      Search(space, policy, deadline,
             Measurements(space.candidates.size(), space.densities.size()),
             runner, clock, outcome.recorder);
  outcome.decision = Choose(space, result.measurements, policy.margin);
  outcome.complete = result.complete;
  outcome.calls = runner.calls.size();
  return outcome;
}

TEST(SearchTest, FindsTheBestInNoise) {
  size_t found = 0;
  constexpr uint64_t kRuns = 200;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    const Outcome outcome =
        Tune(OneLayout(5), {{100}, {140}, {90}, {80}, {300}}, 0.03, seed);
    found += outcome.decision.by_density[0].variant == "d";
  }
  EXPECT_GE(found, kRuns - 2);
}

TEST(SearchTest, SaysWhetherTheDeadlineCutItOff) {
  const SearchSpace space = OneLayout(3);
  EXPECT_TRUE(Tune(space, {{3}, {2}, {1}}, 0, 1).complete);
  EXPECT_FALSE(Tune(space, {{3}, {2}, {1}}, 0, 1, 0.005).complete);
}

TEST(SearchTest, SlowCandidatesAreDroppedAndLogged) {
  const Outcome outcome =
      Tune(OneLayout(4), {{100}, {200}, {125}, {110}}, 0.001, 1);
  EXPECT_EQ(outcome.recorder.dropped.at(0), (std::set<size_t>{1, 2}));
  // 3 rounds of all four, 3 of three, the rest of two.
  EXPECT_EQ(outcome.calls, 3u * 4 + 3 * 3 + 9 * 2);
  EXPECT_EQ(outcome.recorder.trials, outcome.calls);
}

TEST(SearchTest, TheDefaultIsNeverDropped) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Outcome outcome = Tune(OneLayout(20, {0.5, 1}),
                                 std::vector<std::vector<double>>(
                                     20, {seed % 2 == 0 ? 100.0 : 50.0, 100.0}),
                                 0.05, seed);
    for (const auto& [density, dropped] : outcome.recorder.dropped) {
      EXPECT_EQ(dropped.count(0), 0u) << "at density " << density;
    }
  }
  // Not even when it is by far the slowest.
  const Outcome outcome = Tune(OneLayout(3), {{1000}, {10}, {11}}, 0.01, 1);
  EXPECT_EQ(outcome.recorder.dropped.count(0), 0u);
  EXPECT_GT(outcome.decision.by_density[0].vs_default, 50);
}

TEST(SearchTest, KeepLimitsHowManyGoOn) {
  SearchPolicy policy = Thorough(1);
  policy.drops = {{3, 100, 4}};
  const Outcome outcome =
      Tune(OneLayout(10),
           {{100}, {91}, {92}, {93}, {94}, {95}, {96}, {97}, {98}, {99}}, 0, 1,
           kForever, policy);
  EXPECT_EQ(outcome.recorder.dropped.at(0).size(), 5u);
}

// What was chosen may be a tie of the best, but it is never slower than the
// default where both were measured.
TEST(SearchTest, TheDefaultCannotLose) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> ns(50, 150);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const SearchSpace space = OneLayout(8, {0.2, 0.5, 1});
    std::vector<std::vector<double>> true_ns(8);
    for (auto& row : true_ns) row = {ns(random), ns(random), ns(random)};
    const Outcome outcome = Tune(space, true_ns, 0.02, seed);
    for (size_t d = 0; d < 3; ++d) {
      const Bucket& bucket = outcome.decision.by_density[d];
      const size_t chosen = bucket.spec_hash;
      EXPECT_LE(true_ns[chosen][d], true_ns[0][d] * 1.01);
      if (chosen != 0) {
        EXPECT_GE(bucket.vs_default, 1 / 0.98);
      }
    }
  }
}

TEST(SearchTest, AChallengerNeedsTheMargin) {
  // 1 % better, measured without noise: not enough. 3 %: enough.
  EXPECT_EQ(
      Tune(OneLayout(2), {{100}, {99}}, 0, 1).decision.by_density[0].variant,
      "a");
  EXPECT_EQ(
      Tune(OneLayout(2), {{100}, {97}}, 0, 1).decision.by_density[0].variant,
      "b");
}

// 5 % are too little for 15 rounds of this noise, most of the time.
TEST(SearchTest, SettlesWhetherTheDefaultIsBeaten) {
  const SearchSpace space = OneLayout(3);
  const std::vector<std::vector<double>> true_ns = {{100}, {95}, {130}};
  SearchPolicy settling = Thorough(7);
  settling.settling_rounds = 200;
  size_t found = 0, found_settling = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const Outcome without = Tune(space, true_ns, 0.1, seed);
    const Outcome with = Tune(space, true_ns, 0.1, seed, kForever, settling);
    found += without.decision.by_density[0].variant == "b";
    found_settling += with.decision.by_density[0].variant == "b";
    EXPECT_LE(with.calls, without.calls + 400);
    EXPECT_GE(with.calls, without.calls);
    EXPECT_TRUE(with.complete);
  }
  EXPECT_LT(found, 20u);
  EXPECT_GT(found_settling, 30u);
}

TEST(SearchTest, SettlesNothingThatIsClearOrLate) {
  SearchPolicy settling = Thorough(7);
  settling.settling_rounds = 200;
  const auto calls = [&](double challenger, double deadline,
                         const SearchPolicy& policy) {
    return Tune(OneLayout(2), {{100}, {challenger}}, 0.01, 3, deadline, policy)
        .calls;
  };
  for (const double challenger : {80.0, 101.0, 120.0}) {
    EXPECT_EQ(calls(challenger, kForever, settling),
              calls(challenger, kForever, Thorough(7)))
        << challenger;
  }
  // The races take 30 calls of a millisecond.
  EXPECT_LE(Tune(OneLayout(2), {{100}, {95}}, 0.1, 1, 0.035, settling).calls,
            36u);
}

TEST(SearchTest, TiesGoToTheFirstDeclared) {
  // b, c and d are equal but for noise, and all beat the default.
  std::set<std::string> chosen;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Outcome outcome =
        Tune(OneLayout(4), {{100}, {80.0}, {80.0}, {80.0}}, 0, seed);
    chosen.insert(outcome.decision.by_density[0].variant);
  }
  EXPECT_EQ(chosen, std::set<std::string>{"b"});
}

TEST(SearchTest, SameSeedSameSearch) {
  const SearchSpace space = OneLayout(6, {0.3, 1});
  const std::vector<std::vector<double>> true_ns = {
      {100, 300}, {80, 310}, {85, 305}, {120, 200}, {90, 250}, {99, 350}};
  const auto order = [&](uint64_t seed) {
    FakeClock clock;
    FakeRunner runner(true_ns, 0.02, 5, &clock);
    Recorder recorder;
    Search(space, Thorough(seed), kForever, Measurements(6, 2), runner, clock,
           recorder);
    return runner.calls;
  };
  EXPECT_EQ(order(11), order(11));
  EXPECT_NE(order(11), order(12));
}

// With other noise and the same candidates, the choice stays: the best is 10 %
// ahead, noise is 3 %.
TEST(SearchTest, TwoRunsGiveTheSameTable) {
  const SearchSpace space = OneLayout(6, {0.3, 1});
  const std::vector<std::vector<double>> true_ns = {
      {100, 300}, {72, 310}, {80, 290}, {90, 260}, {90, 290}, {99, 350}};
  std::map<std::string, int> tables;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Decision decision = Tune(space, true_ns, 0.03, seed).decision;
    ++tables[decision.by_density[0].variant + decision.by_density[1].variant];
  }
  EXPECT_GE(tables["bd"], 98);
}

TEST(SearchTest, RoundsAreInterleaved) {
  FakeClock clock;
  FakeRunner runner({{100}, {100}, {100}}, 0, 1, &clock);
  Recorder recorder;
  Search(OneLayout(3), Thorough(1), kForever, Measurements(3, 1), runner, clock,
         recorder);
  // Every three calls in a row measure every candidate once.
  ASSERT_EQ(runner.calls.size(), 45u);
  std::set<std::vector<std::pair<size_t, size_t>>> orders;
  for (size_t i = 0; i < runner.calls.size(); i += 3) {
    const std::vector<std::pair<size_t, size_t>> round(
        runner.calls.begin() + static_cast<long>(i),
        runner.calls.begin() + static_cast<long>(i) + 3);
    EXPECT_EQ((std::set<std::pair<size_t, size_t>>(round.begin(), round.end())
                   .size()),
              3u);
    orders.insert(round);
  }
  EXPECT_GT(orders.size(), 1u);
}

TEST(SearchTest, AnyBudgetLeavesADecision) {
  const SearchSpace space = OneLayout(5, {0.2, 0.5, 1});
  const std::vector<std::vector<double>> true_ns(5, {50, 60, 70});
  size_t previous = 0;
  for (int milliseconds = 0; milliseconds < 120; milliseconds += 3) {
    // The fake clock advances by a millisecond a call.
    const Outcome outcome = Tune(space, true_ns, 0.01, 1, milliseconds / 1e3);
    const Decision& decision = outcome.decision;
    EXPECT_GE(outcome.calls, previous);
    EXPECT_FALSE(outcome.complete);
    EXPECT_LE(outcome.calls, static_cast<size_t>(milliseconds) + 1);
    previous = outcome.calls;
    ASSERT_EQ(decision.by_density.size(), 3u);
    EXPECT_EQ(decision.by_density.back().max_density, 1);
    for (const Bucket& bucket : decision.by_density) {
      EXPECT_FALSE(bucket.variant.empty());
    }
  }
}

// One lucky sample in a budget that ran out is no reason to leave the default.
TEST(SearchTest, FewSamplesDecideNothing) {
  const SearchSpace space = OneLayout(2);
  Measurements measurements(2, 1);
  for (int i = 0; i < 5; ++i) measurements.Add(0, 0, {100});
  measurements.Add(1, 0, {10});
  measurements.Add(1, 0, {10});
  EXPECT_EQ(Choose(space, measurements, 0.02).by_density[0].variant, "a");
  measurements.Add(1, 0, {10});
  EXPECT_EQ(Choose(space, measurements, 0.02).by_density[0].variant, "b");
}

// Two layouts: one is better where most calls are, one elsewhere.
TEST(SearchTest, TheLayoutFollowsTheWeights) {
  SearchSpace space = OneLayout(2, {0.2, 1});
  space.candidates[1].layout = Layout::kPanel64;
  const std::vector<std::vector<double>> true_ns = {{100, 100}, {130, 60}};
  space.weights = {1, 0};
  EXPECT_EQ(Tune(space, true_ns, 0, 1).decision.layout, Layout::kInOut);
  space.weights = {0.5, 0.5};
  EXPECT_EQ(Tune(space, true_ns, 0, 1).decision.layout, Layout::kPanel64);
  // One layout for all densities.
  for (const Bucket& bucket : Tune(space, true_ns, 0, 1).decision.by_density) {
    EXPECT_EQ(bucket.variant, "b");
  }
}

// The default has two threads; one is better.
TEST(SearchTest, TwinsDecideTheThreads) {
  SearchSpace space = OneLayout(2);
  for (Candidate& candidate : space.candidates) candidate.threads = 2;
  space.candidates.push_back(space.candidates[0]);
  space.candidates.push_back(space.candidates[1]);
  space.candidates[2].threads = space.candidates[3].threads = 1;
  Decision decision = Tune(space, {{100}, {90}, {80}, {70}}, 0, 1).decision;
  EXPECT_EQ(decision.threads, 1u);
  EXPECT_EQ(decision.by_density[0].variant, "b");
  EXPECT_NEAR(decision.by_density[0].vs_default, 100.0 / 70, 1e-9);
  decision = Tune(space, {{100}, {90}, {180}, {170}}, 0, 1).decision;
  EXPECT_EQ(decision.threads, 2u);
}

// A layout in sums has no twin with the one thread of the default.
TEST(SearchTest, LayoutsInSumsRaceFromTheStart) {
  SearchSpace space = OneLayout(2);
  space.candidates[1].layout = Layout::kInOut2;
  space.candidates[1].threads = 2;
  const Outcome outcome = Tune(space, {{1000}, {700}}, 0.01, 1);
  EXPECT_EQ(outcome.decision.layout, Layout::kInOut2);
  EXPECT_EQ(outcome.decision.threads, 2u);
}

TEST(SearchTest, CrossoverIsWhereZeroedFormsBegin) {
  // b reads everything; it wins at 0.7 and 1.
  SearchSpace space = OneLayout(2, {0.3, 0.5, 0.7, 1});
  space.candidates[1].zeroed = true;
  const std::vector<std::vector<double>> true_ns = {{30, 50, 95, 120},
                                                    {90, 90, 90, 90}};
  const Decision decision = Tune(space, true_ns, 0, 1).decision;
  EXPECT_EQ(decision.by_density[1].variant, "a");
  EXPECT_EQ(decision.by_density[2].variant, "b");
  EXPECT_DOUBLE_EQ(decision.crossover_to_dense, 0.6);
  EXPECT_DOUBLE_EQ(decision.by_density[1].max_density, 0.6);
  // None zeroed at 1: no crossover, even if one wins in between.
  EXPECT_EQ(Tune(space, {{30, 95, 70, 80}, {90, 90, 90, 90}}, 0, 1)
                .decision.crossover_to_dense,
            1);
}

// A zeroed form is three times too slow at the density that is screened and
// must still be tried at density 1.
TEST(SearchTest, ScreeningDoesNotLoseZeroedForms) {
  SearchSpace space = OneLayout(2, {0.3, 1});
  space.candidates[1].zeroed = true;
  const Outcome outcome = Tune(space, {{30, 120}, {90, 90}}, 0.01, 1);
  EXPECT_EQ(outcome.recorder.dropped.at(0).count(1), 1u);
  EXPECT_EQ(outcome.decision.by_density[0].variant, "a");
  EXPECT_EQ(outcome.decision.by_density[1].variant, "b");
}

TEST(SearchTest, RunnerUpIsNamed) {
  const Decision decision =
      Tune(OneLayout(3), {{100}, {80}, {70}}, 0, 1).decision;
  EXPECT_EQ(decision.by_density[0].variant, "c");
  EXPECT_EQ(decision.by_density[0].runner_up, "b");
  EXPECT_EQ(decision.by_density[0].runner_up_ns, 80);
}

TEST(SearchTest, KnownSamplesAreNotTakenAgain) {
  const SearchSpace space = OneLayout(2);
  Measurements known(2, 1);
  for (int i = 0; i < 15; ++i) {
    known.Add(0, 0, {100});
    if (i < 10) known.Add(1, 0, {90});
  }
  FakeClock clock;
  FakeRunner runner({{100}, {90}}, 0, 1, &clock);
  Recorder recorder;
  Search(space, Thorough(1), kForever, known, runner, clock, recorder);
  EXPECT_EQ(runner.calls.size(), 5u);
}

TEST(SearchTest, AnchorsTellWhetherAnEarlierRunHolds) {
  const SearchSpace space = OneLayout(3);
  Measurements known(3, 1);
  for (int i = 0; i < 3; ++i) {
    known.Add(0, 0, {100});
    known.Add(1, 0, {90});
  }
  FakeClock clock;
  // The default and the best, not what was never measured.
  FakeRunner same({{104}, {90 * 1.04}, {1}}, 0, 1, &clock);
  const Anchors anchors = MeasureAnchors(space, known, same);
  EXPECT_EQ(anchors.candidates, (std::vector<size_t>{1, 0}));
  ASSERT_TRUE(anchors.drift);
  EXPECT_NEAR(*anchors.drift, 1.04, 1e-9);
  FakeRunner slower({{130}, {117}, {1}}, 0, 1, &clock);
  EXPECT_FALSE(MeasureAnchors(space, known, slower).drift);
  // One of them alone is enough to doubt the order.
  FakeRunner reordered({{100}, {117}, {1}}, 0, 1, &clock);
  EXPECT_FALSE(MeasureAnchors(space, known, reordered).drift);
  EXPECT_FALSE(MeasureAnchors(space, Measurements(3, 1), same).drift);
}

// A candidate whose calls end before the clock moves has no time and cannot
// win; the others go on.
TEST(SearchTest, CallsTooShortForTheClockAreRefused) {
  const Outcome outcome = Tune(OneLayout(3), {{100}, {0}, {80}}, 0, 1);
  EXPECT_GT(outcome.recorder.refused, 0u);
  EXPECT_EQ(outcome.decision.by_density[0].variant, "c");
  EXPECT_EQ(outcome.recorder.dropped.count(0), 0u);
}

}  // namespace
}  // namespace rankforge
