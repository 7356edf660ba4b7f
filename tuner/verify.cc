#include "tuner/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "base/affinity.h"
#include "kernels/registry.h"
#include "tuner/measure/environment.h"
#include "tuner/measure/read_bandwidth.h"
#include "tuner/measure/workbench.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

// What of `space` the kernels of `choice` are, by density; none where the space
// does not have it.
std::optional<Side> SideOf(const SearchSpace& space, const Choice& choice) {
  Side side;
  for (const double density : space.densities) {
    const KernelEntry* const kernel = &choice.KernelAt(density);
    const auto found =
        std::find_if(space.candidates.begin(), space.candidates.end(),
                     [&](const Candidate& candidate) {
                       return candidate.kernel == kernel &&
                              candidate.layout == choice.layout &&
                              candidate.threads == choice.threads;
                     });
    if (found == space.candidates.end()) return std::nullopt;
    side.push_back(static_cast<size_t>(found - space.candidates.begin()));
  }
  return side;
}

const TableEntry* FindEntry(const DispatchTable& table,
                            const Problem& problem) {
  const auto found =
      std::find_if(table.entries.begin(), table.entries.end(),
                   [&](const TableEntry& e) { return e.problem == problem; });
  return found == table.entries.end() ? nullptr : &*found;
}

bool ChoseOtherwise(const Choice& a, const Choice& b,
                    const std::vector<double>& densities) {
  return a.layout != b.layout || a.threads != b.threads ||
         std::any_of(densities.begin(), densities.end(), [&](double density) {
           return &a.KernelAt(density) != &b.KernelAt(density);
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
           !ChoseOtherwise(entry.choice, other->choice,
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
    Workbench bench(workloads, options_.cold, /*small_pool=*/false,
                    options_.seed);
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
        SpaceAt(job.workload, MeasuredDensities(entry.decision.by_density));
    if (known == nullptr) {
      const auto count = static_cast<double>(job.space.weights.size());
      for (double& weight : job.space.weights) weight = 1 / count;
    }
    return job;
  }

  Result<VerifiedEntry> VerifyOne(const Job& job, Workbench& bench) {
    const Choice& choice = job.entry->choice;
    SearchSpace space = job.space;
    const MeasuringSetup& setup = bench.SetupFor(job.workload.problem.threads);
    const PinnedHere pin(UsableCpus().front());
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::unique_ptr<GemvRunner> runner,
        GemvRunner::Create(
            job.workload, setup, [](const Candidate&, const std::string&) {},
            space));
    const std::optional<Side> chosen = SideOf(space, choice);
    const std::optional<Side> rival =
        job.rival == nullptr ? std::nullopt : SideOf(space, job.rival->choice);
    if (!chosen || (job.rival != nullptr && !rival)) {
      return Failed(fmt::format(
          "{}: layout {} with {} threads is nothing that tuning chooses from; "
          "run `rankforge tune` again",
          job.entry->problem.ToString(), Name(choice.layout), choice.threads));
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

}  // namespace

const Workload* FindWorkload(const std::vector<Workload>& workloads,
                             const Problem& problem) {
  const auto found =
      std::find_if(workloads.begin(), workloads.end(),
                   [&](const Workload& w) { return w.problem == problem; });
  return found == workloads.end() ? nullptr : &*found;
}

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

Result<VerifyReport> Verify(const DispatchTable& table,
                            const DispatchTable* rival,
                            const std::vector<Workload>& workloads,
                            const VerifyOptions& options) {
  return Verification(table, rival, workloads, options).Run();
}

}  // namespace rankforge
