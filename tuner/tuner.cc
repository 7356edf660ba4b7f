#include "tuner/tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "base/affinity.h"
#include "tuner/measure/environment.h"
#include "tuner/measure/gemv_runner.h"
#include "tuner/measure/read_bandwidth.h"
#include "tuner/measure/workbench.h"
#include "tuner/search/journal.h"
#include "tuner/search/resume.h"
#include "tuner/search/search.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

class SteadyClock : public Clock {
 public:
  double Seconds() override {
    const std::chrono::duration<double> now =
        std::chrono::steady_clock::now().time_since_epoch();
    return now.count();
  }
};

class Tuning {
 public:
  Tuning(std::vector<Workload> workloads, const TuneOptions& options)
      : workloads_(std::move(workloads)),
        options_(options),
        start_ticks_(ReadCpuTicks()) {
    // The heaviest first: if time runs out, it runs out where it matters least.
    std::stable_sort(workloads_.begin(), workloads_.end(),
                     [](const Workload& a, const Workload& b) {
                       return ModelBytes(a) > ModelBytes(b);
                     });
  }

  Result<DispatchTable> Run() {
    start_ = clock_.Seconds();
    end_ = start_ + options_.budget_seconds;
    table_.cpu = CpuInfo::Detect();
    table_.environment = ReadEnvironment();
    if (!options_.allow_noise) {
      size_t threads = 1;
      for (const Workload& workload : workloads_) {
        threads = std::max(threads, workload.problem.threads);
      }
      RANKFORGE_RETURN_IF_ERROR(CheckEnvironment(table_.environment, threads));
    }
    table_.policy.rigor = std::string(Name(options_.rigor));
    table_.policy.seed = options_.seed;
    table_.policy.margin = options_.margin;
    table_.policy.cold = options_.cold;
    RANKFORGE_ASSIGN_OR_RETURN(
        journal_,
        Journal::Open(options_.journal, {table_.cpu, table_.policy.cold},
                      options_.resume));
    journal_.WriteSession(table_.build, table_.environment);
    MeasureBandwidths();
    // The same again at the end, unless that takes much of the budget.
    constexpr double kMuch = 0.2;
    const double seconds = clock_.Seconds() - start_;
    const bool again = seconds < kMuch * options_.budget_seconds;
    if (again) end_ -= seconds;
    bench_.emplace(workloads_, options_.cold,
                   options_.rigor == Rigor::kEstimate, options_.seed, read_);
    for (; done_ < workloads_.size(); ++done_) {
      RANKFORGE_RETURN_IF_ERROR(TuneOne(workloads_[done_]));
    }
    if (again) MeasureBandwidths();
    SetRooflines();
    Report("done");
    JudgeConfidence(start_ticks_, Quality(), &table_.environment);
    return std::move(table_);
  }

 private:
  // Of the budget: half in equal shares, as a small matrix has as many
  // candidates as a large one, and half by bytes.
  double Share(const Workload& workload) const {
    double total = 0;
    for (const Workload& other : workloads_) total += ModelBytes(other);
    return 0.5 / static_cast<double>(workloads_.size()) +
           0.5 * ModelBytes(workload) / total;
  }

  // Until when to measure workload done_, from what is left now.
  double Deadline() {
    double shares = 0;
    for (size_t i = done_; i < workloads_.size(); ++i) {
      shares += Share(workloads_[i]);
    }
    const double now = clock_.Seconds();
    return now + (end_ - now) * Share(workloads_[done_]) / shares;
  }

  // Called again, it adds rounds. What was measured in between is held against
  // the medians of all.
  void MeasureBandwidths() {
    // When in a hurry, just enough to leave the caches behind.
    const size_t bytes = std::max(
        SweepBytes(),
        size_t{options_.rigor == Rigor::kEstimate ? 128u : 1024u} << 20);
    if (read_ == nullptr) read_ = std::make_shared<PageBuffer>(bytes);
    const size_t rounds = options_.rigor == Rigor::kPatient ? 5 : 3;
    std::set<size_t> counts = {1};
    for (const Workload& workload : workloads_) {
      counts.insert(workload.problem.threads);
    }
    for (const size_t threads : counts) {
      Report("read bandwidth of " + std::to_string(threads) +
             (threads == 1 ? " thread" : " threads"));
      ReadBandwidthMeter& meter =
          meters_.try_emplace(threads, threads, read_).first->second;
      for (size_t round = 0; round < rounds; ++round) meter.Round();
      table_.environment.read_gbps[threads] = meter.Best().gbps;
    }
  }

  Status TuneOne(const Workload& workload) {
    const std::string name = WorkloadName(workload);
    const std::string what = workload.problem.ToString();
    SearchSpace space =
        MakeSpace(workload, options_.rigor, options_.allow_reassociation);
    SearchPolicy policy = PolicyFor(options_.rigor);
    policy.seed = options_.seed;
    policy.margin = options_.margin;
    const std::string search = SearchName(space, policy, table_.build);
    const bool finished = journal_.IsFinished(name, search);
    if (finished || clock_.Seconds() >= end_) {
      // Out of time, what an earlier run found is better than nothing.
      const Measurements known = KnownSamples(space, journal_.Trials(name));
      if (known.total() > 0) AddEntry(workload, space, known);
      unmeasured_ += finished ? 0 : 1;
      return {};
    }
    Report(what);
    const double deadline = Deadline();

    const MeasuringSetup& setup = bench_->SetupFor(workload.problem.threads);
    const PinnedHere pin(UsableCpus().front());
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::unique_ptr<GemvRunner> runner,
        GemvRunner::Create(
            workload, setup,
            [&](const Candidate& candidate, const std::string& wrong) {
              journal_.WriteRejection(name, candidate.variant,
                                      std::string(Name(candidate.layout)),
                                      wrong);
            },
            space));

    Measurements known = Continue(space, name, journal_, *runner);
    JournalObserver observer(space, name, &journal_, [&] { Report(what); });
    const SearchResult result = Search(
        space, policy, deadline, std::move(known), *runner, clock_, observer);
    // With --resume and more time, an incomplete one goes on.
    refused_ += result.refused;
    if (result.complete) journal_.WriteFinished(name, search);
    AddEntry(workload, space, result.measurements);
    return {};
  }

  void AddEntry(const Workload& workload, const SearchSpace& space,
                const Measurements& measurements) {
    TableEntry entry{workload.problem, workload.layers,
                     Choose(space, measurements, options_.margin),
                     std::string(MaskSource(workload))};
    const double bytes = WeightBytes(
        workload.problem.type,
        static_cast<double>(workload.problem.rows * workload.problem.cols));
    for (size_t d = 0; d < space.densities.size(); ++d) {
      Bucket& bucket = entry.decision.by_density[d];
      if (bucket.ns.median <= 0) continue;
      bucket.useful_gbps = space.densities[d] * bytes / bucket.ns.median;
      spreads_.push_back(bucket.ns.mad / bucket.ns.median);
    }
    table_.entries.push_back(std::move(entry));
  }

  void SetRooflines() {
    for (TableEntry& entry : table_.entries) {
      const double limit = table_.environment.read_gbps[entry.decision.threads];
      for (Bucket& bucket : entry.decision.by_density) {
        if (limit <= 0) continue;
        bucket.roofline = bucket.useful_gbps / limit;
        above_bandwidth_ += options_.cold && bucket.roofline > 1.05;
      }
    }
  }

  RunQuality Quality() const {
    RunQuality quality;
    quality.spread = Median(spreads_);
    quality.above_bandwidth = above_bandwidth_;
    quality.unmeasured = unmeasured_;
    quality.refused = refused_;
    return quality;
  }

  // At most a few times a second: reports may go to a terminal.
  void Report(const std::string& message) {
    const double now = clock_.Seconds();
    const bool same = message == reported_message_;
    if (!options_.progress || (same && now < reported_ + 0.2)) return;
    reported_ = now;
    reported_message_ = message;
    double finished = 0;
    for (size_t i = 0; i < done_; ++i) finished += Share(workloads_[i]);
    TuneProgress progress;
    progress.done = done_;
    progress.total = workloads_.size();
    progress.message = message;
    progress.seconds_left = std::max(0.0, end_ - now);
    if (finished > 0) {
      progress.seconds_left = std::min(
          progress.seconds_left, (now - start_) * (1 - finished) / finished);
    }
    options_.progress(progress);
  }

  std::vector<Workload> workloads_;
  const TuneOptions& options_;
  const CpuTicks start_ticks_;
  SteadyClock clock_;
  double start_ = 0;
  double end_ = 0;
  Journal journal_;
  std::optional<Workbench> bench_;
  std::shared_ptr<PageBuffer> read_;             // of all meters
  std::map<size_t, ReadBandwidthMeter> meters_;  // by thread count
  DispatchTable table_;
  size_t done_ = 0;  // workloads
  size_t unmeasured_ = 0;
  size_t above_bandwidth_ = 0;
  size_t refused_ = 0;  // calls
  std::vector<double> spreads_;
  double reported_ = 0;
  std::string reported_message_;
};

}  // namespace

Result<DispatchTable> Tune(const std::vector<Workload>& workloads,
                           const TuneOptions& options) {
  if (workloads.empty()) {
    return UsageError("nothing to tune: name a model, preset or shapes file");
  }
  for (const Workload& workload : workloads) {
    RANKFORGE_RETURN_IF_ERROR(CheckWorkload(workload));
  }
  try {
    return Tuning(MergeEqualProblems(workloads), options).Run();
  } catch (const std::bad_alloc&) {
    return Failed(
        "out of memory while tuning; free some or tune with fewer "
        "shapes");
  }
}

}  // namespace rankforge
