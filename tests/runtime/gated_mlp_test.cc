// Gated MLPs in one call are their steps one after the other, bit for bit.
#include "runtime/plan/gated_mlp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/layer/activation.h"
#include "tests/random_vector.h"
#include "tests/runtime/layer.h"

namespace rankforge {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  size_t hidden, mlp;
};
constexpr Shape kShapes[] = {{1, 1}, {33, 65}, {40, 700}, {150, 129}};
// Keeping all, some and nothing.
constexpr float kThresholds[] = {0, 0.4f, kInfinity};
constexpr HandOver kHandOvers[] = {HandOver::kOneEach, HandOver::kOne};
constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGelu,
                                       Activation::kGeluTanh};

// How an output starts out.
struct Start {
  bool bias, accumulate;
};
constexpr Start kStarts[] = {{false, false}, {true, false}, {false, true}};

// The weights of one MLP. Their scale leaves h at about 1.
struct MlpLayers {
  MlpLayers(const Shape& shape, size_t threads)
      : shape(shape),
        gate_up(MakeLayer(Operation::kDense, 2 * shape.mlp, shape.hidden, 1,
                          threads)),
        gate(MakeLayer(Operation::kDense, shape.mlp, shape.hidden, 2, threads)),
        up(MakeLayer(Operation::kRowMask, shape.mlp, shape.hidden, 3, threads)),
        down(MakeLayer(Operation::kColumnMask, shape.hidden, shape.mlp, 4,
                       threads)),
        x(RandomVector(shape.hidden, 5,
                       1 / std::sqrt(static_cast<float>(shape.hidden)))),
        bias(RandomVector(shape.hidden, 6)),
        initial(RandomVector(shape.hidden, 7)),
        values(2 * shape.mlp),
        y(shape.hidden) {}

  GemvOutput Output(const Start& start) {
    y = initial;
    return {y.data(), start.bias ? bias.data() : nullptr, start.accumulate};
  }
  float* gate_values() { return values.data(); }
  float* up_values() { return values.data() + shape.mlp; }

  Shape shape;
  std::unique_ptr<Layer> gate_up, gate, up, down;
  std::vector<float> x, bias, initial;
  std::vector<float> values;  // of gate, then of up
  std::vector<float> y;
};

// y, and what was kept, of every executor and hand-over.
template <class Run>
void ExpectSame(const std::vector<float>& expected, size_t expected_kept,
                const MlpLayers& mlp, Run run) {
  for (const auto& executor : Executors()) {
    for (const HandOver hand_over : kHandOvers) {
      GatedMlpScratch scratch(executor->threads(), mlp.shape.mlp);
      const GatedMlpRun done = run(*executor, scratch, hand_over);
      EXPECT_EQ(done.kept, expected_kept);
      ASSERT_TRUE(std::ranges::equal(mlp.y, expected))
          << executor->name() << " " << executor->threads() << ", mlp "
          << mlp.shape.mlp;
    }
  }
}

// body(mlp, start, threshold, activation) for all of them.
template <class Body>
void ForEveryCase(Body body) {
  for (const Shape& shape : kShapes) {
    for (const size_t threads : {1, 2, 3}) {
      MlpLayers mlp(shape, threads);
      for (const Start& start : kStarts) {
        for (const float threshold : kThresholds) {
          for (const Activation activation : kActivations) {
            body(mlp, start, threshold, activation);
          }
        }
      }
    }
  }
}

void ExpectWholeIsItsSteps(bool gated) {
  ForEveryCase([&](MlpLayers& mlp, const Start& start, float threshold,
                   Activation activation) {
    const size_t size = mlp.shape.mlp;
    const ThresholdRule rule{.common_tau = threshold};
    const auto serial = MakeSerialExecutor();
    const GemvCall both =
        mlp.gate_up->plan.Dense(mlp.x.data(), {.y = mlp.gate_values()});
    RunCalls({&both, 1}, *serial);
    const GatedValues hidden = {mlp.gate_values(),
                                gated ? mlp.up_values() : nullptr, activation};
    std::vector<float> h(size);
    Activate(activation, hidden.gate, hidden.up, size, h.data());
    MaskScratch masks(size);
    const MaskView mask = MakeMask(h.data(), size, rule, masks.storage());
    const GemvCall down = mlp.down->plan.ColumnMask(mask, mlp.Output(start));
    RunCalls({&down, 1}, *serial);
    const std::vector<float> expected = mlp.y;
    if (threshold == 0) {
      EXPECT_EQ(mask.kept, size);
    }
    if (threshold == kInfinity) {
      EXPECT_EQ(mask.kept, 0u);
    }

    ExpectSame(
        expected, mask.kept, mlp,
        [&](Executor& executor, GatedMlpScratch& scratch, HandOver hand_over) {
          std::ranges::fill(mlp.values, kNan);
          RankScratch ranks(executor.threads(), 1);
          return RunGatedMlp({.first = {&both, 1},
                              .branches = {},
                              .hidden = hidden,
                              .rule = rule,
                              .down = &mlp.down->plan,
                              .output = mlp.Output(start)},
                             executor, ranks, scratch, hand_over);
        });
  });
}

TEST(GatedMlp, WholeIsItsSteps) { ExpectWholeIsItsSteps(true); }
TEST(GatedMlp, WithoutGateToo) { ExpectWholeIsItsSteps(false); }

TEST(GatedMlp, GateFirstIsItsSteps) {
  for (const float hidden_threshold : {-1.0f, 0.05f}) {
    ForEveryCase([&](MlpLayers& mlp, const Start& start, float threshold,
                     Activation activation) {
      const size_t size = mlp.shape.mlp;
      const ThresholdRule gate_rule{.common_tau = threshold};
      const ThresholdRule hidden_rule{.common_tau = hidden_threshold};
      const bool further = hidden_threshold > 0;
      const auto serial = MakeSerialExecutor();
      const GemvCall gate =
          mlp.gate->plan.Dense(mlp.x.data(), {.y = mlp.gate_values()});
      RunCalls({&gate, 1}, *serial);
      std::vector<float> h(size);
      Activate(activation, mlp.gate_values(), nullptr, size, h.data());
      MaskScratch gate_masks(size), masks(size);
      const MaskView rows =
          MakeMask(h.data(), size, gate_rule, gate_masks.storage());
      const GemvCall up =
          mlp.up->plan.RowMask(mlp.x.data(), rows, {.y = mlp.up_values()});
      RunCalls({&up, 1}, *serial);
      Activate(activation, mlp.gate_values(), mlp.up_values(), size, h.data());
      const MaskView mask =
          further ? MakeMask(h.data(), size, hidden_rule, masks.storage())
                  : MaskFromBits(rows.bits, h.data(), size, 1, masks.storage());
      const GemvCall down = mlp.down->plan.ColumnMask(mask, mlp.Output(start));
      RunCalls({&down, 1}, *serial);
      const std::vector<float> expected = mlp.y;
      if (further) {
        EXPECT_LE(mask.kept, rows.kept);
      }

      ExpectSame(expected, mask.kept, mlp,
                 [&](Executor& executor, GatedMlpScratch& scratch,
                     HandOver hand_over) {
                   std::ranges::fill(mlp.values, kNan);
                   const GatedMlpRun run = RunGateFirstMlp(
                       {.gate = {&gate, 1},
                        .gate_values = mlp.gate_values(),
                        .activation = activation,
                        .gate_rule = gate_rule,
                        .up = &mlp.up->plan,
                        .x = mlp.x.data(),
                        .up_values = mlp.up_values(),
                        .hidden_rule = further ? &hidden_rule : nullptr,
                        .down = &mlp.down->plan,
                        .output = mlp.Output(start)},
                       executor, scratch, hand_over);
                   EXPECT_EQ(run.up_kept, rows.kept);
                   return run;
                 });
    });
  }
}

// Gate and up through rank adapters with one B.
TEST(GatedMlp, BehindRankAdapters) {
  constexpr size_t kHidden = 150, kMlp = 203, kRanks = 48;
  const auto b = MakeLayer(Operation::kDense, 2 * kRanks, kHidden, 1, 2);
  const auto gate_a = MakeLayer(Operation::kColumnMask, kMlp, kRanks, 2, 2);
  const auto up_a = MakeLayer(Operation::kColumnMask, kMlp, kRanks, 3, 2);
  const auto down = MakeLayer(Operation::kColumnMask, kHidden, kMlp, 4, 2);
  const std::vector<float> x = RandomVector(kHidden, 5, 0.1f);
  std::vector<float> z(2 * kRanks), values(2 * kMlp), y(kHidden);
  const GemvCall first = b->plan.Dense(x.data(), {.y = z.data()});
  const ThresholdRule rank_rule{.common_tau = 0.5f}, rule{.common_tau = 3};
  const std::array branches = {
      RankBranch{&gate_a->plan, z.data(), rank_rule, {.y = values.data()}},
      RankBranch{&up_a->plan,
                 z.data() + kRanks,
                 rank_rule,
                 {.y = values.data() + kMlp}}};
  const auto serial = MakeSerialExecutor();
  RankScratch ranks(3, kRanks);
  const RankRun rank_run = RunRankStages({&first, 1}, branches, *serial, ranks);
  std::vector<float> h(kMlp);
  Activate(Activation::kSilu, values.data(), values.data() + kMlp, kMlp,
           h.data());
  MaskScratch masks(kMlp);
  const MaskView mask = MakeMask(h.data(), kMlp, rule, masks.storage());
  const GemvCall down_call = down->plan.ColumnMask(mask, {.y = y.data()});
  RunCalls({&down_call, 1}, *serial);
  const std::vector<float> expected = y;
  EXPECT_GT(mask.kept, kMlp / 8);
  EXPECT_LT(mask.kept, kMlp - kMlp / 8);
  for (const auto& executor : Executors()) {
    for (const HandOver hand_over : kHandOvers) {
      for (std::vector<float>* written : {&z, &values, &y}) {
        std::ranges::fill(*written, kNan);
      }
      GatedMlpScratch scratch(executor->threads(), kMlp);
      const GatedMlpRun run =
          RunGatedMlp({{&first, 1},
                       branches,
                       {values.data(), values.data() + kMlp},
                       rule,
                       &down->plan,
                       {.y = y.data()}},
                      *executor, ranks, scratch, hand_over);
      EXPECT_EQ(y, expected) << executor->name();
      EXPECT_EQ(run.first.kept, rank_run.kept);
      EXPECT_EQ(run.kept, mask.kept);
    }
  }
}

// A NaN drops its own neuron and no other.
TEST(GatedMlp, NanIsDropped) {
  MlpLayers mlp({33, 130}, 2);
  mlp.x[3] = kNan;  // every gate and up
  const auto executor = MakeTeamExecutor(2);
  RankScratch ranks(2, 1);
  GatedMlpScratch scratch(2, 130);
  const GemvCall both =
      mlp.gate_up->plan.Dense(mlp.x.data(), {.y = mlp.gate_values()});
  const GatedMlpRun run = RunGatedMlp({{&both, 1},
                                       {},
                                       {mlp.gate_values(), mlp.up_values()},
                                       {},
                                       &mlp.down->plan,
                                       mlp.Output({true, false})},
                                      *executor, ranks, scratch);
  EXPECT_EQ(run.kept, 0u);
  EXPECT_EQ(mlp.y, mlp.bias);
  const GemvCall gate =
      mlp.gate->plan.Dense(mlp.x.data(), {.y = mlp.gate_values()});
  const GatedMlpRun gate_run = RunGateFirstMlp({{&gate, 1},
                                                mlp.gate_values(),
                                                Activation::kSilu,
                                                {},
                                                &mlp.up->plan,
                                                mlp.x.data(),
                                                mlp.up_values(),
                                                nullptr,
                                                &mlp.down->plan,
                                                mlp.Output({true, false})},
                                               *executor, scratch);
  EXPECT_EQ(gate_run.up_kept, 0u);
  EXPECT_EQ(mlp.y, mlp.bias);
}

// Many times over: members that ran ahead of a barrier would read old values.
TEST(GatedMlp, RepeatedCallsSeeTheirOwnValues) {
  MlpLayers mlp({64, 256}, 3);
  const auto team = MakeTeamExecutor(3);
  const auto serial = MakeSerialExecutor();
  GatedMlpScratch scratch(3, 256);
  for (unsigned token = 0; token < 300; ++token) {
    mlp.x = RandomVector(mlp.shape.hidden, token, 0.2f);
    const GemvCall gate =
        mlp.gate->plan.Dense(mlp.x.data(), {.y = mlp.gate_values()});
    const auto run = [&](Executor& executor) {
      RunGateFirstMlp({{&gate, 1},
                       mlp.gate_values(),
                       Activation::kSilu,
                       {.common_tau = 0.1f},
                       &mlp.up->plan,
                       mlp.x.data(),
                       mlp.up_values(),
                       nullptr,
                       &mlp.down->plan,
                       mlp.Output({false, false})},
                      executor, scratch);
      return mlp.y;
    };
    const std::vector<float> expected = run(*serial);
    ASSERT_EQ(run(*team), expected) << token;
  }
}

}  // namespace
}  // namespace rankforge
