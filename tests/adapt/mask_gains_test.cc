// Learned gains and biases of input masks.
#include "adapt/methods/mask_gains.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "adapt/adapt.h"
#include "adapt/calibrate/calibration.h"
#include "adapt/methods/learned_values.h"
#include "adapt/methods/probe_plan.h"
#include "base/files.h"
#include "runtime/model/format/tokenizer.h"
#include "tests/adapt/adapt_run_testing.h"

namespace rankforge {
namespace {

constexpr size_t kTokens = 768;
constexpr double kKeep = 0.5;
constexpr GainSchedule kSchedule = {.steps = 12, .tokens = 256, .held = 256};

// Input masks of all projections.
Adapter Masks(const Checkpoint& checkpoint, std::span<const int> ids,
              AdaptOptions options) {
  options.method = "teal";
  return Adapt(checkpoint, ids, options).value();
}

double Number(const Adapter& adapter, const char* parameter) {
  return std::stod(adapter.parameters.at(parameter));
}

void ExpectSame(const Adapter& a, const Adapter& b) {
  ASSERT_EQ(a.masks.size(), b.masks.size());
  for (const auto& [module, mask] : a.masks) {
    const InputMask& other = b.masks.at(module);
    EXPECT_EQ(mask.tau, other.tau) << module;
    EXPECT_EQ(mask.gain, other.gain) << module;
    EXPECT_EQ(mask.bias, other.bias) << module;
    EXPECT_EQ(mask.keep_frequency, other.keep_frequency) << module;
  }
}

constexpr size_t kSteps = 20;

// One value that begins at 1, after steps with these gradients in turn.
LearnedValues After(const std::vector<float>& gradients) {
  LearnedValues learned(1, 1);
  for (size_t step = 1; step <= kSteps; ++step) {
    learned.Step({gradients[step % gradients.size()]}, 1, step, 0.01);
  }
  return learned;
}

TEST(LearnedValues, WhatStepsAgreeOnStays) {
  const LearnedValues learned = After({0.5f});
  EXPECT_NEAR(learned.values()[0], 1 - 0.01 * kSteps, 1e-3);
  EXPECT_NEAR(learned.Trusted(kSteps)[0], learned.values()[0], 1e-6);
}

TEST(LearnedValues, NoiseIsDrawnBackAllTheWay) {
  const LearnedValues learned = After({1, -1});
  EXPECT_NE(learned.values()[0], 1);
  EXPECT_EQ(learned.Trusted(kSteps)[0], 1);
  EXPECT_EQ(After({0}).Trusted(kSteps)[0], 1);
}

// Gradients 1 and 0: mean 1/2, variance 1/4, its mean's 1/4 / 19, so that t^2
// is 19 and 0.5 / 19 of the way goes back.
TEST(LearnedValues, TheRestByHowMuchTheyAgree) {
  const LearnedValues learned = After({1, 0});
  const float moved = learned.values()[0] - 1;
  EXPECT_NEAR(learned.Trusted(kSteps)[0] - 1, moved * (1 - 0.5f / 19), 1e-6);
}

TEST(LearnedValues, OneStepAndGradientsThatAreNotFinite) {
  LearnedValues learned(2, 0);
  learned.Step({2, std::numeric_limits<float>::quiet_NaN()}, 2, 1, 0.01);
  EXPECT_NEAR(learned.Trusted(1)[0], -0.01, 1e-6);
  EXPECT_EQ(learned.Trusted(1)[1], 0);
}

// Rows of another build, or of another size.
TEST(LearnedValues, RestoreIsOfItsOwnRowsAlone) {
  LearnedValues learned(2, 1);
  learned.Step({1, 2}, 1, 1, 0.01);
  LearnedValues restored(2, 1);
  ASSERT_TRUE(restored.Restore(learned.Save()));
  EXPECT_EQ(restored.values(), learned.values());
  EXPECT_EQ(restored.Trusted(1), learned.Trusted(1));
  EXPECT_FALSE(restored.Restore(Matrix<float>(3, 2)));
  EXPECT_FALSE(restored.Restore(Matrix<float>(5, 3)));
}

// Weights that nobody trained have nothing in common that gains could mend.
TEST(MaskGains, LowerTheDivergenceOfATrainedModelAtTheSameCost) {
  const std::string examples = RANKFORGE_SOURCE_DIR "/examples/models/";
  const Checkpoint checkpoint =
      Checkpoint::Open(examples + "llama-gqa-7m").value();
  const ModelConfig& config = checkpoint.config();
  AdaptOptions options;
  options.window = 128;
  options.keep = 0.4;
  const std::vector<int> ids =
      Tokenizer::Load(examples + "llama-gqa-7m")
          .value()
          .Encode(
              ReadTextFile(examples + "text/calibration.txt", 1 << 24).value());
  const std::vector<int> sample =
      SampleWindows(ids, options.window, 5120, 1).value();
  Model model = Model::Create(config, checkpoint, nullptr, Dispatcher(nullptr),
                              {.threads = 2, .blocks_on_demand = true},
                              MakeDefaultExecutor(2))
                    .value();
  const ModelSpec spec = DescribeModel(config, nullptr);
  AdaptState state;
  WorkMeter meter({});
  const AdaptRun run{checkpoint, spec, model, sample, options, state, meter};
  Adapter adapter = Masks(checkpoint, sample, options);
  const GainSchedule schedule = {.steps = 8, .tokens = 1024, .held = 1024};
  const Status learned = LearnGains(run, schedule, 1, options.keep, adapter);
  ASSERT_TRUE(learned.ok()) << learned.message();
  EXPECT_LT(Number(adapter, "gain_divergence"),
            Number(adapter, "gain_divergence_before"));
  EXPECT_NEAR(adapter.linear_flops_ratio, options.keep, 0.005);
  double kept = 0, all = 0;
  ASSERT_EQ(adapter.masks.size(), 4 * config.layers);
  for (const BlockSpec& block : spec.blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      const InputMask& mask = adapter.masks.at(projection.name);
      ASSERT_EQ(mask.gain.size(), projection.cols);
      ASSERT_EQ(mask.bias.size(), projection.rows);
      for (const float gain : mask.gain) EXPECT_NEAR(gain, 1, 0.5);
      const auto weights =
          static_cast<double>(projection.rows * projection.cols);
      kept += mask.density * weights;
      all += weights;
    }
  }
  // What is recorded is what was measured, but for first tokens.
  EXPECT_NEAR(kept / all, adapter.linear_flops_ratio, 0.01);
}

class MaskGainsTest : public AdaptRunTest {
 protected:
  MaskGainsTest() : AdaptRunTest(kTokens) { options_.keep = kKeep; }

  Adapter Learned(const GainSchedule& schedule = kSchedule) {
    Adapter adapter = Masks(*checkpoint_, sample_, options_);
    const Status learned = LearnGains(Run(), schedule, 1, kKeep, adapter);
    EXPECT_TRUE(learned.ok()) << learned.message();
    return adapter;
  }
};

// Gains of masks in rotated bases: the rotation stays what it is.
TEST_F(MaskGainsTest, AreLearnedInOtherBases) {
  options_.method = "rotated";
  options_.keep = 0.7;
  options_.group_blocks = 4;
  const Adapter rotated = Adapt(*checkpoint_, sample_, options_).value();
  Adapter adapter = rotated;
  const Status learned = LearnGains(Run(), kSchedule, 1, 0.7, adapter);
  ASSERT_TRUE(learned.ok()) << learned.message();
  ASSERT_EQ(adapter.rotation.groups.size(), rotated.rotation.groups.size());
  EXPECT_EQ(adapter.rotation.groups[0].q, rotated.rotation.groups[0].q);
  EXPECT_GT(Number(adapter, "gain_divergence_before"), 0);
  EXPECT_LT(Number(adapter, "gain_divergence"),
            1.2 * Number(adapter, "gain_divergence_before"));
  EXPECT_TRUE(CheckAdapter(config(), adapter).ok());
}

TEST_F(MaskGainsTest, AreOnlyKeptWhereTheyPay) {
  const Adapter adapter = Learned();
  const bool pays = Number(adapter, "gain_divergence") <
                    Number(adapter, "gain_divergence_before");
  EXPECT_EQ(Number(adapter, "gain_steps"), pays ? kSchedule.steps : 0);
  EXPECT_EQ(!adapter.masks.begin()->second.gain.empty(), pays);
  if (!pays) ExpectSame(adapter, Masks(*checkpoint_, sample_, options_));
}

TEST_F(MaskGainsTest, AreLeftOutWithoutEffort) {
  options_.effort = 0;
  EXPECT_EQ(GainSchedule::Of(config(), options_, 32000).steps, 0u);
  const Adapter masks = Masks(*checkpoint_, sample_, options_);
  ExpectSame(Learned(GainSchedule::Of(config(), options_, kTokens)), masks);
  EXPECT_TRUE(masks.masks.begin()->second.gain.empty());
}

// The time left of a whole run counts it from the beginning.
TEST_F(MaskGainsTest, WorkIsThatOfTheStepsAndOfOnePassBefore) {
  EXPECT_EQ(GainSchedule().Work(config(), kTokens), 0);
  GainSchedule twice = kSchedule;
  twice.steps *= 2;
  const double steps =
      twice.Work(config(), kTokens) - kSchedule.Work(config(), kTokens);
  EXPECT_GT(steps, 0);
  EXPECT_NEAR(kSchedule.Work(config(), kTokens) - steps,
              MacsFrom(config(), 0) * kTokens, 1);
}

TEST_F(MaskGainsTest, AModelTooLargeForTheEffortIsLeftAsItIs) {
  ModelConfig large = config();
  large.hidden = 4096;
  large.mlp = 11008;
  large.layers = 32;
  EXPECT_EQ(GainSchedule::Of(large, options_, 32000).steps, 0u);
  options_.effort = 100;
  EXPECT_GT(GainSchedule::Of(large, options_, 32000).steps, 0u);
}

TEST_F(MaskGainsTest, HeldOutTokensAreNotLearnedFrom) {
  for (const size_t windows : {1, 2, 3, 10, 1000}) {
    const GainSchedule schedule =
        GainSchedule::Of(config(), options_, windows * kWindow);
    // The same few tokens again and again would be learned by heart.
    EXPECT_EQ(schedule.steps > 0, windows == 1000) << windows;
    EXPECT_EQ(schedule.tokens % kWindow + schedule.held % kWindow, 0u);
    EXPECT_LE(schedule.tokens + schedule.held, windows * kWindow);
  }
}

TEST_F(MaskGainsTest, AStoppedRunGoesOnWhereItWas) {
  const Adapter whole = Learned();
  const auto open = [&] {
    return AdaptState::Open(folder_.File("state"), {{"run", "gains"}}).value();
  };
  state_ = open();
  size_t steps = 0;
  meter_ = WorkMeter({}, [&] { return ++steps == 7; });
  Adapter stopped = Masks(*checkpoint_, sample_, options_);
  const Status status = LearnGains(Run(), kSchedule, 1, kKeep, stopped);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("stopped"), std::string::npos);
  state_ = open();
  meter_ = WorkMeter({}, [&] {
    ++steps;
    return false;
  });
  const Adapter resumed = Learned();
  ExpectSame(resumed, whole);
  EXPECT_EQ(resumed.parameters, whole.parameters);
  // The dense pass runs again.
  EXPECT_EQ(steps, kSchedule.steps + 3);
  // Nothing stays that would keep the next run from this folder.
  state_.Remove();
  EXPECT_FALSE(std::filesystem::exists(folder_.File("state")));
}

TEST_F(MaskGainsTest, AStateOfAnotherModelIsRefused) {
  state_ = AdaptState::Open(folder_.File("state"), {{"run", "gains"}}).value();
  ASSERT_TRUE(state_.SaveSnapshot("gains.5", {{}, "3"}).ok());
  Adapter adapter = Masks(*checkpoint_, sample_, options_);
  const Status status = LearnGains(Run(), kSchedule, 1, kKeep, adapter);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("remove the folder"), std::string::npos);
}

}  // namespace
}  // namespace rankforge
