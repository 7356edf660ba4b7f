#include "tuner/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "base/affinity.h"
#include "base/statistics.h"
#include "kernels/registry.h"
#include "runtime/plan/plan.h"
#include "tuner/measure/environment.h"
#include "tuner/measure/read_bandwidth.h"
#include "tuner/measure/workbench.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

constexpr size_t kDefault = 0;
// After so many rounds of all candidates, those leave of which not even the
// best sample is near.
constexpr size_t kScreening = 3;
constexpr double kNear = 1.3;
// Rounds of those that are compared, for each of all candidates.
constexpr size_t kComparedRounds = 3;

TimeRatio RatioOf(const std::vector<double>& a, const std::vector<double>& b) {
  const Estimate ratio = EstimateOf(PairedRatio(a, b));
  return {ratio.ns, ratio.error};
}

bool SameConfiguration(const Candidate& a, const Candidate& b) {
  return a.layout == b.layout && a.threads == b.threads;
}

// Times of several sides, taken in turns.
class Contest {
 public:
  // Each side has a candidate a density. Rounds in which a call was too short
  // for the clock do not count.
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

// Everybody at one density, but for those that are far off.
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

// The bucket that serves `density`; the last one serves all that is left.
const Bucket& BucketAt(const Decision& decision, double density) {
  const auto bucket = std::find_if(
      decision.by_density.begin(), decision.by_density.end() - 1,
      [&](const Bucket& other) { return density <= other.max_density; });
  return *bucket;
}

// What of `space` the buckets of `decision` name, by density; none where the
// space does not have it.
std::optional<Side> SideOf(const SearchSpace& space, const Decision& decision) {
  Side side;
  for (const double density : space.densities) {
    const std::string& variant = BucketAt(decision, density).variant;
    const auto found =
        std::find_if(space.candidates.begin(), space.candidates.end(),
                     [&](const Candidate& candidate) {
                       return candidate.variant == variant &&
                              candidate.layout == decision.layout &&
                              candidate.threads == decision.threads;
                     });
    if (found == space.candidates.end()) return std::nullopt;
    side.push_back(static_cast<size_t>(found - space.candidates.begin()));
  }
  return side;
}

// Contest sides, in this order; what stands against single variants and what
// against whole entries may differ.
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

bool AnyReassociates(const Decision& decision) {
  return std::any_of(decision.by_density.begin(), decision.by_density.end(),
                     [](const Bucket& bucket) {
                       const KernelEntry* entry =
                           Registry::Get().Find(bucket.variant);
                       return entry != nullptr && entry->reassociates;
                     });
}

const TableEntry* FindEntry(const DispatchTable& table,
                            const Problem& problem) {
  const auto found =
      std::find_if(table.entries.begin(), table.entries.end(),
                   [&](const TableEntry& e) { return e.problem == problem; });
  return found == table.entries.end() ? nullptr : &*found;
}

const Workload* FindWorkload(const std::vector<Workload>& workloads,
                             const Problem& problem) {
  const auto found =
      std::find_if(workloads.begin(), workloads.end(),
                   [&](const Workload& w) { return w.problem == problem; });
  return found == workloads.end() ? nullptr : &*found;
}

bool ChoseOtherwise(const Decision& a, const Decision& b,
                    const std::vector<double>& densities) {
  return a.layout != b.layout || a.threads != b.threads ||
         std::any_of(densities.begin(), densities.end(), [&](double density) {
           return BucketAt(a, density).variant != BucketAt(b, density).variant;
         });
}

class Verification {
 public:
  Verification(const DispatchTable& table, const DispatchTable* rival,
               const std::vector<Workload>& workloads,
               const VerifyOptions& options)
      : options_(options), start_(std::chrono::steady_clock::now()) {
    for (const TableEntry& entry : table.entries) {
      if (entry.problem.batch != 1) continue;
      const TableEntry* other =
          rival == nullptr ? nullptr : FindEntry(*rival, entry.problem);
      if (rival != nullptr &&
          (other == nullptr ||
           !ChoseOtherwise(entry.decision, other->decision,
                           MeasuredDensities(entry.decision.by_density)))) {
        continue;
      }
      jobs_.push_back(MakeJob(entry, other, workloads));
    }
  }

  Result<VerifyReport> Run() {
    VerifyReport report;
    report.environment = ReadEnvironment();
    size_t threads = 1;
    std::vector<Workload> workloads;
    for (const Job& job : jobs_) {
      threads = std::max(threads, job.entry->problem.threads);
      workloads.push_back(job.workload);
    }
    if (!options_.allow_noise) {
      RANKFORGE_RETURN_IF_ERROR(CheckEnvironment(report.environment, threads));
    }
    report.read_gbps = MeasureReadBandwidth(threads, size_t{1} << 30, 3).gbps;
    Workbench bench(workloads, options_.cold, /*hurried=*/false, options_.seed);
    for (; done_ < jobs_.size(); ++done_) {
      Report();
      RANKFORGE_ASSIGN_OR_RETURN(VerifiedEntry entry,
                                 VerifyOne(jobs_[done_], bench));
      report.entries.push_back(std::move(entry));
    }
    Report();
    return report;
  }

 private:
  struct Job {
    const TableEntry* entry;
    const TableEntry* rival;  // of the other table
    Workload workload;  // what the entry was tuned for, as far as it is known
    SearchSpace space;
  };

  static Job MakeJob(const TableEntry& entry, const TableEntry* rival,
                     const std::vector<Workload>& workloads) {
    Job job = {&entry, rival, {}, {}};
    const Workload* known = FindWorkload(workloads, entry.problem);
    if (known != nullptr) job.workload = *known;
    job.workload.problem = entry.problem;
    job.workload.layers = entry.layers;
    job.space =
        SpaceAt(job.workload, MeasuredDensities(entry.decision.by_density),
                AnyReassociates(entry.decision) ||
                    (rival != nullptr && AnyReassociates(rival->decision)));
    if (known == nullptr) {
      const auto count = static_cast<double>(job.space.weights.size());
      for (double& weight : job.space.weights) weight = 1 / count;
    }
    return job;
  }

  Result<VerifiedEntry> VerifyOne(const Job& job, Workbench& bench) {
    const Decision& decision = job.entry->decision;
    SearchSpace space = job.space;
    const MeasuringSetup& setup = bench.SetupFor(job.workload.problem.threads);
    const PinnedHere pin(UsableCpus().front());
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::unique_ptr<GemvRunner> runner,
        GemvRunner::Create(
            job.workload, setup, [](const Candidate&, const std::string&) {},
            space));
    const std::optional<Side> chosen = SideOf(space, decision);
    const std::optional<Side> rival = job.rival == nullptr
                                          ? std::nullopt
                                          : SideOf(space, job.rival->decision);
    if (!chosen || (job.rival != nullptr && !rival)) {
      return Failed(fmt::format(
          "{}: layout {} with {} threads is nothing that tuning chooses from; "
          "run `rankforge tune` again",
          job.entry->problem.ToString(), Name(decision.layout),
          decision.threads));
    }
    VerifiedEntry entry =
        rival ? CompareEntry(space, *chosen, *rival, options_.rounds,
                             options_.seed, *runner)
              : VerifyEntry(space, *chosen, options_.rounds, options_.seed,
                            *runner);
    entry.problem = job.entry->problem;
    entry.layers = job.entry->layers;
    return entry;
  }

  void Report() const {
    if (!options_.progress) return;
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start_;
    TuneProgress progress;
    progress.done = done_;
    progress.total = jobs_.size();
    if (done_ > 0) {
      progress.seconds_left = seconds.count() / static_cast<double>(done_) *
                              static_cast<double>(jobs_.size() - done_);
    }
    if (done_ < jobs_.size()) {
      progress.message = jobs_[done_].entry->problem.ToString();
    }
    options_.progress(progress);
  }

  const VerifyOptions& options_;
  const std::chrono::steady_clock::time_point start_;
  std::vector<Job> jobs_;
  size_t done_ = 0;
};

// What a product can run as: the sides of a sequence.
enum SequenceSide : size_t { kUntuned, kTuned, kBest, kSequenceSides };

// One problem of a sequence, its three candidates, and what calls them.
struct SequenceMember {
  Workload workload;
  SearchSpace space;
  std::unique_ptr<GemvRunner> runner;
};

Candidate CandidateOf(const Decision& decision, double density) {
  const Bucket& bucket = BucketAt(decision, density);
  const KernelEntry* entry = Registry::Get().Find(bucket.variant);
  return {bucket.variant, bucket.spec_hash, decision.layout, decision.threads,
          entry != nullptr && entry->spec.form == MaskForm::kZeroed};
}

// What a report found best for `problem`; `tuned` where it holds nothing.
Candidate BestIn(const VerifyReport& report, const Problem& problem,
                 double density, Candidate tuned) {
  const auto entry = std::find_if(
      report.entries.begin(), report.entries.end(),
      [&](const VerifiedEntry& e) { return e.problem == problem; });
  if (entry == report.entries.end() || entry->regret.value <= 1) return tuned;
  const auto bucket = std::min_element(
      entry->by_density.begin(), entry->by_density.end(),
      [&](const VerifiedBucket& a, const VerifiedBucket& b) {
        return std::abs(a.density - density) < std::abs(b.density - density);
      });
  const KernelEntry* kernel = Registry::Get().Find(bucket->best);
  return {bucket->best, kernel->spec_hash, entry->rival_layout,
          entry->rival_threads, kernel->spec.form == MaskForm::kZeroed};
}

double SequenceNs(const std::vector<SequenceMember*>& sequence,
                  SequenceSide side, Executor& executor) {
  std::vector<GemvCall> calls;
  for (SequenceMember* member : sequence) {
    calls.push_back(member->runner->NextCall(side, 0));
  }
  const auto start = std::chrono::steady_clock::now();
  for (const GemvCall& call : calls) RunCalls({&call, 1}, executor);
  const std::chrono::duration<double, std::nano> ns =
      std::chrono::steady_clock::now() - start;
  return ns.count();
}

}  // namespace

std::vector<double> MeasuredDensities(const std::vector<Bucket>& buckets) {
  std::vector<double> densities(buckets.size(), 1);
  for (size_t i = buckets.size(); i-- > 1;) {
    const double low = i >= 2 ? buckets[i - 2].max_density : 0;
    const double high = buckets[i - 1].max_density;
    // A merged table's limits need not lie midway.
    const double density = 2 * high - densities[i];
    densities[i - 1] =
        density > low && density <= high ? density : (low + high) / 2;
  }
  return densities;
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
  const Side untuned(space.densities.size(), kDefault);
  const std::vector<Side> sides = {chosen, untuned, within, best};
  return Summary(space, sides,
                 Contest(space, sides, kComparedRounds * rounds, seed, runner));
}

VerifiedEntry CompareEntry(const SearchSpace& space, const Side& chosen,
                           const Side& rival, size_t rounds, uint64_t seed,
                           Runner& runner) {
  const Side untuned(space.densities.size(), kDefault);
  const std::vector<Side> sides = {chosen, untuned, rival, rival};
  return Summary(space, sides,
                 Contest(space, sides, kComparedRounds * rounds, seed, runner));
}

Result<VerifyReport> Verify(const DispatchTable& table,
                            const DispatchTable* rival,
                            const std::vector<Workload>& workloads,
                            const VerifyOptions& options) {
  return Verification(table, rival, workloads, options).Run();
}

Result<SequenceReport> VerifySequence(const DispatchTable& table,
                                      const VerifyReport& report,
                                      const std::vector<Workload>& workloads,
                                      const std::vector<Problem>& sequence,
                                      const VerifyOptions& options) {
  std::map<Problem, SequenceMember> members;
  std::vector<SequenceMember*> order;
  std::vector<Workload> used;
  size_t threads = 1;
  for (const Problem& problem : sequence) {
    const Workload* workload = FindWorkload(workloads, problem);
    if (workload == nullptr) continue;
    SequenceMember& member = members[problem];
    order.push_back(&member);
    if (!member.space.candidates.empty()) continue;
    member.workload = *workload;
    used.push_back(*workload);
    threads = std::max(threads, problem.threads);
    const double density = workload->density;
    const Candidate tuned =
        CandidateOf(table.Lookup(problem).decision, density);
    member.space.candidates = {CandidateOf(DefaultDecision(problem), density),
                               tuned, BestIn(report, problem, density, tuned)};
    member.space.densities = {density};
    member.space.weights = {1};
  }
  Workbench bench(used, options.cold, /*hurried=*/false, options.seed);
  const MeasuringSetup& setup = bench.SetupFor(threads);
  const PinnedHere pin(UsableCpus().front());
  for (auto& [problem, member] : members) {
    RANKFORGE_ASSIGN_OR_RETURN(
        member.runner,
        GemvRunner::Create(
            member.workload, setup, [](const Candidate&, const std::string&) {},
            member.space));
    if (member.space.candidates.size() != kSequenceSides) {
      return Failed(fmt::format(
          "{}: a choice of the table is wrong or does not fit; run `rankforge "
          "tune` again",
          problem.ToString()));
    }
  }
  std::array<std::vector<double>, kSequenceSides> ns;
  std::array sides = {kUntuned, kTuned, kBest};
  std::mt19937_64 random(options.seed);
  for (size_t round = 0; round < options.rounds; ++round) {
    std::shuffle(sides.begin(), sides.end(), random);
    for (const SequenceSide side : sides) {
      ns[side].push_back(SequenceNs(order, side, *setup.executor));
    }
  }
  return SequenceReport{order.size(),
                        Median(ns[kUntuned]),
                        Median(ns[kTuned]),
                        Median(ns[kBest]),
                        RatioOf(ns[kTuned], ns[kBest]),
                        RatioOf(ns[kUntuned], ns[kTuned])};
}

}  // namespace rankforge
