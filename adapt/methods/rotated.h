// Input masks in orthogonal bases of the residual stream that groups of blocks
// share (docs/rana.md).
#ifndef RANKFORGE_ADAPT_METHODS_ROTATED_H_
#define RANKFORGE_ADAPT_METHODS_ROTATED_H_

#include <memory>
#include <vector>

#include "adapt/methods/block_builder.h"
#include "adapt/run/method.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {

// A model in rotated groups of blocks, and the forms of its layers there.
struct RotatedStart {
  Rotation rotation;
  std::vector<BlockChoices> choices;  // by block
};

// Groups of options.group_blocks blocks with masks by magnitude of equal
// density everywhere. Together with the products that turn the stream, the
// layers cost `keep` of what they cost dense.
Result<RotatedStart> MakeRotatedStart(const AdaptRun& run, double keep);

double SmallestRotatedKeep(const ModelConfig& config,
                           const AdaptOptions& options);
std::unique_ptr<Planner> MakeRotatedPlanner(const AdaptRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_ROTATED_H_
