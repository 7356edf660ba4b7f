#include "adapt/methods/uniform.h"

#include <algorithm>

#include "adapt/methods/block_builder.h"

namespace rankforge {
namespace {

bool IsIn(Site site, Where where) {
  return where == Where::kBlocks || site == Site::kMlpInput ||
         site == Site::kMlpHidden;
}

// What the layers of a block cost dense: those that are cut, and the others.
struct DenseCosts {
  double cut = 0;
  double others = 0;

  DenseCosts(const BlockSpec& block, Where where, const CostModel& costs) {
    for (const Site site : kSites) {
      const ProjectionSpec& projection = block[site];
      (IsIn(site, where) ? cut : others) +=
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
    choices_.clear();
    for (const BlockSpec& block : run_.spec.blocks) {
      const DenseCosts dense(block, where_, run_.options.Costs());
      const double share = (keep * dense.all() - dense.others) / dense.cut;
      BlockChoices& choices = choices_.emplace_back();
      for (const Site site : kSites) {
        if (IsIn(site, where_)) choices[site] = {form_, share};
      }
    }
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    return BuildBlock(run_, choices_[calibration.layer()], {}, calibration,
                      adapter);
  }
  bool behind() const override { return true; }
  std::vector<BlockChoices> choices() const override { return choices_; }

 private:
  Form form_;
  Where where_;
  AdaptRun run_;
  std::vector<BlockChoices> choices_;  // by block
};

}  // namespace

// With this keep, a truncated SVD of the narrowest layer has its smallest rank,
// and a mask keeps one input.
double SmallestUniformKeepOf(Form form, Where where, const ModelConfig& config,
                             const AdaptOptions& options) {
  const double d =
      options.round_d ? static_cast<double>(InnerMultiple(0)) : 1.0;
  double smallest = 0;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const Site site : kSites) {
      if (!IsIn(site, where)) continue;
      const ProjectionSpec& projection = block[site];
      const double rows = static_cast<double>(projection.rows);
      const double cols = static_cast<double>(projection.cols);
      smallest =
          std::max(smallest, IsRank(form) ? d / rows + d / cols : 1 / cols);
    }
  }
  const BlockSpec block = DescribeModel(config, nullptr).blocks.front();
  const DenseCosts dense(block, where, options.Costs());
  return (dense.others + smallest * dense.cut) / dense.all();
}

std::unique_ptr<Planner> MakeUniformPlannerOf(Form form, Where where,
                                              const AdaptRun& run) {
  return std::make_unique<UniformPlanner>(form, where, run);
}

}  // namespace rankforge
