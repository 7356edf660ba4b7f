#include "optimize/sensitivities.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "optimize/points.h"
#include "optimize/prices.h"
#include "optimize/type_groups.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/table/cpu.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

constexpr size_t kWindow = 64;

class SensitivitiesTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = folder_.File("model");
    const Status written = WriteSyntheticCheckpoint(TinyConfig(), 5, path);
    ASSERT_TRUE(written.ok()) << written.message();
    Result<Checkpoint> opened = Checkpoint::Open(path);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    checkpoint_.emplace(std::move(opened).value());
    for (size_t i = 0; i < 2 * kWindow; ++i) {
      ids_.push_back(static_cast<int>(i * 37 % 301));
    }
  }

  // How far predictions move when `group` alone has `type`, by evaluation.
  double Evaluated(const std::vector<TypeGroup>& groups, size_t group,
                   WeightType type) {
    const ModelConfig& config = checkpoint_->config();
    std::vector<WeightType> types(groups.size(), WeightType::kBf16);
    Model dense = MakeModel(
        config, *checkpoint_, nullptr,
        {.type = WeightType::kBf16, .lm_head_type = WeightType::kBf16});
    types[group] = type;
    ModelOptions options = OptionsWith(
        TypesByTensor(config, nullptr, groups, types, Activations::kI8), 1);
    options.kv_type = WeightType::kF32;
    Model rounded = MakeModel(config, *checkpoint_, nullptr, options);
    const auto found =
        Evaluate(rounded, ids_, {.window = kWindow, .reference = &dense}, {});
    EXPECT_TRUE(found.ok()) << found.status().message();
    return found->difference->divergence.mean;
  }

  const TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<int> ids_;
};

TEST_F(SensitivitiesTest, AreThoseOfWholeModels) {
  const auto groups = TypeGroupsOf(checkpoint_->config());
  ASSERT_EQ(groups.size(), 13u);
  EXPECT_EQ(groups[0].name, "qkv of block 0");
  EXPECT_EQ(groups.back().name, "lm_head");
  const std::vector<WeightType> types = {
      WeightType::kBf16, WeightType::kI8Group32, WeightType::kI4Group32};
  const auto found = MeasureSensitivities(*checkpoint_, ids_, groups, types,
                                          {.window = kWindow});
  ASSERT_TRUE(found.ok()) << found.status().message();
  for (size_t group = 0; group < groups.size(); ++group) {
    const auto& [bf16, i8, i4] =
        std::array{(*found)[group][0], (*found)[group][1], (*found)[group][2]};
    EXPECT_LT(bf16, 1e-9) << groups[group].name;  // the checkpoint's own type
    EXPECT_LT(bf16, i8) << groups[group].name;
    EXPECT_LT(i8, i4) << groups[group].name;
  }
  // Evaluation leaves the last token of a window out.
  for (const size_t group : {size_t{1}, size_t{6}, size_t{12}}) {
    const double whole = Evaluated(groups, group, WeightType::kI4Group32);
    EXPECT_NEAR((*found)[group][2] / whole, 1, 0.1) << groups[group].name;
  }
}

TEST_F(SensitivitiesTest, NeedWholeWindows) {
  const auto groups = TypeGroupsOf(checkpoint_->config());
  const std::vector<WeightType> types = {WeightType::kBf16};
  const auto found =
      MeasureSensitivities(*checkpoint_, std::span(ids_).first(kWindow + 1),
                           groups, types, {.window = kWindow});
  ASSERT_FALSE(found.ok());
  EXPECT_NE(found.status().message().find("65 tokens"), std::string::npos);
}

TEST_F(SensitivitiesTest, AdaptedProductsHaveTheTypesOfTheirGroup) {
  const ModelConfig& config = checkpoint_->config();
  Adapter adapter;
  AddMasks(config, 0.1f, adapter);
  const auto groups = TypeGroupsOf(config);
  const std::vector<WeightType> types(groups.size(), WeightType::kI4Group32);
  const ModelOptions options = OptionsWith(
      TypesByTensor(config, &adapter, groups, types, Activations::kI8), 1);
  for (const Problem& problem : DecodeSequence(config, &adapter, options)) {
    EXPECT_EQ(problem.type, WeightType::kI4Group32) << problem.ToString();
  }
}

// Commands refuse activations that no weights take.
TEST_F(SensitivitiesTest, TypesHaveActivationsThatTheyTake) {
  const ModelConfig& config = checkpoint_->config();
  const auto groups = TypeGroupsOf(config);
  std::vector<WeightType> types(groups.size(), WeightType::kBf16);
  const auto options = [&] {
    return OptionsWith(
        TypesByTensor(config, nullptr, groups, types, Activations::kI8), 1);
  };
  EXPECT_EQ(options().activations, Activations::kF32);
  EXPECT_TRUE(CheckActivations(config, nullptr, options()).ok());
  types.back() = WeightType::kI8;
  EXPECT_EQ(options().activations, Activations::kI8);
  EXPECT_TRUE(CheckActivations(config, nullptr, options()).ok());

  // Masked columns of bf16 keep their inputs, and nothing else is bf16.
  Adapter adapter;
  AddMasks(config, 0.1f, adapter);
  types.assign(groups.size(), WeightType::kBf16);
  types.back() = WeightType::kF16;  // lm_head
  ASSERT_FALSE(groups.back().site);
  const StoredTypes masked =
      TypesByTensor(config, &adapter, groups, types, Activations::kBf16);
  EXPECT_EQ(masked.activations, Activations::kF32);
  const StoredTypes dense =
      TypesByTensor(config, nullptr, groups, types, Activations::kBf16);
  EXPECT_EQ(dense.activations, Activations::kBf16);
}

// Prices are bytes at the measured rate, or where nothing was measured at that
// of memory.
TEST_F(SensitivitiesTest, PricesAreOfTheTable) {
  const ModelConfig& config = checkpoint_->config();
  const auto groups = TypeGroupsOf(config);
  const std::vector<WeightType> types = {WeightType::kBf16,
                                         WeightType::kI8Group32};
  DispatchTable table;
  EXPECT_FALSE(
      PricesOf(config, nullptr, groups, types, Activations::kI8, table, 1)
          .ok());
  table.environment.read_gbps[1] = 10;
  const Problem lm_head = {.rows = 301, .cols = 96, .type = types[0]};
  TableEntry entry;
  entry.problem = lm_head;
  Bucket& bucket = entry.decision.by_density.emplace_back();
  bucket.ns.median = 1;
  bucket.ns.n = 3;
  bucket.useful_gbps = 5;
  table.entries.push_back(entry);
  const auto prices =
      PricesOf(config, nullptr, groups, types, Activations::kI8, table, 1);
  ASSERT_TRUE(prices.ok()) << prices.status().message();
  EXPECT_NEAR(prices->back()[0], 301 * 96 * 2 / 5.0, 1e-6);
  EXPECT_NEAR(prices->back()[1], 301 * 96 * (1 + 2.0 / 32) / 10, 1e-6);
}

// All models and types, each problem once.
TEST_F(SensitivitiesTest, WorkloadsAreDistinctProblems) {
  const ModelConfig& config = checkpoint_->config();
  Adapter adapter;
  AddMasks(config, 0.1f, adapter);
  const std::vector<WeightType> types = {WeightType::kBf16,
                                         WeightType::kI4Group32};
  const std::vector<const Adapter*> adapters = {&adapter, &adapter};
  std::map<Problem, size_t> seen;
  for (const Workload& workload :
       WorkloadsOfTypes(config, adapters, types, Activations::kI8, 2)) {
    EXPECT_EQ(++seen[workload.problem], 1u) << workload.problem.ToString();
  }
  size_t dense = 0;
  for (const auto& [problem, count] : seen) {
    dense += problem.operation == Operation::kDense ? 1 : 0;
  }
  EXPECT_GE(dense, 8u);
  EXPECT_GT(seen.size(), dense);
}

// The baseline against itself: no loss, and the same bytes.
TEST_F(SensitivitiesTest, PointsAreMeasuredAgainstDense) {
  const ModelConfig& config = checkpoint_->config();
  const auto groups = TypeGroupsOf(config);
  const auto options_of = [&](WeightType type) {
    const std::vector<WeightType> types(groups.size(), type);
    return OptionsWith(
        TypesByTensor(config, nullptr, groups, types, Activations::kI8), 1);
  };
  const Dispatcher defaults(nullptr);
  const MeterOptions meter_options = {
      .window = kWindow, .context = 16, .tokens = 6};
  auto meter =
      PointMeter::Create(*checkpoint_, defaults, options_of(WeightType::kBf16),
                         ids_, meter_options);
  ASSERT_TRUE(meter.ok()) << meter.status().message();
  const auto bf16 = meter->Measure(nullptr, options_of(WeightType::kBf16));
  const auto i4 = meter->Measure(nullptr, options_of(WeightType::kI4Group32));
  ASSERT_TRUE(bf16.ok() && i4.ok());
  EXPECT_LT(bf16->against_dense.divergence.mean, 1e-5);  // the KV cache is f16
  EXPECT_GT(i4->against_dense.divergence.mean,
            bf16->against_dense.divergence.mean);
  EXPECT_NEAR(i4->bytes_per_token / bf16->bytes_per_token, 0.5625 / 2, 0.02);
  EXPECT_GT(i4->ms_per_token, 0);
  EXPECT_FALSE(PointMeter::Create(*checkpoint_, defaults,
                                  options_of(WeightType::kBf16),
                                  std::span(ids_).first(20), meter_options)
                   .ok());
}

}  // namespace
}  // namespace rankforge
