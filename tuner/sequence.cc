#include "tuner/sequence.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <utility>

#include "base/affinity.h"
#include "base/statistics.h"
#include "kernels/registry.h"
#include "runtime/plan/plan.h"
#include "tuner/measure/workbench.h"

namespace rankforge {
namespace {

// What a product can run as: the sides of a sequence.
enum SequenceSide : size_t { kUntuned, kTuned, kBest, kSequenceSides };

// One problem of a sequence, its three candidates, and what calls them.
struct SequenceMember {
  Workload workload;
  SearchSpace space;
  std::unique_ptr<GemvRunner> runner;
};

struct Sequence {
  std::map<Problem, SequenceMember> members;
  std::vector<SequenceMember*> order;  // by product
};

using SideTimes = std::array<std::vector<double>, kSequenceSides>;  // ns

Candidate CandidateAt(const Choice& choice, double density) {
  return CandidateOf(choice.KernelAt(density), choice.layout, choice.threads);
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
  return CandidateOf(*Registry::Get().Find(bucket->best), entry->rival_layout,
                     entry->rival_threads);
}

// Leaves out products of problems that have no workload.
Sequence MakeSequence(const DispatchTable& table, const VerifyReport& report,
                      const std::vector<Workload>& workloads,
                      const std::vector<Problem>& products) {
  Sequence sequence;
  for (const Problem& problem : products) {
    const Workload* workload = FindWorkload(workloads, problem);
    if (workload == nullptr) continue;
    const auto [found, added] = sequence.members.try_emplace(problem);
    SequenceMember& member = found->second;
    sequence.order.push_back(&member);
    if (!added) continue;
    member.workload = *workload;
    const double density = workload->density;
    const Candidate tuned = CandidateAt(table.Lookup(problem).choice, density);
    member.space.candidates = {CandidateAt(DefaultChoice(problem), density),
                               tuned, BestIn(report, problem, density, tuned)};
    member.space.densities = {density};
    member.space.weights = {1};
  }
  return sequence;
}

Status MakeRunners(const MeasuringSetup& setup, Sequence& sequence) {
  for (auto& [problem, member] : sequence.members) {
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
  return {};
}

// ns of all products, one after another.
double TimeOnce(const Sequence& sequence, SequenceSide side,
                Executor& executor) {
  std::vector<GemvCall> calls;
  for (SequenceMember* member : sequence.order) {
    calls.push_back(member->runner->NextCall(side, 0));
  }
  const auto start = std::chrono::steady_clock::now();
  for (const GemvCall& call : calls) RunCalls({&call, 1}, executor);
  const std::chrono::duration<double, std::nano> ns =
      std::chrono::steady_clock::now() - start;
  return ns.count();
}

SideTimes TimeSides(const Sequence& sequence, size_t rounds, uint64_t seed,
                    Executor& executor) {
  SideTimes ns;
  std::array sides = {kUntuned, kTuned, kBest};
  std::mt19937_64 random(seed);
  for (size_t round = 0; round < rounds; ++round) {
    std::shuffle(sides.begin(), sides.end(), random);
    for (const SequenceSide side : sides) {
      ns[side].push_back(TimeOnce(sequence, side, executor));
    }
  }
  return ns;
}

}  // namespace

Result<SequenceReport> VerifySequence(const DispatchTable& table,
                                      const VerifyReport& report,
                                      const std::vector<Workload>& workloads,
                                      const std::vector<Problem>& products,
                                      const VerifyOptions& options) {
  Sequence sequence = MakeSequence(table, report, workloads, products);
  size_t threads = 1;
  std::vector<Workload> used;
  for (const auto& [problem, member] : sequence.members) {
    threads = std::max(threads, problem.threads);
    used.push_back(member.workload);
  }
  Workbench bench(used, options.cold, /*small_pool=*/false, options.seed);
  const MeasuringSetup& setup = bench.SetupFor(threads);
  const PinnedHere pin(UsableCpus().front());
  RANKFORGE_RETURN_IF_ERROR(MakeRunners(setup, sequence));
  const SideTimes ns =
      TimeSides(sequence, options.rounds, options.seed, *setup.executor);
  return SequenceReport{sequence.order.size(),
                        Median(ns[kUntuned]),
                        Median(ns[kTuned]),
                        Median(ns[kBest]),
                        RatioOf(ns[kTuned], ns[kBest]),
                        RatioOf(ns[kUntuned], ns[kTuned])};
}

}  // namespace rankforge
