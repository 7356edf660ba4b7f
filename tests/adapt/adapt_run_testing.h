// A run of `adapt` on a small synthetic model, without the command around it.
#ifndef RANKFORGE_TESTS_ADAPT_ADAPT_RUN_TESTING_H_
#define RANKFORGE_TESTS_ADAPT_ADAPT_RUN_TESTING_H_

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "adapt/methods/block_builder.h"
#include "adapt/run/budget.h"
#include "adapt/run/method.h"
#include "runtime/model/weights/synthetic.h"
#include "tests/model/model_testing.h"

namespace rankforge {

class AdaptRunTest : public testing::Test {
 protected:
  static constexpr size_t kWindow = 16;

  explicit AdaptRunTest(size_t tokens) {
    EXPECT_TRUE(
        WriteSyntheticCheckpoint(TinyConfig(), 1, folder_.File("model")).ok());
    checkpoint_.emplace(Checkpoint::Open(folder_.File("model")).value());
    sample_ = SyntheticIds(config(), tokens, 2);
    spec_ = DescribeModel(config(), nullptr);
    options_.window = kWindow;
    model_.emplace(Model::Create(config(), *checkpoint_, nullptr,
                                 Dispatcher(nullptr),
                                 {.type = WeightType::kF32,
                                  .lm_head_type = WeightType::kF32,
                                  .threads = 1,
                                  .blocks_on_demand = true},
                                 MakeSerialExecutor())
                       .value());
  }

  const ModelConfig& config() const { return checkpoint_->config(); }
  AdaptRun Run() {
    return {*checkpoint_, spec_, *model_, sample_, options_, state_, meter_};
  }

  TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<int> sample_;
  ModelSpec spec_;
  std::optional<Model> model_;
  AdaptOptions options_;
  AdaptState state_;
  WorkMeter meter_{{}};
};

// What `choices`, by block, cost of `layers` dense.
inline double CostOf(const std::vector<BlockChoices>& choices,
                     const std::vector<BudgetedLayer>& layers) {
  double cost = 0, total = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const BlockChoices& block = choices[i / kSites.size()];
    cost += block[kSites[i % kSites.size()]].cost * layers[i].dense_cost;
    total += layers[i].dense_cost;
  }
  return cost / total;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_ADAPT_ADAPT_RUN_TESTING_H_
