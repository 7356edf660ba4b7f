#include "adapt/uniform.h"

#include "adapt/block_builder.h"

namespace rankforge {
namespace {

class UniformPlanner : public Planner {
 public:
  UniformPlanner(Form form, const AdaptRun& run) : form_(form), run_(run) {}

  Status Prepare(double keep, Adapter&) override {
    choices_.fill({form_, keep});
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    return BuildBlock(run_, choices_, {}, calibration, adapter);
  }
  bool behind() const override { return true; }

 private:
  Form form_;
  AdaptRun run_;
  BlockChoices choices_;
};

}  // namespace

// A truncated SVD of the narrowest layer affords its smallest rank.
double SmallestUniformKeep(const ModelConfig& config,
                           const AdaptOptions& options) {
  const double d =
      options.round_d ? static_cast<double>(InnerMultiple(0)) : 1.0;
  const double hidden = static_cast<double>(config.hidden);
  double smallest = 0;
  for (const size_t other :
       {config.qkv_rows(), config.q_rows(), config.mlp_in_rows(), config.mlp}) {
    smallest = std::max(smallest, d / hidden + d / static_cast<double>(other));
  }
  return smallest;
}

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, const AdaptRun& run) {
  return std::make_unique<UniformPlanner>(form, run);
}

}  // namespace rankforge
