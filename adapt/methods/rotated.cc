#include "adapt/methods/rotated.h"

#include <algorithm>
#include <utility>

#include "adapt/methods/stream_bases.h"
#include "adapt/run/budget.h"

namespace rankforge {
namespace {

// The share of their dense cost that is left for the linear layers at `keep`.
double ShareFor(const ModelConfig& config, const Rotation& rotation,
                const CostModel& costs, double keep) {
  Adapter rotated;
  rotated.rotation = rotation;
  const double dense = BlockCost(DescribeModel(config, nullptr), costs);
  return keep - TurnCost(DescribeModel(config, &rotated), costs) / dense;
}

// The groups without their bases.
Rotation GroupsOf(const ModelConfig& config, const AdaptOptions& options) {
  Rotation rotation{config.hidden, {}};
  for (const size_t first : EvenGroups(config.layers, options.group_blocks)) {
    rotation.groups.push_back({first, true, {}});
  }
  return rotation;
}

BlockChoices ChoicesFor(double share) {
  BlockChoices choices;
  for (const Site site : kSites) choices[site] = {Form::kMagnitude, share};
  return choices;
}

class RotatedPlanner : public Planner {
 public:
  explicit RotatedPlanner(const AdaptRun& run) : run_(run) {}

  Status Prepare(double keep, Adapter& adapter) override {
    // The bases are those of the dense model, whatever is kept of it.
    if (start_.choices.empty()) {
      RANKFORGE_ASSIGN_OR_RETURN(start_, MakeRotatedStart(run_, keep));
    }
    const ModelConfig& config = run_.model.config();
    const double share =
        ShareFor(config, start_.rotation, run_.options.Costs(), keep);
    start_.choices.assign(config.layers, ChoicesFor(share));
    adapter.rotation = start_.rotation;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    // The whole adapter has the bases, not that of this block.
    adapter.rotation = std::move(start_.rotation);
    const Status built = BuildBlock(run_, start_.choices[calibration.layer()],
                                    {}, calibration, adapter);
    start_.rotation = std::exchange(adapter.rotation, {});
    return built;
  }
  bool behind() const override { return true; }

 private:
  AdaptRun run_;
  RotatedStart start_;
};

}  // namespace

Result<RotatedStart> MakeRotatedStart(const AdaptRun& run, double keep) {
  const ModelConfig& config = run.model.config();
  RotatedStart start;
  RANKFORGE_ASSIGN_OR_RETURN(
      start.rotation,
      FindRotation(run, EvenGroups(config.layers, run.options.group_blocks)));
  const double share =
      ShareFor(config, start.rotation, run.options.Costs(), keep);
  start.choices.assign(config.layers, ChoicesFor(share));
  return start;
}

// With this keep, a mask of the narrowest layer keeps one input.
double SmallestRotatedKeep(const ModelConfig& config,
                           const AdaptOptions& options) {
  size_t narrowest = config.hidden;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      narrowest = std::min(narrowest, projection.cols);
    }
  }
  return 1 / static_cast<double>(narrowest) -
         ShareFor(config, GroupsOf(config, options), options.Costs(), 0);
}

std::unique_ptr<Planner> MakeRotatedPlanner(const AdaptRun& run) {
  return std::make_unique<RotatedPlanner>(run);
}

}  // namespace rankforge
