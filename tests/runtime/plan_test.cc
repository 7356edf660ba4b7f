// Plans: parts, threads, forced variants, and the promise that within a layout
// tuning changes no bit of a result.
#include "runtime/plan/plan.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <memory>
#include <string>
#include <tuple>
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

Problem ProblemOf(Operation operation, WeightType type, size_t granularity,
                  Activations activations = Activations::kF32) {
  return {operation, kRows, kCols, type, granularity, 1, 4, activations};
}

PackedMatrix Weights(WeightType type, Layout layout) {
  const std::vector<float> w = RandomVector(kRows * kCols, 1);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, kRows, kCols,
                            false};
  return PackedMatrix::Pack({&source, 1}, type, layout).value();
}

class PlanTest : public testing::TestWithParam<WeightType> {};

// A layout of two sums adds what the layout of one computes over both halves of
// the kept columns, cut at a multiple of eight: of no columns, of some that one
// sum has all of, of an odd number, and of all.
TEST_P(PlanTest, SumsAreThoseOfHalvesOfTheKeptColumns) {
  const WeightType type = GetParam();
  const std::vector<float> x = RandomVector(kCols, 2);
  const std::vector<float> bias = RandomVector(kRows, 3);
  const PackedMatrix one = Weights(type, Layout::kInOut);
  const PackedMatrix two = Weights(type, Layout::kInOut2);
  const auto executors = Executors();
  for (const Activations activations : kActivations) {
    const Problem problem =
        ProblemOf(Operation::kColumnMask, type, 1, activations);
    const KernelEntry* const kernel = DefaultKernel(problem, Layout::kInOut);
    if (kernel == nullptr) continue;
    ASSERT_EQ(DefaultKernel(problem, Layout::kInOut2), kernel);
    MaskScratch scratch(kCols);
    SumsScratch sums;
    for (const size_t kept : {0u, 3u, 8u, 9u, 133u, unsigned{kCols}}) {
      std::vector<uint32_t> index(kept);
      for (size_t i = 0; i < kept; ++i) {
        index[i] = static_cast<uint32_t>(i * kCols / kept);
      }
      const auto run = [&](const PackedMatrix& weights, size_t threads,
                           size_t first, size_t last, GemvOutput output,
                           Executor& executor) {
        const GemvPlan plan = GemvPlan::Bind(
            weights, problem, ChoiceOf(*kernel, weights.layout(), threads));
        output.partial = sums.For(plan);
        const MaskView mask =
            MaskFromIndex(index.data() + first, last - first, x.data(), kCols,
                          1, scratch.storage());
        const GemvCall call = plan.ColumnMask(mask, output);
        RunCalls({&call, 1}, executor);
      };
      const size_t middle = std::min(kept, RoundUp(kept / 2, 8));
      std::vector<float> begin = RandomVector(kRows, 5), end(kRows);
      run(one, 1, 0, middle, {begin.data(), nullptr, true}, *executors[0]);
      run(one, 1, middle, kept, {end.data()}, *executors[0]);
      std::vector<float> biased(kRows);
      run(one, 1, 0, middle, {biased.data(), bias.data()}, *executors[0]);
      for (size_t i = 0; i < kRows; ++i) {
        begin[i] += end[i];
        biased[i] += end[i];
      }
      for (const size_t threads : {1, 2, 3, 4}) {
        for (const auto& executor : executors) {
          std::vector<float> y = RandomVector(kRows, 5);
          run(two, threads, 0, kept, {y.data(), nullptr, true}, *executor);
          EXPECT_EQ(y, begin) << kept << " kept, " << threads << " threads";
          run(two, threads, 0, kept, {y.data(), bias.data()}, *executor);
          EXPECT_EQ(y, biased) << kept << " kept, " << threads << " threads";
        }
      }
    }
  }
}

// All variants of a layout, all thread counts and all executors agree bit for
// bit, with no more of a mask than the plan asks for, and masked column layouts
// agree with dense on zeroed values. So do those that round their inputs, but
// for the last: dense products of rounded inputs have no columns.
class SameBitsTest
    : public testing::TestWithParam<std::tuple<WeightType, Activations>> {};
TEST_P(SameBitsTest, NothingButTheLayoutChangesAResult) {
  const auto [type, activations] = GetParam();
  InputScratch rounded(kCols);
  SumsScratch sums;
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
      const Problem problem = ProblemOf(operation, type, 1, activations);
      std::vector<float> expected;
      for (const KernelEntry* entry : Registry::Get().Candidates(
               operation, type, layout, 1, kRows, kCols, activations)) {
        for (const size_t threads : {1, 2, 3, 4}) {
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
            const GemvOutput output{y.data(), bias.data(), false,
                                    sums.For(plan)};
            const GemvCall call =
                operation == Operation::kDense
                    ? plan.Dense(column_mask.zeroed, output, {}, &rounded)
                : operation == Operation::kRowMask
                    ? plan.RowMask(x.data(), kept_rows, output, {}, &rounded)
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
    if (!RunsAreRows(layout) && SumsOf(layout) == 1 &&
        activations == Activations::kF32) {
      EXPECT_EQ(masked, dense_on_zeroed);
    }
  }
}

std::vector<std::tuple<WeightType, Activations>> TypesAndActivations() {
  std::vector<std::tuple<WeightType, Activations>> all;
  for (const WeightType type : kWeightTypes) {
    for (const Activations activations : kActivations) {
      if (Takes(type, activations)) all.emplace_back(type, activations);
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Types, SameBitsTest,
                         testing::ValuesIn(TypesAndActivations()),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) +
                                  "_" +
                                  std::string(Name(std::get<1>(info.param)));
                         });

INSTANTIATE_TEST_SUITE_P(Types, PlanTest, testing::ValuesIn(kWeightTypes),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

// Inputs and masks of several tokens for products of one operation.
class Tokens {
 public:
  static constexpr size_t kCount = 5, kXStride = kCols + 1,
                          kYStride = kRows + 2;

  explicit Tokens(Operation operation)
      : row_mask_(operation == Operation::kRowMask),
        scratch_(kCount, MaskScratch(channels())),
        union_scratch_(kCount, channels()) {
    std::vector<const uint64_t*> bits;
    for (size_t t = 0; t < kCount; ++t) {
      own_.push_back(
          MakeMask(row_mask_ ? &score_[t * kRows] : &x_[t * kXStride],
                   channels(), {.common_tau = 0.8f}, scratch_[t].storage()));
      bits.push_back(own_[t].bits);
    }
    together_ = UnionOfMasks(bits, 1, row_mask_ ? nullptr : x_.data(), kXStride,
                             channels(), union_scratch_.storage());
  }

  // y (kCount, kYStride) of a call for each token.
  std::vector<float> Alone(const GemvPlan& plan, Executor& executor) const {
    std::vector<float> y(kCount * kYStride, -7.0f);
    for (size_t t = 0; t < kCount; ++t) {
      const GemvCall call =
          CallOf(plan, &x_[t * kXStride], own_[t], &y[t * kYStride], {});
      RunCalls({&call, 1}, executor);
    }
    return y;
  }
  // The same of one call for all.
  std::vector<float> Together(const GemvPlan& plan, Executor& executor) const {
    std::vector<float> y(kCount * kYStride, -7.0f);
    const GemvCall call = CallOf(plan, x_.data(), together_, y.data(),
                                 {kCount, kXStride, kYStride});
    RunCalls({&call, 1}, executor);
    return y;
  }

 private:
  size_t channels() const { return row_mask_ ? kRows : kCols; }
  GemvCall CallOf(const GemvPlan& plan, const float* x, const MaskView& mask,
                  float* y, const TokenBatch& batch) const {
    const GemvOutput output{y, bias_.data(), false};
    switch (plan.problem().operation) {
      case Operation::kDense:
        return plan.Dense(x, output, batch);
      case Operation::kRowMask:
        return plan.RowMask(x, mask, output, batch);
      case Operation::kColumnMask:
        return plan.ColumnMask(mask, output, batch);
    }
    return {};
  }

  std::vector<float> x_ = RandomVector(kCount * kXStride, 2);
  std::vector<float> score_ = RandomVector(kCount * kRows, 4);
  std::vector<float> bias_ = RandomVector(kRows, 3);
  bool row_mask_;
  std::vector<MaskScratch> scratch_;
  UnionScratch union_scratch_;
  std::vector<MaskView> own_;
  MaskView together_;
};

// Several tokens: the default variant, any number of threads and every executor
// give each token what a plan of its own gives it.
TEST_P(PlanTest, TokensOfABatchGetWhatTheyGetAlone) {
  const WeightType type = GetParam();
  const auto executors = Executors();
  for (const Operation operation : kOperations) {
    const Tokens tokens(operation);
    for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
      Problem problem = ProblemOf(operation, type, 1);
      if (DefaultKernel(problem, layout) == nullptr) continue;
      const PackedMatrix weights = Weights(type, layout);
      const GemvPlan plan = GemvPlan::Bind(
          weights, problem,
          ChoiceOf(*DefaultKernel(problem, layout), layout, problem.threads));
      const std::vector<float> expected = tokens.Alone(plan, *executors[0]);
      problem.batch = Tokens::kCount;
      for (const size_t threads : {1, 2, 3}) {
        const GemvPlan batch_plan = GemvPlan::Bind(
            weights, problem,
            ChoiceOf(*DefaultKernel(problem, layout), layout, threads));
        for (const auto& executor : executors) {
          EXPECT_EQ(tokens.Together(batch_plan, *executor), expected)
              << Name(operation) << ", " << Name(layout) << ", " << threads
              << " threads";
        }
      }
    }
  }
}

// The plan of several tokens that belongs to one of a single token.
TEST(Plan, ForSeveralComputesTheSameOrIsNone) {
  const auto executor = MakeTeamExecutor(2);
  const auto several = [&](Operation operation, WeightType type, Layout layout,
                           const KernelEntry* kernel) {
    Problem problem = ProblemOf(operation, type, 1);
    if (kernel == nullptr) kernel = DefaultKernel(problem, layout);
    problem.activations = ActivationsOf(kernel->spec);
    const PackedMatrix weights = Weights(type, layout);
    const GemvPlan one =
        GemvPlan::Bind(weights, problem, ChoiceOf(*kernel, layout, 2));
    const auto plan = one.ForSeveral();
    if (plan) {
      EXPECT_EQ(plan->problem().batch, kMostTokens);
      EXPECT_TRUE(TakesTokens(plan->EntryAt(1).spec));
      const Tokens tokens(operation);
      EXPECT_EQ(tokens.Together(*plan, *executor), tokens.Alone(one, *executor))
          << kernel->FullName();
    }
    return plan.has_value();
  };
  // A build may have few variants: those of some problems are scalar there.
  const auto has_kernels = [](Operation operation, WeightType type,
                              Layout layout) {
    Problem problem = ProblemOf(operation, type, 1);
    problem.batch = kMostTokens;
    const KernelEntry* const kernel = DefaultKernel(problem, layout);
    return kernel != nullptr && !kernel->is_reference();
  };
  const bool has_fma =
      !Registry::Get()
           .Default(Operation::kDense, WeightType::kF32, Layout::kOutIn, 1, 2)
           ->is_reference();
  for (const Operation operation : kOperations) {
    for (const WeightType type : kWeightTypes) {
      const Layout layout =
          operation == Operation::kColumnMask ? Layout::kInOut : Layout::kOutIn;
      if (DefaultKernel(ProblemOf(operation, type, 1), layout) == nullptr) {
        continue;
      }
      const bool found = several(operation, type, layout, nullptr);
      EXPECT_EQ(found, has_kernels(operation, type, layout))
          << Name(operation) << ", " << Name(type);
      EXPECT_TRUE(found || !has_fma) << Name(operation) << ", " << Name(type);
    }
  }
  EXPECT_FALSE(
      several(Operation::kDense, WeightType::kF32, Layout::kPanel64, nullptr));
  EXPECT_FALSE(several(Operation::kDense, WeightType::kI8Group32,
                       Layout::kRows16, nullptr));
  for (const Activations activations : {Activations::kF32, Activations::kI8}) {
    for (const KernelEntry* entry : Registry::Get().Candidates(
             Operation::kDense, WeightType::kI8Group32, Layout::kOutIn, 1,
             kRows, kCols, activations)) {
      EXPECT_EQ(several(Operation::kDense, WeightType::kI8Group32,
                        Layout::kOutIn, entry),
                has_kernels(Operation::kDense, WeightType::kI8Group32,
                            Layout::kOutIn) &&
                    !entry->reassociates && activations == Activations::kF32)
          << entry->FullName();
    }
  }
}

// Calls of several tokens on the same weights, cut into many parts; row masks
// keep no row, some and all.
TEST(Plan, CallsCutForReuseGiveTheSame) {
  constexpr size_t kManyRows = 2003;
  constexpr std::array<float, 3> kTaus = {1e9f, 0.8f, 0};  // one a token
  const std::vector<float> w = RandomVector(kManyRows * kCols, 1);
  const std::vector<float> x = RandomVector(kTaus.size() * kCols, 2);
  const std::vector<float> score = RandomVector(kManyRows, 3);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, kManyRows,
                            kCols, false};
  const auto expect_same = [&](Operation operation, Layout layout) {
    const PackedMatrix weights =
        PackedMatrix::Pack({&source, 1}, WeightType::kF32, layout).value();
    Problem problem = ProblemOf(operation, WeightType::kF32, 1);
    problem.rows = kManyRows;
    const GemvPlan plan = GemvPlan::Bind(
        weights, problem, ChoiceOf(*DefaultKernel(problem, layout), layout, 2));
    const auto run = [&](bool cut) {
      std::vector<float> y(kTaus.size() * kManyRows, -7.0f);
      std::vector<MaskScratch> scratch(kTaus.size(), MaskScratch(kManyRows));
      std::vector<GemvCall> calls;
      for (size_t t = 0; t < kTaus.size(); ++t) {
        const GemvOutput output{.y = y.data() + t * kManyRows};
        const MaskView mask =
            MakeMask(score.data(), kManyRows, {.common_tau = kTaus[t]},
                     scratch[t].storage());
        EXPECT_EQ(mask.kept == 0, t == 0);
        EXPECT_EQ(mask.kept == kManyRows, t == 2);
        calls.push_back(operation == Operation::kDense
                            ? plan.Dense(&x[t * kCols], output)
                            : plan.RowMask(&x[t * kCols], mask, output));
      }
      if (cut) CutForReuse(weights, calls);
      EXPECT_EQ(calls[0].parts > 8, cut && layout != Layout::kInOut);
      RunCalls(calls, *MakeTeamExecutor(2));
      return y;
    };
    EXPECT_EQ(run(true), run(false)) << Name(operation) << Name(layout);
  };
  for (const Layout layout : {Layout::kPanel128, Layout::kInOut}) {
    expect_same(Operation::kDense, layout);
  }
  expect_same(Operation::kRowMask, Layout::kOutIn);
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

// A plan runs what its problem states: the reference of these activations, in
// scratch of the caller's.
void ExpectRounds(WeightType type, Activations activations) {
  const PackedMatrix weights = Weights(type, Layout::kOutIn);
  const std::vector<float> x = RandomVector(kCols, 2);
  const auto run = [&](Activations of_problem) {
    const Problem problem = ProblemOf(Operation::kDense, type, 1, of_problem);
    const GemvPlan plan =
        GemvPlan::Bind(weights, problem, DefaultChoice(problem));
    EXPECT_EQ(ActivationsOf(plan.EntryAt(1).spec), of_problem);
    InputScratch scratch(kCols);
    std::vector<float> y(kRows);
    const GemvCall call = plan.Dense(x.data(), {.y = y.data()}, {}, &scratch);
    RunCalls({&call, 1}, *MakeTeamExecutor(2));
    return y;
  };
  std::vector<float> rounded_x(kCols), expected(kRows);
  RoundValues(x.data(), kCols, activations, rounded_x.data());
  const std::vector<float> exact = run(Activations::kF32);
  const std::vector<float> rounded = run(activations);
  EXPECT_NE(rounded, exact);
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kCols; ++j) {
      expected[i] += weights.At(i, j) * rounded_x[j];
    }
    // The same values; sums in another order.
    EXPECT_NEAR(rounded[i], expected[i], 1e-3f);
  }
}
TEST(Plan, RoundsToEightBitsWhereTheProblemSaysSo) {
  for (const WeightType type : kWeightTypes) {
    if (IsQuantized(type)) ExpectRounds(type, Activations::kI8);
  }
}
TEST(Plan, RoundsToBf16WhereTheProblemSaysSo) {
  ExpectRounds(WeightType::kBf16, Activations::kBf16);
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
      problem.operation, problem.type, Layout::kInOut, 1, kRows, kCols,
      problem.activations);
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

  const KernelEntry* columns = DefaultKernel(problem, Layout::kInOut);
  EXPECT_EQ(ForcedChoice(problem, columns->FullName())->layout, Layout::kInOut);
  const std::string in_sums = columns->FullName() + "@in_out_2";
  EXPECT_EQ(ForcedChoice(problem, in_sums)->layout, Layout::kInOut2);
  EXPECT_EQ(ForcedKernel(in_sums), columns);
  const auto message = [&](const std::string& forced) {
    return ForcedChoice(problem, forced).status().message();
  };
  EXPECT_NE(message(columns->FullName() + "@in_out_3").find("no layout"),
            std::string::npos);
  EXPECT_NE(message(columns->FullName() + "@").find("no layout"),
            std::string::npos);
  EXPECT_NE(message(columns->FullName() + "@out_in").find("layout out_in"),
            std::string::npos);
  Problem other = problem;
  other.type = WeightType::kBf16;
  EXPECT_FALSE(ForcedChoice(other, panel->FullName()).ok());
}

}  // namespace
}  // namespace rankforge
