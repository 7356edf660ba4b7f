#include "tuner/measure/gemv_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <set>

#include "kernels/mask/mask.h"
#include "kernels/registry.h"
#include "tuner/measure/masks.h"

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

// Outputs of one checked part; a few parts of a large matrix are checked.
constexpr size_t kCheckedOutputs = 128;
// Unwritten floats around a checked output.
constexpr size_t kFrame = 64;
// A NaN with a payload that no kernel computes.
constexpr uint32_t kUnwritten = 0x7fc0dead;

bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// Reads what the stage before the kernel would just have written.
float ReadAll(const float* data, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += data[i];
  return sum;
}

}  // namespace

GemvRunner::GemvRunner(const Workload& workload, const MeasuringSetup& setup,
                       SearchSpace& space)
    : workload_(workload),
      problem_(workload.problem),
      space_(space),
      setup_(setup),
      random_(setup.seed),
      x_(problem_.cols),
      rounded_(problem_.cols),
      y_(problem_.rows) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& x : x_) x = uniform(random_);
}

Result<std::unique_ptr<GemvRunner>> GemvRunner::Create(
    const Workload& workload, const MeasuringSetup& setup, const Report& report,
    SearchSpace& space) {
  std::unique_ptr<GemvRunner> runner(new GemvRunner(workload, setup, space));
  RANKFORGE_RETURN_IF_ERROR(runner->DescribeWeights());
  runner->DrawMasks();
  for (const Candidate& candidate : space.candidates) {
    runner->plans_.push_back(runner->PlanFor(candidate));
  }
  RANKFORGE_RETURN_IF_ERROR(runner->RejectWrong(report));
  runner->SetCallsPerSample();
  return runner;
}

Status GemvRunner::DescribeWeights() {
  size_t largest = 0;
  for (const Candidate& candidate : space_.candidates) {
    if (matrices_.count(candidate.layout) > 0) continue;
    RANKFORGE_ASSIGN_OR_RETURN(
        PackedMatrix matrix,
        PackedMatrix::Zero(problem_.rows, problem_.cols, problem_.type,
                           candidate.layout));
    largest = std::max(largest, matrix.bytes());
    matrices_.emplace(candidate.layout, std::move(matrix));
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
      AddMask(density, &masks);
    }
  }
  AddMask(1, &checked_masks_);
  if (!masked) return;
  AddMask(space_.densities[space_.expected], &checked_masks_);
  AddMask(0, &checked_masks_);
}

void GemvRunner::AddMask(double density, MaskSet* masks) {
  if (problem_.operation == Operation::kDense) {
    masks->views.emplace_back();
    return;
  }
  const bool of_columns = problem_.operation == Operation::kColumnMask;
  const size_t count = of_columns ? problem_.cols : problem_.rows;
  const size_t groups =
      (count + problem_.granularity - 1) / problem_.granularity;
  const auto kept =
      static_cast<size_t>(std::lround(density * static_cast<double>(groups)));
  const MaskModel model = {workload_.keep_frequency, workload_.mask_structure,
                           workload_.trace};
  const std::vector<uint32_t> index =
      DrawMask(model, groups, problem_.granularity, kept, random_);
  masks->memory.push_back(std::make_unique<MaskScratch>(count));
  masks->views.push_back(MaskFromIndex(
      index.data(), index.size(), of_columns ? x_.data() : nullptr, count,
      problem_.granularity, masks->memory.back()->storage()));
}

GemvPlan GemvRunner::PlanFor(const Candidate& candidate) const {
  Decision decision;
  decision.layout = candidate.layout;
  decision.threads = candidate.threads;
  Bucket bucket;
  bucket.variant = candidate.variant;
  bucket.spec_hash = candidate.spec_hash;
  decision.by_density.push_back(bucket);
  return GemvPlan::Bind(matrices_.at(candidate.layout), problem_, decision,
                        nullptr);
}

GemvCall GemvRunner::CallOf(const GemvPlan& plan, const MaskView& mask,
                            const std::byte* weights, float* y) {
  const GemvOutput output{.y = y};
  GemvCall call;
  switch (problem_.operation) {
    case Operation::kDense:
      call = plan.Dense(x_.data(), output, {}, &rounded_);
      break;
    case Operation::kRowMask:
      call = plan.RowMask(x_.data(), mask, output, {}, &rounded_);
      break;
    case Operation::kColumnMask:
      call = plan.ColumnMask(mask, output);
      break;
  }
  call.args.w = weights;
  if (call.args.run_scales != nullptr) {
    const auto* scales =
        reinterpret_cast<const std::byte*>(call.args.run_scales);
    call.args.run_scales = reinterpret_cast<const float*>(
        weights + (scales - plan.weights().data()));
  }
  return call;
}

std::vector<float> GemvRunner::RunSomeParts(const GemvPlan& plan,
                                            const MaskView& mask) {
  std::vector<float> framed(problem_.rows + 2 * kFrame,
                            std::bit_cast<float>(kUnwritten));
  GemvCall call =
      CallOf(plan, mask, setup_.pool->data(), framed.data() + kFrame);
  call.parts = std::max<size_t>(1, problem_.rows / kCheckedOutputs);
  for (const size_t part :
       std::set<size_t>{0, call.parts / 2, call.parts - 1}) {
    RunPart(call, part);
  }
  return framed;
}

Status GemvRunner::RejectWrong(const Report& report) {
  for (size_t c = space_.candidates.size(); c-- > 0;) {
    const Candidate& candidate = space_.candidates[c];
    const std::string wrong = Verify(candidate, plans_[c]);
    if (wrong.empty()) continue;
    if (c == 0) {
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

std::string GemvRunner::Verify(const Candidate& candidate,
                               const GemvPlan& plan) {
  const KernelEntry* entry = Registry::Get().Find(candidate.variant);
  // A plan that fell back to the default would be timed under a false name.
  if (entry == nullptr || &plan.EntryAt(1) != entry) {
    return "it does not fit this problem or this build";
  }
  // Sums of cols products of values in (-1, 1). Those of integers are exact.
  const bool rounds = RoundsInput(entry->spec);
  const double tolerance =
      entry->reassociates && !rounds
          ? std::sqrt(static_cast<double>(problem_.cols)) / 256
          : 0;
  for (size_t m = 0; m < checked_masks_.views.size(); ++m) {
    const MaskView& mask = checked_masks_.views[m];
    std::vector<float>& expected = expected_[{candidate.layout, rounds, m}];
    if (expected.empty()) {
      const KernelEntry* reference =
          Registry::Get().Reference(entry->spec, candidate.layout);
      if (reference == nullptr) return "there is no scalar reference for it";
      Candidate oracle = candidate;
      oracle.variant = reference->FullName();
      oracle.spec_hash = reference->spec_hash;
      expected = RunSomeParts(PlanFor(oracle), mask);
    }
    const std::vector<float> got = RunSomeParts(plan, mask);
    for (size_t i = 0; i < got.size(); ++i) {
      // The comparison is false, and the output wrong, when one is NaN.
      if (SameBits(got[i], expected[i]) ||
          std::abs(got[i] - expected[i]) <= tolerance) {
        continue;
      }
      return fmt::format("with {} of {} kept, output {} is {}, expected {}",
                         mask.kept, mask.groups,
                         static_cast<long>(i) - static_cast<long>(kFrame),
                         got[i], expected[i]);
    }
  }
  return "";
}

void GemvRunner::SetCallsPerSample() {
  // The default is as good as any to see how long a call takes.
  double ns = INFINITY;
  for (int i = 0; i < 3; ++i) {
    PrepareCalls(0, space_.expected);
    ns = std::min(ns, TimeCalls());
  }
  const size_t copies =
      setup_.pool->bytes() / matrices_.at(space_.candidates[0].layout).bytes();
  calls_per_sample_ = std::clamp<size_t>(static_cast<size_t>(kSampleNs / ns), 1,
                                         std::min(copies, kMaxCallsPerSample));
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
  const size_t bytes = matrices_.at(what.layout).bytes();
  const MaskSet& masks = masks_[density];
  const std::byte* weights =
      setup_.cold ? setup_.pool->NextCold(
                        bytes, TouchedBytes(what, space_.densities[density]),
                        *setup_.executor)
                  : setup_.pool->Next(bytes, warm_bytes_);
  const MaskView& mask = masks.views[turn_++ % masks.views.size()];
  return CallOf(plans_[candidate], mask, weights, y_.data());
}

void GemvRunner::PrepareCalls(size_t candidate, size_t density) {
  calls_.clear();
  for (size_t i = 0; i < calls_per_sample_; ++i) {
    calls_.push_back(NextCall(candidate, density));
  }
}

double GemvRunner::TimeCalls() {
  using Clock = std::chrono::steady_clock;
  Executor& executor = *setup_.executor;
  const std::span<const GemvCall> calls(calls_);
  if (prime_) {
    for (size_t i = 0; i < calls.size(); ++i) {
      RunCalls(calls.subspan(i, 1), executor);
    }
  }
  // In a model the input and the mask were just made, and the helpers are still
  // awake from the stage before.
  volatile float sink = 0;
  for (const GemvCall& call : calls) {
    const MaskView& mask = call.args.mask;
    if (call.args.x != nullptr) sink = ReadAll(call.args.x, problem_.cols);
    if (mask.zeroed != nullptr) sink = ReadAll(mask.zeroed, problem_.cols);
    if (mask.value != nullptr) {
      sink = ReadAll(mask.value, mask.kept * mask.granularity);
    }
    for (size_t i = 0; i < mask.kept; ++i) {
      sink = static_cast<float>(mask.index[i]);
    }
  }
  static_cast<void>(sink);
  executor.Run(executor.threads(), [](size_t) {});
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < calls.size(); ++i) {
    const RoundedInput& rounded = calls[i].args.rounded;
    if (rounded.integers != nullptr || rounded.pairs != nullptr) {
      RoundInput(x_.data(), problem_.cols, problem_.type, rounded_.storage());
    }
    RunCalls(calls.subspan(i, 1), executor);
  }
  const std::chrono::duration<double, std::nano> ns = Clock::now() - start;
  return ns.count() / static_cast<double>(calls.size());
}

Sample GemvRunner::Measure(size_t candidate, size_t density) {
  PrepareCalls(candidate, density);
  const double ns = TimeCalls();
  const double all = ns * static_cast<double>(calls_.size());
  return {all < kLeastSampleNs ? 0 : ns};
}

}  // namespace rankforge
