#include "tuner/measure/gemv_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>

#include "tuner/measure/reference_check.h"

namespace rankforge {
namespace {

// Different masks of one density take turns: one alone would be learnt by the
// branch predictor of a bitset walk.
constexpr size_t kMasksPerDensity = 4;

// Short calls are timed in groups that last about this long; the clock costs
// 0.03 us.
constexpr double kSampleNs = 20e3;
constexpr size_t kMaxCallsPerSample = 256;
// Below this, a sample would be mostly the clock's: ten times its cost.
constexpr double kLeastSampleNs = 300;

}  // namespace

GemvRunner::GemvRunner(const Workload& workload, const MeasuringSetup& setup,
                       SearchSpace& space)
    : problem_(workload.problem),
      space_(space),
      setup_(setup),
      calls_(workload, setup.seed),
      y_(problem_.rows) {}

Result<std::unique_ptr<GemvRunner>> GemvRunner::Create(
    const Workload& workload, const MeasuringSetup& setup, const Report& report,
    SearchSpace& space) {
  std::unique_ptr<GemvRunner> runner(new GemvRunner(workload, setup, space));
  RANKFORGE_RETURN_IF_ERROR(runner->calls_.AddLayouts(space));
  RANKFORGE_RETURN_IF_ERROR(runner->FillPool());
  runner->DrawMasks();
  for (const Candidate& candidate : space.candidates) {
    runner->plans_.push_back(runner->calls_.PlanFor(candidate));
  }
  RANKFORGE_RETURN_IF_ERROR(runner->RejectWrong(report));
  runner->SetCallsPerSample();
  return runner;
}

Status GemvRunner::FillPool() {
  size_t largest = 0;
  for (const Candidate& candidate : space_.candidates) {
    largest = std::max(largest, calls_.BytesOf(candidate.layout));
  }
  if (largest > setup_.pool->bytes()) {
    return EnvironmentError(fmt::format(
        "{}: {} MB of weights do not fit the memory that is left; use a "
        "machine with more",
        problem_.ToString(), largest / 1000000));
  }
  setup_.pool->Fill(problem_.type, setup_.seed);
  warm_bytes_ = std::max(largest, setup_.cpu.l3_bytes / 2);
  prime_ = !setup_.cold && largest > setup_.cpu.l3_bytes / 2;
  return {};
}

void GemvRunner::DrawMasks() {
  const bool masked = problem_.operation != Operation::kDense;
  for (const double density : space_.densities) {
    MaskSet& masks = masks_.emplace_back();
    for (size_t i = 0; i < (masked ? kMasksPerDensity : 1); ++i) {
      calls_.DrawMask(density, &masks);
    }
  }
  calls_.DrawMask(1, &checked_masks_);
  if (!masked) return;
  calls_.DrawMask(space_.densities[space_.expected], &checked_masks_);
  calls_.DrawMask(0, &checked_masks_);
}

Status GemvRunner::RejectWrong(const Report& report) {
  ReferenceCheck check(problem_, setup_.pool->data(), checked_masks_, &calls_);
  for (size_t c = space_.candidates.size(); c-- > 0;) {
    const Candidate& candidate = space_.candidates[c];
    const std::string wrong = check.WhyWrong(candidate, plans_[c]);
    if (wrong.empty()) continue;
    if (c == kDefaultCandidate) {
      return Failed(fmt::format(
          "default variant {} disagrees with the scalar reference on {}: {}; "
          "run the tests of this build",
          candidate.variant, problem_.ToString(), wrong));
    }
    report(candidate, wrong);
    space_.candidates.erase(space_.candidates.begin() + static_cast<long>(c));
    plans_.erase(plans_.begin() + static_cast<long>(c));
  }
  return {};
}

void GemvRunner::SetCallsPerSample() {
  // The default is as good as any to see how long a call takes.
  double ns = INFINITY;
  for (int i = 0; i < 3; ++i) {
    PrepareCalls(0, space_.expected);
    ns = std::min(ns, TimeCalls(space_.candidates[0].layout));
  }
  const size_t copies =
      setup_.pool->bytes() / calls_.BytesOf(space_.candidates[0].layout);
  most_calls_ = std::clamp<size_t>(copies, 1, kMaxCallsPerSample);
  calls_per_sample_ =
      std::clamp<size_t>(static_cast<size_t>(kSampleNs / ns), 1, most_calls_);
}

uint64_t GemvRunner::TouchedBytes(const Candidate& candidate,
                                  double density) const {
  const double share = candidate.zeroed ? 1 : density;
  return static_cast<uint64_t>(
      WeightBytes(problem_.type,
                  share * static_cast<double>(problem_.rows * problem_.cols)));
}

GemvCall GemvRunner::NextCall(size_t candidate, size_t density) {
  const Candidate& what = space_.candidates[candidate];
  const size_t bytes = calls_.BytesOf(what.layout);
  const MaskSet& masks = masks_[density];
  const std::byte* weights =
      setup_.cold ? setup_.pool->NextCold(
                        bytes, TouchedBytes(what, space_.densities[density]),
                        *setup_.executor)
                  : setup_.pool->Next(bytes, warm_bytes_);
  const MaskView& mask = masks.views[turn_++ % masks.views.size()];
  return calls_.CallOf(plans_[candidate], mask, weights, y_.data());
}

void GemvRunner::PrepareCalls(size_t candidate, size_t density) {
  prepared_.clear();
  for (size_t i = 0; i < calls_per_sample_; ++i) {
    prepared_.push_back(NextCall(candidate, density));
  }
}

double GemvRunner::TimeCalls(Layout layout) {
  using Clock = std::chrono::steady_clock;
  Executor& executor = *setup_.executor;
  const std::span<const GemvCall> calls(prepared_);
  if (prime_) {
    for (size_t i = 0; i < calls.size(); ++i) {
      RunCalls(calls.subspan(i, 1), executor);
    }
  }
  // In a model the input and the mask were just made, and the helpers are still
  // awake from the stage before.
  for (const GemvCall& call : calls) calls_.ReadInputsOf(call);
  executor.Run(executor.threads(), [](size_t) {});
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < calls.size(); ++i) {
    calls_.RoundInputOf(calls[i], layout);
    RunCalls(calls.subspan(i, 1), executor);
  }
  const std::chrono::duration<double, std::nano> ns = Clock::now() - start;
  return ns.count() / static_cast<double>(calls.size());
}

Sample GemvRunner::Measure(size_t candidate, size_t density) {
  for (;;) {
    PrepareCalls(candidate, density);
    const double ns = TimeCalls(space_.candidates[candidate].layout);
    if (ns * static_cast<double>(prepared_.size()) >= kLeastSampleNs)
      return {ns};
    if (calls_per_sample_ == most_calls_) return {0};
    // The default, by which calls were counted, can take 100 times as long: it
    // waits for its helpers, and keeps more columns.
    calls_per_sample_ = std::min(2 * calls_per_sample_, most_calls_);
  }
}

}  // namespace rankforge
