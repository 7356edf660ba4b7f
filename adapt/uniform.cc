#include "adapt/uniform.h"

#include <algorithm>

#include "adapt/block_builder.h"

namespace rankforge {
namespace {

bool IsIn(Place place, Where where) {
  return where == Where::kBlocks || place == Place::kGateUp ||
         place == Place::kDown;
}

// What the layers of a block cost dense: those that are cut, and the others.
struct DenseCosts {
  double cut = 0;
  double others = 0;

  DenseCosts(const BlockSpec& block, Where where, const CostModel& costs) {
    for (const Place place : kPlaces) {
      const ProjectionSpec& projection = ProjectionAt(block, place);
      (IsIn(place, where) ? cut : others) +=
          costs.Dense(projection.rows, projection.cols);
    }
  }
  double all() const { return cut + others; }
};

class UniformPlanner : public Planner {
 public:
  UniformPlanner(Form form, Where where, const AdaptRun& run)
      : form_(form), where_(where), run_(run) {}

  Status Prepare(double keep, Adapter&) override {
    keep_ = keep;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const BlockSpec& block = run_.spec.blocks[calibration.layer()];
    const DenseCosts dense(block, where_, run_.options.Costs());
    const double share = (keep_ * dense.all() - dense.others) / dense.cut;
    BlockChoices choices;
    for (size_t p = 0; p < kPlaces.size(); ++p) {
      if (IsIn(kPlaces[p], where_)) choices[p] = {form_, share};
    }
    return BuildBlock(run_, choices, {}, calibration, adapter);
  }
  bool behind() const override { return true; }

 private:
  Form form_;
  Where where_;
  AdaptRun run_;
  double keep_ = 1;
};

}  // namespace

// A truncated SVD of the narrowest layer affords its smallest rank.
template <Where where>
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
  const BlockSpec block = DescribeModel(config, nullptr).blocks.front();
  const DenseCosts dense(block, where, options.Costs());
  return (dense.others + smallest * dense.cut) / dense.all();
}
template double SmallestUniformKeep<Where::kBlocks>(const ModelConfig&,
                                                    const AdaptOptions&);
template double SmallestUniformKeep<Where::kMlps>(const ModelConfig&,
                                                  const AdaptOptions&);

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, Where where,
                                              const AdaptRun& run) {
  return std::make_unique<UniformPlanner>(form, where, run);
}

}  // namespace rankforge
