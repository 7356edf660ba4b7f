// Orthogonal bases of the residual stream that groups of blocks share: the
// directions in which their layers read most of it.
#ifndef RANKFORGE_ADAPT_METHODS_STREAM_BASES_H_
#define RANKFORGE_ADAPT_METHODS_STREAM_BASES_H_

#include <cstddef>
#include <vector>

#include "adapt/math/linear_algebra.h"
#include "adapt/run/method.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {

// The first blocks of groups of `size` blocks, 1 at least; the last may have
// fewer.
std::vector<size_t> EvenGroups(size_t layers, size_t size);

// Q (n, n): the eigenvectors of `moments` (n, n) as columns, by descending
// eigenvalue.
Result<std::vector<float>> PrincipalBasis(Matrix<double> moments);

// Groups of blocks that begin at `firsts`, all of them rotated. The basis of
// each is the PrincipalBasis of the sum of C / trace C over the sites of its
// blocks that read the stream, C the second moments of what the dense model
// reads there before the weight of the norm: once of the first tokens of
// windows, and once of all others. The few huge values of a first token have a
// direction of their own. In the basis of the others alone they spread over
// many channels, and masks cut them. Runs the dense model once, with a step of
// the meter for each block, and goes on where an earlier run was stopped.
Result<Rotation> FindRotation(const AdaptRun& run,
                              const std::vector<size_t>& firsts);

// What the products that turn the stream cost, relative to the dense layers of
// all blocks. Q may be missing.
double TurnShare(const ModelConfig& config, const Rotation& rotation,
                 const CostModel& costs);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_STREAM_BASES_H_
