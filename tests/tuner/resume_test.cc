// What a resumed search measures again: the anchors and what is new.
#include "tuner/search/resume.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tuner/search/choose.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

class ConstantRunner : public Runner {
 public:
  explicit ConstantRunner(std::map<std::string, double> ns,
                          const SearchSpace& space)
      : ns_(std::move(ns)), space_(space) {}
  Sample Measure(size_t candidate, size_t) override {
    const std::string& name = space_.candidates[candidate].variant;
    ++calls[name];
    return {ns_.at(name)};
  }
  std::map<std::string, size_t> calls;

 private:
  std::map<std::string, double> ns_;
  const SearchSpace& space_;
};

class StoppedClock : public Clock {
 public:
  double Seconds() override { return 0; }
};

SearchSpace SpaceOf(const std::vector<std::string>& variants,
                    std::vector<double> densities) {
  SearchSpace space;
  for (const std::string& variant : variants) {
    space.candidates.push_back({variant, variant.size(), Layout::kInOut, 1});
  }
  space.weights.assign(densities.size(), 0);
  space.weights[0] = 1;
  space.densities = std::move(densities);
  return space;
}

SearchPolicy ShortPolicy() {
  SearchPolicy policy;
  policy.drops = {{3, 1.5, 16}};
  policy.rounds = 9;
  policy.other_rounds = 5;
  return policy;
}

class ResumeTest : public testing::Test {
 protected:
  ResumeTest()
      : path_(testing::TempDir() + "resume_test." +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove(path_);
  }
  ~ResumeTest() override { std::filesystem::remove(path_); }

  // One session: what a search of `space` measures and chooses.
  struct Session {
    std::map<std::string, size_t> calls;
    Decision decision;
    bool was_finished = false;
  };
  Session Run(const SearchSpace& space, std::map<std::string, double> ns,
              bool resume = true, SearchPolicy policy = ShortPolicy()) {
    Result<Journal> journal = Journal::Open(path_, {}, resume);
    EXPECT_TRUE(journal.ok()) << journal.status().message();
    const std::string search = SearchName(space, policy, {});
    ConstantRunner runner(std::move(ns), space);
    Session session;
    session.was_finished = journal->IsFinished("w", search);
    Measurements samples = session.was_finished
                               ? KnownSamples(space, journal->Trials("w"))
                               : Continue(space, "w", *journal, runner);
    if (!session.was_finished) {
      StoppedClock clock;
      JournalObserver observer(space, "w", &*journal, [] {});
      SearchResult result =
          Search(space, policy, 1, std::move(samples), runner, clock, observer);
      EXPECT_TRUE(result.complete);
      journal->WriteFinished("w", search);
      samples = std::move(result.measurements);
    }
    session.calls = runner.calls;
    session.decision = Choose(space, samples, policy.margin);
    return session;
  }

  const std::string path_;
};

const std::map<std::string, double> kTimes = {{"default", 100},
                                              {"best", 80},
                                              {"middle", 90},
                                              {"slow", 300},
                                              {"added", 70}};

TEST_F(ResumeTest, AFinishedSearchMeasuresNothing) {
  const SearchSpace space = SpaceOf({"default", "best", "middle"}, {0.5, 1});
  EXPECT_FALSE(Run(space, kTimes, false).was_finished);
  const Session again = Run(space, kTimes);
  EXPECT_TRUE(again.was_finished);
  EXPECT_TRUE(again.calls.empty());
  EXPECT_EQ(again.decision.by_density[0].variant, "best");
}

// A build with one variant more: it and the anchors, nothing else.
TEST_F(ResumeTest, AnAddedVariantIsMeasuredBesideTheAnchors) {
  Run(SpaceOf({"default", "best", "middle", "slow"}, {0.5, 1}), kTimes, false);
  const SearchSpace more =
      SpaceOf({"default", "best", "middle", "slow", "added"}, {0.5, 1});
  const Session session = Run(more, kTimes);
  EXPECT_FALSE(session.was_finished);
  // kMinSamples to see whether they moved, then those of every round.
  EXPECT_EQ(session.calls.at("default"), kMinSamples + 9 + 5);
  EXPECT_EQ(session.calls.at("best"), kMinSamples + 9 + 5);
  EXPECT_EQ(session.calls.at("added"), 9u + 5);
  EXPECT_EQ(session.calls.count("middle"), 0u);
  EXPECT_EQ(session.calls.count("slow"), 0u);
  EXPECT_EQ(session.decision.by_density[0].variant, "added");
  // And that is finished, too.
  EXPECT_TRUE(Run(more, kTimes).was_finished);
}

TEST_F(ResumeTest, AChangedSpecIsAnotherVariant) {
  SearchSpace space = SpaceOf({"default", "best", "middle"}, {0.5});
  Run(space, kTimes, false);
  space.candidates[2].spec_hash = 12345;
  const Session session = Run(space, kTimes);
  EXPECT_EQ(session.calls.at("middle"), 9u);
}

// More rigor: more densities. The earlier ones keep their samples.
TEST_F(ResumeTest, AnAddedDensityIsMeasuredAlone) {
  Run(SpaceOf({"default", "best", "middle"}, {0.5, 1}), kTimes, false);
  const Session session =
      Run(SpaceOf({"default", "best", "middle"}, {0.5, 0.75, 1}), kTimes);
  EXPECT_EQ(session.calls.at("middle"), 5u);
  EXPECT_EQ(session.calls.at("default"), kMinSamples + 9 + 5 + 5);
}

// The machine is 5 % slower than in the earlier run: what is not measured again
// is scaled, or "middle" would win by the drift.
TEST_F(ResumeTest, KnownSamplesFollowTheDriftOfTheAnchors) {
  Run(SpaceOf({"default", "best", "middle"}, {0.5}),
      {{"default", 100}, {"best", 80}, {"middle", 82}}, false);
  const std::map<std::string, double> slower = {
      {"default", 105}, {"best", 84}, {"middle", 86.1}, {"added", 200}};
  const SearchSpace space =
      SpaceOf({"default", "best", "middle", "added"}, {0.5});
  const Session session = Run(space, slower);
  EXPECT_EQ(session.decision.by_density[0].variant, "best");
  EXPECT_NEAR(session.decision.by_density[0].runner_up_ns, 86.1, 1e-6);
  // Read back once more, they are scaled once, not twice.
  EXPECT_NEAR(Run(space, slower).decision.by_density[0].runner_up_ns, 86.1,
              1e-6);
}

TEST_F(ResumeTest, AnchorsThatMovedVoidTheEarlierRun) {
  Run(SpaceOf({"default", "best", "middle"}, {0.5}), kTimes, false);
  const Session session =
      Run(SpaceOf({"default", "best", "middle", "added"}, {0.5}),
          {{"default", 150}, {"best", 120}, {"middle", 135}, {"added", 300}});
  EXPECT_EQ(session.calls.at("middle"), 9u);
}

TEST(JournalNamesTest, NamesTellMasksApart) {
  Workload a;
  a.problem = {Operation::kColumnMask, 4096, 3072, WeightType::kBf16, 1, 1, 2};
  a.density = 0.32;
  Workload b = a;
  EXPECT_EQ(WorkloadName(a), WorkloadName(b));
  b.density = 0.33;
  EXPECT_NE(WorkloadName(a), WorkloadName(b));
  b = a;
  b.keep_frequency.assign(3072, 0.5f);
  EXPECT_NE(WorkloadName(a), WorkloadName(b));
}

}  // namespace
}  // namespace rankforge
