#include "tuner/search/space.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/registry.h"
#include "meta/variants.h"
#include "runtime/plan/plan.h"
#include "tuner/search/rigor.h"

namespace rankforge {
namespace {

Workload ColumnMaskWorkload() {
  Workload workload;
  workload.problem = {
      Operation::kColumnMask, 4096, 3072, WeightType::kBf16, 1, 1, 2};
  workload.layers = {"model.layers.0.mlp.gate_up",
                     "model.layers.1.mlp.gate_up"};
  workload.density = 0.32;
  return workload;
}

TEST(SpaceTest, TheDefaultComesFirstAndAllLayoutsAndThreadsTakePart) {
  const Workload workload = ColumnMaskWorkload();
  const SearchSpace space = MakeSpace(workload, Rigor::kMeasure);
  const Choice untuned = DefaultChoice(workload.problem);
  EXPECT_EQ(space.candidates[0].kernel, &untuned.KernelAt(1));
  EXPECT_EQ(space.candidates[0].layout, untuned.layout);
  EXPECT_EQ(space.candidates[0].threads, untuned.threads);
  std::set<Layout> layouts;
  std::set<size_t> threads;
  bool zeroed = false;
  for (const Candidate& candidate : space.candidates) {
    layouts.insert(candidate.layout);
    threads.insert(candidate.threads);
    zeroed |= candidate.zeroed;
    EXPECT_NE(Registry::Get().Find(candidate.variant), nullptr);
  }
  EXPECT_EQ(layouts, (std::set<Layout>{Layout::kInOut, Layout::kPanel64,
                                       Layout::kPanel128, Layout::kInOut2}));
  EXPECT_EQ(threads, (std::set<size_t>{1, 2}));
  EXPECT_TRUE(zeroed);
}

// Layouts in sums take part where the threads can share the sums, and never
// with one thread; also where the default runs on one.
TEST(SpaceTest, SumsAreForThreadsThatShareThem) {
  Workload workload = ColumnMaskWorkload();
  for (const size_t rows : {32u, 4096u}) {
    for (const size_t threads : {1u, 2u, 3u, 4u}) {
      workload.problem.rows = rows;
      workload.problem.threads = threads;
      const SearchSpace space = MakeSpace(workload, Rigor::kMeasure);
      EXPECT_EQ(space.candidates[0].threads, rows == 32 ? 1 : threads);
      size_t in_sums = 0;
      for (const Candidate& candidate : space.candidates) {
        if (SumsOf(candidate.layout) == 1) continue;
        ++in_sums;
        EXPECT_EQ(candidate.threads, threads);
        EXPECT_EQ(candidate.kernel->spec.form, MaskForm::kIndexList);
      }
      EXPECT_EQ(in_sums > 0, threads % 2 == 0) << rows << " " << threads;
    }
  }
}

// Whatever wins, the result is that of the problem.
TEST(SpaceTest, AllCandidatesComputeTheSameArithmetic) {
  for (const WeightType type : kWeightTypes) {
    for (const Operation operation : kOperations) {
      for (const Activations activations : kActivations) {
        Workload workload = ColumnMaskWorkload();
        workload.keep_frequency.clear();
        workload.problem.operation = operation;
        workload.problem.type = type;
        workload.problem.activations = activations;
        if (ActivationsFor(operation, type, activations) != activations) {
          const Status status = CheckWorkload(workload);
          EXPECT_NE(status.message().find("activations is"), std::string::npos)
              << status.message();
          continue;
        }
        EXPECT_TRUE(CheckWorkload(workload).ok());
        const SearchSpace space = MakeSpace(workload, Rigor::kPatient);
        EXPECT_FALSE(space.candidates.empty());
        for (const Candidate& candidate : space.candidates) {
          EXPECT_EQ(ActivationsOf(candidate.kernel->spec), activations);
          EXPECT_FALSE(candidate.kernel->reassociates);
        }
      }
    }
  }
}

TEST(SpaceTest, DensitiesByRigor) {
  Workload workload = ColumnMaskWorkload();
  EXPECT_EQ(MakeSpace(workload, Rigor::kEstimate).densities,
            (std::vector<double>{0.32, 1}));
  // 0.35 is too near to 0.32 to be measured beside it.
  EXPECT_EQ(MakeSpace(workload, Rigor::kMeasure).densities,
            (std::vector<double>{0.2, 0.32, 0.5, 1}));
  EXPECT_EQ(MakeSpace(workload, Rigor::kPatient).densities,
            (std::vector<double>{0.05, 0.1, 0.2, 0.32, 0.5, 0.7, 0.85, 1}));
  workload.density = 1;
  EXPECT_EQ(MakeSpace(workload, Rigor::kEstimate).densities,
            (std::vector<double>{1}));
  workload.problem.operation = Operation::kDense;
  EXPECT_EQ(MakeSpace(workload, Rigor::kPatient).densities,
            (std::vector<double>{1}));
}

TEST(SpaceTest, EveryRigorHasItsSettings) {
  for (const Rigor rigor : kRigors) {
    EXPECT_EQ(SettingsOf(rigor).rigor, rigor) << Name(rigor);
    EXPECT_FALSE(SettingsOf(rigor).policy.drops.empty()) << Name(rigor);
  }
}

TEST(SpaceTest, WeightsFollowTheSpread) {
  Workload workload = ColumnMaskWorkload();
  SearchSpace space = MakeSpace(workload, Rigor::kPatient);
  EXPECT_EQ(space.densities[space.expected], 0.32);
  EXPECT_EQ(space.weights[space.expected], 1);
  EXPECT_EQ(std::accumulate(space.weights.begin(), space.weights.end(), 0.0),
            1);

  workload.density_p05 = 0.12;
  workload.density_p95 = 0.52;
  space = MakeSpace(workload, Rigor::kPatient);
  EXPECT_NEAR(std::accumulate(space.weights.begin(), space.weights.end(), 0.0),
              1, 5e-3);
  EXPECT_GT(space.weights[space.expected], 0.3);
  EXPECT_GT(space.weights[2], 0.1);    // 0.2
  EXPECT_GT(space.weights[4], 0.1);    // 0.5
  EXPECT_EQ(space.weights.back(), 0);  // 1
}

TEST(SpaceTest, ImpossibleWorkloadsAreNamed) {
  const auto message = [](auto change) {
    Workload workload = ColumnMaskWorkload();
    change(workload);
    const Status status = CheckWorkload(workload);
    EXPECT_EQ(status.code(), StatusCode::kUsage);
    EXPECT_NE(status.message().find("model.layers.0.mlp.gate_up"),
              std::string::npos);
    return status.message();
  };
  EXPECT_TRUE(CheckWorkload(ColumnMaskWorkload()).ok());
  EXPECT_NE(message([](Workload& w) { w.problem.rows = 0; }).find("rows is 0"),
            std::string::npos);
  EXPECT_NE(
      message([](Workload& w) { w.problem.batch = 4; }).find("batch is 4"),
      std::string::npos);
  EXPECT_NE(message([](Workload& w) { w.density = 0; }).find("density is 0"),
            std::string::npos);
  message([](Workload& w) { w.density = std::nan(""); });
  message([](Workload& w) { w.density = 1.5; });
  message([](Workload& w) { w.density_p05 = 0.6; });
  message([](Workload& w) { w.density_p95 = 0.1; });
  message([](Workload& w) { w.problem.threads = 0; });
  message([](Workload& w) { w.problem.granularity = 64; });
  message([](Workload& w) { w.keep_frequency.resize(5); });
}

TEST(SpaceTest, EqualProblemsAreTunedOnce) {
  Workload a = ColumnMaskWorkload();
  Workload b = a;
  b.layers = {"model.layers.2.mlp.gate_up"};
  b.density = 0.62;
  Workload c = a;
  c.problem.rows = 128;
  const std::vector<Workload> merged = MergeEqualProblems({a, b, c});
  ASSERT_EQ(merged.size(), 2u);
  EXPECT_EQ(merged[0].layers.size(), 3u);
  EXPECT_NEAR(merged[0].density, (2 * 0.32 + 0.62) / 3, 1e-12);
  EXPECT_EQ(merged[0].density_p05, 0.32);
  EXPECT_EQ(merged[0].density_p95, 0.62);
  EXPECT_TRUE(CheckWorkload(merged[0]).ok());
}

TEST(SpaceTest, WorkloadsSayWhatTheirMasksRestOn) {
  Workload workload;
  EXPECT_EQ(MaskSource(workload), "bernoulli");
  workload.mask_structure = MaskStructure::kClustered;
  EXPECT_EQ(MaskSource(workload), "clustered");
  workload.keep_frequency = {0.5f};
  EXPECT_EQ(MaskSource(workload), "recorded");
  workload.trace.emplace_back(1);
  EXPECT_EQ(MaskSource(workload), "trace");
}

}  // namespace
}  // namespace rankforge
