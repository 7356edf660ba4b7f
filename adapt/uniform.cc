#include "adapt/uniform.h"

#include <vector>

#include "adapt/block_builder.h"

namespace rankforge {
namespace {

class UniformPlanner : public Planner {
 public:
  UniformPlanner(Form form, const AdaptRun& run) : form_(form), run_(run) {}

  Status Plan(double keep, Adapter& adapter) override {
    BlockChoices block;
    block.fill({form_, keep});
    return BuildBlocks(
        run_, std::vector<BlockChoices>(run_.spec.blocks.size(), block), {},
        adapter);
  }
  size_t steps() const override { return run_.spec.blocks.size(); }

 private:
  Form form_;
  AdaptRun run_;
};

}  // namespace

// A truncated SVD of the narrowest layer affords its smallest rank.
double SmallestUniformKeep(const ModelConfig& config,
                           const AdaptOptions& options) {
  const double d =
      options.round_d ? static_cast<double>(InnerMultiple(0)) : 1.0;
  const double hidden = static_cast<double>(config.hidden);
  double smallest = 0;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    for (const size_t other :
         {config.qkv_rows(layer), config.o_cols(layer),
          config.mlp_in_rows(layer), config.mlp_width(layer)}) {
      smallest =
          std::max(smallest, d / hidden + d / static_cast<double>(other));
    }
  }
  return smallest;
}

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, const AdaptRun& run) {
  return std::make_unique<UniformPlanner>(form, run);
}

}  // namespace rankforge
