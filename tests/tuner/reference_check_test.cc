// The tuner times no kernel that computes something else than the reference.
#include "tuner/measure/reference_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "kernels/registry.h"
#include "meta/variants.h"
#include "tuner/measure/weight_pool.h"

namespace rankforge {
namespace {

KernelFn right_kernel = nullptr;

// One output of the part is off by the least that an f32 can be.
void OffByOneStep(const KernelArgs& args) {
  right_kernel(args);
  float& y = args.y[args.row_begin + 5];
  y = std::nextafter(y, std::numeric_limits<float>::infinity());
}

TEST(ReferenceCheckTest, FindsAKernelThatIsOffByOneStep) {
  for (const WeightType type : {WeightType::kF32, WeightType::kI4mGroup32}) {
    Workload workload;
    workload.problem = {.operation = Operation::kDense,
                        .rows = 256,
                        .cols = 96,
                        .type = type,
                        .granularity = 1,
                        .batch = 1,
                        .threads = 1};
    const Problem& problem = workload.problem;
    const KernelEntry* const kernel = DefaultKernel(problem, Layout::kOutIn);
    ASSERT_NE(kernel, nullptr);
    right_kernel = kernel->fn;
    KernelEntry wrong_kernel = *kernel;
    wrong_kernel.fn = &OffByOneStep;
    SearchSpace space;
    space.candidates = {CandidateOf(*kernel, Layout::kOutIn, 1),
                        CandidateOf(wrong_kernel, Layout::kOutIn, 1)};
    GemvCalls calls(workload, 1);
    ASSERT_TRUE(calls.AddLayouts(space).ok());
    const CacheSweep sweep(std::make_shared<PageBuffer>(1 << 20), 1 << 20);
    WeightPool pool(size_t{1} << 20, &sweep);
    pool.Fill(type, 1);
    MaskSet masks;
    calls.DrawMask(1, &masks);
    ReferenceCheck check(problem, pool.data(), masks, &calls);
    // First, so that the reference is not there yet.
    EXPECT_NE(
        check.WhyWrong(space.candidates[1], calls.PlanFor(space.candidates[1]))
            .find("output 5 is"),
        std::string::npos);
    EXPECT_EQ(
        check.WhyWrong(space.candidates[0], calls.PlanFor(space.candidates[0])),
        "");
  }
}

// The problems of a weight type.
std::vector<std::pair<Operation, Activations>> Asked(WeightType type) {
  std::vector<std::pair<Operation, Activations>> asked;
  for (const Operation operation : kOperations) {
    for (const Activations activations : kActivations) {
      if (ActivationsFor(operation, type, activations) == activations) {
        asked.emplace_back(operation, activations);
      }
    }
  }
  return asked;
}

// Weights of the pool are such as a packed matrix holds, in every layout. Else
// kernels that rely on it would be rejected, and never timed.
TEST(ReferenceCheckTest, AcceptsEveryKernelOnTheWeightsOfThePool) {
  const CacheSweep sweep(std::make_shared<PageBuffer>(1 << 20), 1 << 20);
  size_t accepted = 0;
  for (const WeightType type : kWeightTypes) {
    WeightPool pool(size_t{2} << 20, &sweep);
    pool.Fill(type, 1);
    for (const auto& [operation, activations] : Asked(type)) {
      Workload workload;
      workload.problem = {.operation = operation,
                          .rows = 512,
                          .cols = 576,
                          .type = type,
                          .granularity = 1,
                          .batch = 1,
                          .threads = 1,
                          .activations = activations};
      const SearchSpace space = MakeSpace(workload, Rigor::kEstimate);
      GemvCalls calls(workload, 1);
      ASSERT_TRUE(calls.AddLayouts(space).ok());
      MaskSet masks;
      calls.DrawMask(1, &masks);
      if (operation != Operation::kDense) calls.DrawMask(0.5, &masks);
      ReferenceCheck check(workload.problem, pool.data(), masks, &calls);
      for (const Candidate& candidate : space.candidates) {
        EXPECT_EQ(check.WhyWrong(candidate, calls.PlanFor(candidate)), "")
            << candidate.variant << ", " << workload.problem.ToString();
        ++accepted;
      }
    }
  }
  EXPECT_GT(accepted, 50u);
}

}  // namespace
}  // namespace rankforge
