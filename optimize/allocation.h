// Divides a budget of time among groups of products that each have a choice.
// Knows nothing of models.
#ifndef RANKFORGE_OPTIMIZE_ALLOCATION_H_
#define RANKFORGE_OPTIMIZE_ALLOCATION_H_

#include <cstddef>
#include <vector>

namespace rankforge {

// What one choice costs a group, and what it adds to the divergence.
struct TypeOption {
  double ns = 0;
  double divergence = 0;
};

// By group, by type: every group has as many options, at least one.
using TypeOptions = std::vector<std::vector<TypeOption>>;

struct Allocation {
  std::vector<size_t> types;  // the option of each group
  double ns = 0;              // sums over the groups
  double divergence = 0;
};

// The allocation of these options.
Allocation AllocationOf(const TypeOptions& groups, std::vector<size_t> types);

// Allocations by ascending time and descending divergence: for every other one,
// one of these takes no longer and diverges no more. Exact where no more than a
// thousand combinations of the first groups are of use. Beyond, they are
// thinned out evenly over the range of times. No allocation that gives all
// groups the same option is better than the result, however many there are.
std::vector<Allocation> BestAllocations(const TypeOptions& groups);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_ALLOCATION_H_
