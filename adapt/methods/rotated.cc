#include "adapt/methods/rotated.h"

#include <algorithm>
#include <utility>

#include "adapt/methods/block_builder.h"
#include "adapt/methods/stream_bases.h"

namespace rankforge {
namespace {

// The groups without their bases.
Rotation GroupsOf(const ModelConfig& config, size_t group_blocks) {
  Rotation rotation{config.hidden, {}};
  for (const size_t first : EvenGroups(config.layers, group_blocks)) {
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
  RotatedPlanner(const AdaptRun& run, size_t group_blocks, Rotation* bases)
      : run_(run),
        group_blocks_(group_blocks),
        rotation_(bases == nullptr ? own_ : *bases) {}

  Status Prepare(double keep, Adapter& adapter) override {
    const ModelConfig& config = run_.model.config();
    // The bases are those of the dense model, whatever is kept of it.
    if (rotation_.empty()) {
      RANKFORGE_ASSIGN_OR_RETURN(
          rotation_,
          FindRotation(run_, EvenGroups(config.layers, group_blocks_)));
    }
    const double share =
        keep - TurnShare(config, rotation_, run_.options.Costs());
    choices_.assign(config.layers, ChoicesFor(share));
    adapter.rotation = rotation_;
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const LentRotation lent(&rotation_, adapter);
    return BuildBlock(run_, choices_[calibration.layer()], {}, calibration,
                      adapter);
  }
  bool behind() const override { return true; }
  std::vector<BlockChoices> choices() const override { return choices_; }
  Rotation* rotation() override { return &rotation_; }

 private:
  AdaptRun run_;
  size_t group_blocks_;
  Rotation own_;
  Rotation& rotation_;
  std::vector<BlockChoices> choices_;  // by block
};

}  // namespace

// With this keep, a mask of the narrowest layer keeps one input.
double SmallestRotatedKeepOf(const ModelConfig& config,
                             const AdaptOptions& options, size_t group_blocks) {
  size_t narrowest = config.hidden;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      narrowest = std::min(narrowest, projection.cols);
    }
  }
  return 1 / static_cast<double>(narrowest) +
         TurnShare(config, GroupsOf(config, group_blocks), options.Costs());
}

double SmallestRotatedKeep(const ModelConfig& config,
                           const AdaptOptions& options) {
  return SmallestRotatedKeepOf(config, options, options.group_blocks);
}

std::unique_ptr<Planner> MakeRotatedPlanner(const AdaptRun& run,
                                            size_t group_blocks,
                                            Rotation* bases) {
  return std::make_unique<RotatedPlanner>(run, group_blocks, bases);
}

}  // namespace rankforge
