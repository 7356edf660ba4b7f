// Plans: parts, threads, forced variants, and the promise that within a layout
// tuning changes no bit of a result.
#include "runtime/plan/plan.h"

#include <gtest/gtest.h>

#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "meta/packing.h"
#include "meta/rules.h"
#include "runtime/table/decision.h"
#include "tests/random_vector.h"
#include "tests/runtime/host_threads.h"

namespace rankforge {
namespace {

constexpr size_t kRows = 403, kCols = 290;

std::vector<std::unique_ptr<Executor>> Executors() {
  std::vector<std::unique_ptr<Executor>> executors;
  executors.push_back(MakeSerialExecutor());
  executors.push_back(MakeThreadsOfHost(2));
  executors.push_back(MakeTeamExecutor(2));
  return executors;
}

Problem ProblemOf(Operation operation, WeightType type, size_t granularity) {
  return {operation, kRows, kCols, type, granularity, 1, 4};
}

PackedMatrix Weights(WeightType type, Layout layout) {
  const std::vector<float> w = RandomVector(kRows * kCols, 1);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, kRows, kCols,
                            false};
  return PackedMatrix::Pack({&source, 1}, type, layout).value();
}

class PlanTest : public testing::TestWithParam<WeightType> {};

// All variants of a layout, all thread counts and all executors agree bit for
// bit, with no more of a mask than the plan asks for, and masked column layouts
// agree with dense on zeroed values.
TEST_P(PlanTest, NothingButTheLayoutChangesAResult) {
  const WeightType type = GetParam();
  const std::vector<float> x = RandomVector(kCols, 2);
  const std::vector<float> bias = RandomVector(kRows, 3);
  const std::vector<float> tau(kCols, 0.8f), row_tau(kRows, 0.8f);
  const std::vector<float> score = RandomVector(kRows, 4);
  MaskScratch columns(kCols), some_columns(kCols), some_rows(kRows);
  const MaskView column_mask =
      MakeMask(x.data(), kCols, {.tau = tau.data()}, columns.storage());
  const auto executors = Executors();

  for (const Layout layout : kLayouts) {
    if (!Offers(layout, type)) continue;
    const PackedMatrix weights = Weights(type, layout);
    std::vector<float> dense_on_zeroed, masked;
    for (const Operation operation : kOperations) {
      const Problem problem = ProblemOf(operation, type, 1);
      std::vector<float> expected;
      for (const KernelEntry* entry : Registry::Get().Candidates(
               operation, type, layout, 1, kRows, kCols, false)) {
        for (const size_t threads : {1, 2, 3}) {
          for (const auto& executor : executors) {
            const GemvPlan plan = GemvPlan::Bind(
                weights, problem, ChoiceOf(*entry, layout, threads));
            // The others are null.
            const MaskView kept_columns =
                MakeMask(x.data(), kCols, {.tau = tau.data()},
                         some_columns.storage(), plan.mask_arrays());
            const MaskView kept_rows =
                MakeMask(score.data(), kRows, {.tau = row_tau.data()},
                         some_rows.storage(), plan.mask_arrays());
            std::vector<float> y(kRows, -7.0f);
            const GemvOutput output{y.data(), bias.data(), false};
            const GemvCall call =
                operation == Operation::kDense
                    ? plan.Dense(column_mask.zeroed, output)
                : operation == Operation::kRowMask
                    ? plan.RowMask(x.data(), kept_rows, output)
                    : plan.ColumnMask(kept_columns, output);
            RunCalls({&call, 1}, *executor);
            if (expected.empty()) expected = y;
            for (size_t i = 0; i < kRows; ++i) {
              ASSERT_EQ(std::bit_cast<uint32_t>(y[i]),
                        std::bit_cast<uint32_t>(expected[i]))
                  << entry->FullName() << ", " << threads << " threads, "
                  << executor->name() << ", output " << i;
            }
          }
        }
      }
      if (operation == Operation::kDense) dense_on_zeroed = expected;
      if (operation == Operation::kColumnMask) masked = expected;
    }
    if (!RunsAreRows(layout)) {
      EXPECT_EQ(masked, dense_on_zeroed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PlanTest, testing::ValuesIn(kWeightTypes),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

// Several tokens: the default variant, any number of threads and every executor
// give each token what a plan of its own gives it.
TEST_P(PlanTest, TokensOfABatchGetWhatTheyGetAlone) {
  const WeightType type = GetParam();
  constexpr size_t kTokens = 5, kXStride = kCols + 1, kYStride = kRows + 2;
  const std::vector<float> x = RandomVector(kTokens * kXStride, 2);
  const std::vector<float> score = RandomVector(kTokens * kRows, 4);
  const std::vector<float> bias = RandomVector(kRows, 3);
  const auto executors = Executors();
  for (const Operation operation : kOperations) {
    const bool row_mask = operation == Operation::kRowMask;
    const size_t count = row_mask ? kRows : kCols;
    std::vector<MaskScratch> scratch(kTokens, MaskScratch(count));
    std::vector<MaskView> own;
    std::vector<const uint64_t*> bits;
    for (size_t t = 0; t < kTokens; ++t) {
      own.push_back(MakeMask(row_mask ? &score[t * kRows] : &x[t * kXStride],
                             count, {.common_tau = 0.8f},
                             scratch[t].storage()));
      bits.push_back(own[t].bits);
    }
    UnionScratch union_scratch(kTokens, count);
    const MaskView together =
        UnionOfMasks(bits, 1, row_mask ? nullptr : x.data(), kXStride, count,
                     union_scratch.storage());
    const auto call_of = [&](const GemvPlan& plan, const float* input,
                             const MaskView& mask, float* y,
                             const TokenBatch& batch) {
      const GemvOutput output{y, bias.data(), false};
      switch (operation) {
        case Operation::kDense:
          return plan.Dense(input, output, batch);
        case Operation::kRowMask:
          return plan.RowMask(input, mask, output, batch);
        case Operation::kColumnMask:
          return plan.ColumnMask(mask, output, batch);
      }
      return GemvCall();
    };
    for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
      Problem problem = ProblemOf(operation, type, 1);
      if (DefaultKernel(problem, layout) == nullptr) continue;
      const PackedMatrix weights = Weights(type, layout);
      const GemvPlan plan = GemvPlan::Bind(
          weights, problem,
          ChoiceOf(*DefaultKernel(problem, layout), layout, problem.threads));
      std::vector<float> expected(kTokens * kYStride, -7.0f);
      for (size_t t = 0; t < kTokens; ++t) {
        const GemvCall call = call_of(plan, &x[t * kXStride], own[t],
                                      &expected[t * kYStride], {});
        RunCalls({&call, 1}, *executors[0]);
      }
      problem.batch = kTokens;
      for (const size_t threads : {1, 2, 3}) {
        const GemvPlan batch_plan = GemvPlan::Bind(
            weights, problem,
            ChoiceOf(*DefaultKernel(problem, layout), layout, threads));
        for (const auto& executor : executors) {
          std::vector<float> y(kTokens * kYStride, -7.0f);
          const GemvCall call =
              call_of(batch_plan, x.data(), together, y.data(),
                      {kTokens, kXStride, kYStride});
          RunCalls({&call, 1}, *executor);
          EXPECT_EQ(y, expected) << Name(operation) << ", " << Name(layout)
                                 << ", " << threads << " threads";
        }
      }
    }
  }
}

// The plan of several tokens that belongs to one of a single token.
TEST(Plan, ForSeveralComputesTheSameOrIsNone) {
  const auto several = [](Operation operation, WeightType type, Layout layout,
                          const KernelEntry* kernel) {
    const Problem problem = ProblemOf(operation, type, 1);
    if (kernel == nullptr) kernel = DefaultKernel(problem, layout);
    const PackedMatrix weights = Weights(type, layout);
    const auto plan =
        GemvPlan::Bind(weights, problem, ChoiceOf(*kernel, layout, 2))
            .ForSeveral();
    if (plan) {
      EXPECT_EQ(plan->problem().batch, kMostTokens);
      EXPECT_TRUE(TakesTokens(plan->EntryAt(1).spec));
    }
    return plan.has_value();
  };
  const bool has_fma =
      !Registry::Get()
           .Default(Operation::kDense, WeightType::kF32, Layout::kOutIn, 1, 2)
           ->is_reference();
  for (const Operation operation : kOperations) {
    EXPECT_EQ(several(operation, WeightType::kBf16,
                      operation == Operation::kColumnMask ? Layout::kInOut
                                                          : Layout::kOutIn,
                      nullptr),
              has_fma);
  }
  EXPECT_FALSE(
      several(Operation::kDense, WeightType::kF32, Layout::kPanel64, nullptr));
  EXPECT_FALSE(several(Operation::kDense, WeightType::kI8Group32,
                       Layout::kRows16, nullptr));
  for (const KernelEntry* entry : Registry::Get().Candidates(
           Operation::kDense, WeightType::kI8Group32, Layout::kOutIn, 1, kRows,
           kCols, /*allow_reassociation=*/true)) {
    EXPECT_EQ(several(Operation::kDense, WeightType::kI8Group32, Layout::kOutIn,
                      entry),
              has_fma && !entry->reassociates)
        << entry->FullName();
  }
}

// Calls of several tokens on the same weights, cut into many parts.
TEST(Plan, CallsCutForReuseGiveTheSame) {
  constexpr size_t kManyRows = 2003, kTokens = 3;
  const std::vector<float> w = RandomVector(kManyRows * kCols, 1);
  const std::vector<float> x = RandomVector(kTokens * kCols, 2);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, kManyRows,
                            kCols, false};
  for (const Layout layout : {Layout::kPanel128, Layout::kInOut}) {
    const PackedMatrix weights =
        PackedMatrix::Pack({&source, 1}, WeightType::kF32, layout).value();
    Problem problem = ProblemOf(Operation::kDense, WeightType::kF32, 1);
    problem.rows = kManyRows;
    const GemvPlan plan = GemvPlan::Bind(
        weights, problem, ChoiceOf(*DefaultKernel(problem, layout), layout, 2));
    const auto run = [&](bool cut) {
      std::vector<float> y(kTokens * kManyRows);
      std::vector<GemvCall> calls;
      for (size_t t = 0; t < kTokens; ++t) {
        calls.push_back(
            plan.Dense(&x[t * kCols], {.y = y.data() + t * kManyRows}));
      }
      if (cut) CutForReuse(weights, calls);
      EXPECT_EQ(calls[0].parts > 8, cut && layout == Layout::kPanel128);
      RunCalls(calls, *MakeTeamExecutor(2));
      return y;
    };
    EXPECT_EQ(run(true), run(false)) << Name(layout);
  }
}

// A problem of several tokens is served by kernels for them, and by no others.
TEST(Plan, BatchesRunKernelsOfTheirOwn) {
  Problem problem = ProblemOf(Operation::kColumnMask, WeightType::kBf16, 1);
  const std::string one = DefaultChoice(problem).KernelAt(1).FullName();
  problem.batch = 4;
  const std::string several = DefaultChoice(problem).KernelAt(1).FullName();
  EXPECT_NE(one, several);
  EXPECT_TRUE(ForcedChoice(problem, several).ok());
  EXPECT_FALSE(ForcedChoice(problem, one).ok());
  problem.batch = 1;
  EXPECT_FALSE(ForcedChoice(problem, several).ok());
}

// Inputs are rounded in the caller's memory; without it the default runs.
void ExpectRoundingNeedsScratch(WeightType type) {
  const PackedMatrix weights = Weights(type, Layout::kOutIn);
  const Problem problem = ProblemOf(Operation::kDense, type, 1);
  const Registry& registry = Registry::Get();
  const KernelEntry* rounding = nullptr;
  for (const KernelEntry* entry :
       registry.Candidates(Operation::kDense, type, Layout::kOutIn, 1, kRows,
                           kCols, /*allow_reassociation=*/true)) {
    if (RoundsInput(entry->spec)) rounding = entry;
  }
  if (rounding == nullptr) GTEST_SKIP() << "no such kernel for this CPU";
  const auto run = [&](const KernelEntry& entry, InputScratch* scratch) {
    const GemvPlan plan =
        GemvPlan::Bind(weights, problem, ChoiceOf(entry, Layout::kOutIn, 2));
    const std::vector<float> x = RandomVector(kCols, 2);
    std::vector<float> y(kRows);
    const GemvCall call = plan.Dense(x.data(), {.y = y.data()}, {}, scratch);
    RunCalls({&call, 1}, *MakeTeamExecutor(2));
    return y;
  };
  InputScratch scratch(kCols);
  const auto exact = run(
      *registry.Default(Operation::kDense, type, Layout::kOutIn, 1), nullptr);
  const auto reference =
      run(*registry.Reference(rounding->spec, Layout::kOutIn), &scratch);
  EXPECT_EQ(run(*rounding, &scratch), reference);
  EXPECT_NE(reference, exact);
  EXPECT_EQ(run(*rounding, nullptr), exact);
}
TEST(Plan, KernelsThatRoundTheirInputNeedScratch) {
  ExpectRoundingNeedsScratch(WeightType::kI4Group32);
}
TEST(Plan, KernelsThatRoundTheirInputToBf16NeedScratch) {
  ExpectRoundingNeedsScratch(WeightType::kBf16);
}

TEST(Plan, EmptyMaskGivesTheBias) {
  const PackedMatrix weights = Weights(WeightType::kF32, Layout::kInOut);
  const Problem problem =
      ProblemOf(Operation::kColumnMask, WeightType::kF32, 1);
  const GemvPlan plan =
      GemvPlan::Bind(weights, problem, DefaultChoice(problem));
  const std::vector<float> x(kCols, 0.0f), tau(kCols, 1.0f);
  const std::vector<float> bias = RandomVector(kRows, 5);
  MaskScratch scratch(kCols);
  const MaskView mask =
      MakeMask(x.data(), kCols, {.tau = tau.data()}, scratch.storage());
  std::vector<float> y(kRows, -7.0f);
  const GemvCall call = plan.ColumnMask(mask, {y.data(), bias.data(), false});
  RunCalls({&call, 1}, *MakeSerialExecutor());
  EXPECT_EQ(y, bias);
}

TEST(Plan, EachDensityRunsItsBucket) {
  const Problem problem =
      ProblemOf(Operation::kColumnMask, WeightType::kBf16, 1);
  const auto candidates = Registry::Get().Candidates(
      problem.operation, problem.type, Layout::kInOut, 1, kRows, kCols, true);
  if (candidates.size() < 3) GTEST_SKIP() << "defaults only on this CPU";
  Choice choice = DefaultChoice(problem);
  choice.by_density = {
      {0.25, candidates[0]}, {0.5, candidates[1]}, {1, candidates[2]}};
  const PackedMatrix weights = Weights(problem.type, Layout::kInOut);
  const GemvPlan plan = GemvPlan::Bind(weights, problem, choice);
  EXPECT_EQ(&plan.EntryAt(0), candidates[0]);
  EXPECT_EQ(&plan.EntryAt(0.25), candidates[0]);
  EXPECT_EQ(&plan.EntryAt(0.3), candidates[1]);
  EXPECT_EQ(&plan.EntryAt(0.5), candidates[1]);
  EXPECT_EQ(&plan.EntryAt(0.99), candidates[2]);
  EXPECT_EQ(&plan.EntryAt(1), candidates[2]);
}

TEST(Resolve, AnUnusableBucketTakesTheDefaultAndSaysWhy) {
  const Problem problem =
      ProblemOf(Operation::kColumnMask, WeightType::kF32, 1);
  const Choice untuned = DefaultChoice(problem);
  const std::string name = untuned.KernelAt(1).FullName();
  const auto note_of = [&](const std::string& variant, uint64_t spec_hash) {
    Decision decision = Unmeasured(untuned, problem);
    decision.by_density[0].variant = variant;
    decision.by_density[0].spec_hash = spec_hash;
    decision.by_density[0].ns.n = 9;
    std::string note;
    const Result<Choice> choice = Resolve(problem, decision, note);
    EXPECT_EQ(choice->by_density, untuned.by_density);
    EXPECT_EQ(decision.by_density[0].variant, name);
    EXPECT_EQ(decision.by_density[0].ns.n, 0u);
    return note;
  };
  EXPECT_NE(note_of("hwy/AVX9/none", 1).find("not in this build"),
            std::string::npos);
  EXPECT_NE(note_of(name, 1).find("has spec"), std::string::npos);
  const KernelEntry* dense = Registry::Get().Default(
      Operation::kDense, WeightType::kF32, Layout::kInOut, 1);
  EXPECT_NE(note_of(dense->FullName(), dense->spec_hash).find("does not fit"),
            std::string::npos);
}

TEST(Plan, ForcedVariantsApplyOrSayWhyNot) {
  const Problem problem =
      ProblemOf(Operation::kColumnMask, WeightType::kF32, 1);
  const KernelEntry* panel = Registry::Get().Default(
      problem.operation, problem.type, Layout::kPanel64, 1);
  const auto choice = ForcedChoice(problem, panel->FullName());
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->layout, Layout::kPanel64);
  EXPECT_EQ(&choice->KernelAt(0.5), panel);
  EXPECT_FALSE(ForcedChoice(problem, "hwy/AVX2/nonsense").ok());
  Problem other = problem;
  other.type = WeightType::kBf16;
  EXPECT_FALSE(ForcedChoice(other, panel->FullName()).ok());
}

}  // namespace
}  // namespace rankforge
