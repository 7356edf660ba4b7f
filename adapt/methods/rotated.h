// Input masks in orthogonal bases of the residual stream that groups of blocks
// share (docs/rana.md).
#ifndef RANKFORGE_ADAPT_METHODS_ROTATED_H_
#define RANKFORGE_ADAPT_METHODS_ROTATED_H_

#include <cstddef>
#include <memory>

#include "adapt/run/method.h"

namespace rankforge {

// The smallest keep that groups of `group_blocks` blocks can be planned for.
double SmallestRotatedKeepOf(const ModelConfig& config,
                             const AdaptOptions& options, size_t group_blocks);
// That of method rotated.
double SmallestRotatedKeep(const ModelConfig& config,
                           const AdaptOptions& options);
// Groups of `group_blocks` blocks with masks by magnitude of equal density
// everywhere. Together with the products that turn the stream, the layers cost
// what they should. The bases are those of `bases`, which the planner fills if
// it is empty, and which must outlive it; null: bases of its own.
std::unique_ptr<Planner> MakeRotatedPlanner(const AdaptRun& run,
                                            size_t group_blocks,
                                            Rotation* bases = nullptr);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_ROTATED_H_
