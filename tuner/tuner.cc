#include "tuner/tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "kernels/registry.h"
#include "meta/packing.h"
#include "runtime/affinity.h"
#include "runtime/executor.h"
#include "tuner/environment.h"
#include "tuner/gemv_runner.h"
#include "tuner/journal.h"
#include "tuner/read_bandwidth.h"
#include "tuner/search.h"
#include "tuner/space.h"
#include "tuner/weight_pool.h"

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

// Bytes that the system can still give out; "unknown" counts as plenty.
double AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  double kilobytes = 0;
  std::string unit;
  while (file >> key >> kilobytes >> unit) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    if (unit != "kB") break;
  }
  return INFINITY;
}

// Writes what a search does to the journal, and reports progress.
class JournalObserver : public SearchObserver {
 public:
  JournalObserver(const SearchSpace& space, std::string workload,
                  Journal* journal, std::function<void()> progress)
      : space_(space),
        workload_(std::move(workload)),
        journal_(journal),
        progress_(std::move(progress)) {}

  void OnTrial(size_t candidate, size_t density,
               const Sample& sample) override {
    journal_->WriteTrial(workload_, Record(candidate, density, sample));
    progress_();
  }
  void OnDrop(size_t candidate, size_t density, size_t rounds,
              double ratio) override {
    journal_->WriteDrop(workload_, Record(candidate, density, {}), rounds,
                        ratio);
  }

 private:
  TrialRecord Record(size_t candidate, size_t density,
                     const Sample& sample) const {
    const Candidate& what = space_.candidates[candidate];
    return {what.variant, std::string(Name(what.layout)), what.threads,
            space_.densities[density], sample};
  }

  const SearchSpace& space_;
  const std::string workload_;
  Journal* journal_;
  const std::function<void()> progress_;
};

// The trials of an earlier run, by index. Those of variants or densities that
// are no longer searched are left out.
Measurements FromTrials(const SearchSpace& space,
                        const std::vector<TrialRecord>& trials) {
  Measurements known(space.candidates.size(), space.densities.size());
  for (const TrialRecord& trial : trials) {
    const auto candidate =
        std::find_if(space.candidates.begin(), space.candidates.end(),
                     [&](const Candidate& other) {
                       return other.variant == trial.variant &&
                              Name(other.layout) == trial.layout &&
                              other.threads == trial.threads;
                     });
    const auto density = std::find(space.densities.begin(),
                                   space.densities.end(), trial.density);
    if (candidate == space.candidates.end() ||
        density == space.densities.end()) {
      continue;
    }
    known.Add(static_cast<size_t>(candidate - space.candidates.begin()),
              static_cast<size_t>(density - space.densities.begin()),
              trial.sample);
  }
  return known;
}

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
    table_.policy.rigor = std::string(Name(options_.rigor));
    table_.policy.seed = options_.seed;
    table_.policy.margin = options_.margin;
    table_.policy.cold = options_.cold;
    RANKFORGE_ASSIGN_OR_RETURN(
        journal_, Journal::Open(options_.journal,
                                {table_.cpu, Registry::Get().hash(),
                                 table_.policy.cold, table_.policy.rigor},
                                options_.resume));
    MeasureBandwidths();
    // The same again at the end, unless that takes much of the budget.
    constexpr double kMuch = 0.2;
    const double seconds = clock_.Seconds() - start_;
    const bool again = seconds < kMuch * options_.budget_seconds;
    if (again) end_ -= seconds;
    const CacheSweep sweep(std::max(kMinSweepBytes, 2 * table_.cpu.l3_bytes));
    WeightPool pool(PoolBytes(sweep.bytes()), &sweep);
    setup_.cpu = table_.cpu;
    setup_.cold = table_.policy.cold;
    setup_.seed = options_.seed;
    setup_.pool = &pool;
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
  static constexpr size_t kMinSweepBytes = size_t{64} << 20;

  // Of the budget: half in equal shares, as a small matrix has as many
  // candidates as a large one, and half by bytes.
  double Share(const Workload& workload) const {
    double total = 0;
    for (const Workload& other : workloads_) total += ModelBytes(other);
    return 0.5 / static_cast<double>(workloads_.size()) +
           0.5 * ModelBytes(workload) / total;
  }

  // A gigabyte, or as much as the sweep when in a hurry, or what stays in the
  // cache; room for the weights of any workload, if there is that much memory.
  size_t PoolBytes(size_t sweep_bytes) const {
    size_t bytes = size_t{1} << 30;
    if (options_.rigor == Rigor::kEstimate) bytes = sweep_bytes;
    if (!options_.cold) bytes = table_.cpu.l3_bytes / 2;
    for (const Workload& workload : workloads_) {
      const Problem& problem = workload.problem;
      for (const Layout layout : kLayouts) {
        // A packed matrix takes whole pages, huge ones at most.
        bytes = std::max(bytes, RoundUp(PackedBytes(layout, problem.type,
                                                    problem.rows, problem.cols),
                                        size_t{2} << 20));
      }
    }
    return static_cast<size_t>(
        std::min(static_cast<double>(bytes), memory_budget_));
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
    const size_t bytes =
        options_.rigor == Rigor::kEstimate
            ? std::max(size_t{128} << 20, 4 * table_.cpu.l3_bytes)
            : size_t{1} << 30;
    const size_t rounds = options_.rigor == Rigor::kPatient ? 5 : 3;
    std::set<size_t> counts = {1};
    for (const Workload& workload : workloads_) {
      counts.insert(workload.problem.threads);
    }
    for (const size_t threads : counts) {
      Report("read bandwidth of " + std::to_string(threads) +
             (threads == 1 ? " thread" : " threads"));
      ReadBandwidthMeter& meter =
          meters_.try_emplace(threads, threads, bytes).first->second;
      for (size_t round = 0; round < rounds; ++round) meter.Round();
      table_.environment.read_gbps[threads] = meter.Best().gbps;
    }
  }

  Status TuneOne(const Workload& workload) {
    const std::string name = WorkloadName(workload);
    const std::string what = workload.problem.ToString();
    SearchSpace space =
        MakeSpace(workload, options_.rigor, options_.allow_reassociation);
    Measurements known = FromTrials(space, journal_.Trials(name));
    if (journal_.IsFinished(name)) {
      AddEntry(workload, space, known);
      return {};
    }
    if (clock_.Seconds() >= end_) {
      ++unmeasured_;
      return {};
    }
    Report(what);
    const double deadline = Deadline();

    // The team pins its helpers by this thread's CPUs, so it comes first.
    const std::unique_ptr<Executor> executor =
        MakeDefaultExecutor(workload.problem.threads);
    setup_.executor = executor.get();
    const PinnedHere pin(UsableCpus().front());
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::unique_ptr<GemvRunner> runner,
        GemvRunner::Create(
            workload, setup_,
            [&](const Candidate& candidate, const std::string& wrong) {
              journal_.WriteRejection(name, candidate.variant,
                                      std::string(Name(candidate.layout)),
                                      wrong);
            },
            space));

    // The space may have shrunk: indices of before no longer hold.
    known = FromTrials(space, journal_.Trials(name));
    if (known.total() > 0 && !StillHolds(space, known, *runner)) {
      journal_.WriteDiscard(name);
      known = Measurements(space.candidates.size(), space.densities.size());
    }
    SearchPolicy policy = PolicyFor(options_.rigor);
    policy.seed = options_.seed;
    policy.margin = options_.margin;
    JournalObserver observer(space, name, &journal_, [&] { Report(what); });
    const SearchResult result = Search(
        space, policy, deadline, std::move(known), *runner, clock_, observer);
    // With --resume and more time, an incomplete one goes on.
    if (result.complete) journal_.WriteFinished(name);
    AddEntry(workload, space, result.measurements);
    return {};
  }

  void AddEntry(const Workload& workload, const SearchSpace& space,
                const Measurements& measurements) {
    TableEntry entry{workload.problem, workload.layers,
                     Choose(space, measurements, options_.margin)};
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
  // Half of what there is, for the weights of one problem in all layouts.
  const double memory_budget_ = AvailableBytes() / 2;
  SteadyClock clock_;
  double start_ = 0;
  double end_ = 0;
  Journal journal_;
  MeasuringSetup setup_;
  std::map<size_t, ReadBandwidthMeter> meters_;  // by thread count
  DispatchTable table_;
  size_t done_ = 0;  // workloads
  size_t unmeasured_ = 0;
  size_t above_bandwidth_ = 0;
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
