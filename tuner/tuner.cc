#include "tuner/tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "base/affinity.h"
#include "base/statistics.h"
#include "tuner/measure/environment.h"
#include "tuner/measure/gemv_runner.h"
#include "tuner/measure/read_bandwidth.h"
#include "tuner/measure/workbench.h"
#include "tuner/search/choose.h"
#include "tuner/search/journal.h"
#include "tuner/search/resume.h"
#include "tuner/search/rigor.h"
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
        settings_(SettingsOf(options.rigor)),
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
    RANKFORGE_RETURN_IF_ERROR(DescribeRun());
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
    bench_.emplace(workloads_, options_.cold, settings_.small_pool,
                   options_.seed, read_);
    for (; done_ < workloads_.size(); ++done_) {
      RANKFORGE_RETURN_IF_ERROR(TuneOne(workloads_[done_]));
    }
    if (again) MeasureBandwidths();

    SetRooflines();
    Report("done");
    JudgeConfidence(start_ticks_, ReadCpuTicks(), Quality(),
                    &table_.environment);
    return std::move(table_);
  }

 private:
  // CPU, conditions and policy; fails where timings would mean nothing.
  Status DescribeRun() {
    table_.cpu = CpuInfo::Detect();
    table_.environment = ReadEnvironment();
    table_.policy.rigor = std::string(Name(options_.rigor));
    table_.policy.seed = options_.seed;
    table_.policy.margin = options_.margin;
    table_.policy.cold = options_.cold;
    if (options_.allow_noise) return {};
    size_t threads = 1;
    for (const Workload& workload : workloads_) {
      threads = std::max(threads, workload.problem.threads);
    }
    return CheckEnvironment(table_.environment, threads);
  }

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

  // A second call adds rounds: measurements in between are compared with the
  // medians of all rounds.
  void MeasureBandwidths() {
    if (read_ == nullptr) {
      read_ = std::make_shared<PageBuffer>(
          std::max(SweepBytes(), settings_.read_bytes));
    }
    std::set<size_t> counts = {1};
    for (const Workload& workload : workloads_) {
      counts.insert(workload.problem.threads);
    }
    for (const size_t threads : counts) {
      Report("read bandwidth of " + std::to_string(threads) +
             (threads == 1 ? " thread" : " threads"));
      ReadBandwidthMeter& meter =
          meters_.try_emplace(threads, threads, read_).first->second;
      for (size_t round = 0; round < settings_.read_rounds; ++round)
        meter.Round();
      table_.environment.read_gbps[threads] = meter.Best().gbps;
    }
  }

  // Decides what to measure, measures it, and chooses.
  Status TuneOne(const Workload& workload) {
    Task task = MakeTask(workload);
    const bool finished = journal_.IsFinished(task.name, task.search);
    if (finished || clock_.Seconds() >= end_) {
      // Out of time, what an earlier run found is better than nothing.
      const Measurements known =
          KnownSamples(task.space, journal_.Trials(task.name));
      if (known.total() > 0) AddEntry(workload, task.space, known);
      unmeasured_ += finished ? 0 : 1;
      return {};
    }
    RANKFORGE_ASSIGN_OR_RETURN(const Measurements measurements, Measure(task));
    AddEntry(workload, task.space, measurements);
    return {};
  }

  // What is to be done for one workload.
  struct Task {
    const Workload& workload;
    SearchSpace space;
    SearchPolicy policy;
    std::string name;    // of the workload, in the journal
    std::string search;  // what the journal calls finished
  };

  Task MakeTask(const Workload& workload) const {
    Task task = {workload,
                 MakeSpace(workload, options_.rigor),
                 settings_.policy,
                 WorkloadName(workload),
                 {}};
    const Problem& problem = workload.problem;
    if (options_.integers_on_rows && IsQuantized(problem.type) &&
        problem.operation == Operation::kDense) {
      std::erase_if(task.space.candidates, [](const Candidate& candidate) {
        return !RunsAreRows(candidate.layout);
      });
    }
    task.policy.seed = options_.seed;
    task.policy.margin = options_.margin;
    task.search = SearchName(task.space, task.policy, table_.build);
    return task;
  }

  // Takes wrong candidates out of the task's space, and writes the journal.
  Result<Measurements> Measure(Task& task) {
    const std::string what = task.workload.problem.ToString();
    Report(what);
    const double deadline = Deadline();
    const MeasuringSetup& setup =
        bench_->SetupFor(task.workload.problem.threads);
    const PinnedHere pin(UsableCpus().front());
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::unique_ptr<GemvRunner> runner,
        GemvRunner::Create(
            task.workload, setup,
            [&](const Candidate& candidate, const std::string& wrong) {
              journal_.WriteRejection(task.name, candidate.variant,
                                      std::string(Name(candidate.layout)),
                                      wrong);
            },
            task.space));
    Measurements known = Continue(task.space, task.name, journal_, *runner);
    JournalObserver observer(task.space, task.name, &journal_,
                             [&] { Report(what); });
    SearchResult result = Search(task.space, task.policy, deadline,
                                 std::move(known), *runner, clock_, observer);
    refused_ += result.refused;
    // An incomplete search goes on with --resume and more time.
    if (result.complete) journal_.WriteFinished(task.name, task.search);
    return std::move(result.measurements);
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
  const RigorSettings& settings_;
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
