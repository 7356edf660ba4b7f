#include "optimize/allocation.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace rankforge {
namespace {

// Combinations that are kept after each group.
constexpr size_t kMost = 1024;

// Leaves those that no other beats, in the order of BestAllocations.
void KeepBest(std::vector<Allocation>& all) {
  std::ranges::sort(all, [](const Allocation& a, const Allocation& b) {
    return std::tie(a.ns, a.divergence) < std::tie(b.ns, b.divergence);
  });
  size_t kept = 0;
  for (Allocation& next : all) {
    if (kept > 0 && next.divergence >= all[kept - 1].divergence) continue;
    if (&next != &all[kept]) all[kept] = std::move(next);
    ++kept;
  }
  all.resize(kept);
}

// Leaves the one that diverges least of each of kMost equal slots of time, and
// the quickest.
void ThinOut(std::vector<Allocation>& best) {
  if (best.size() <= kMost) return;
  const double first = best.front().ns;
  const double slot = (best.back().ns - first) / (kMost - 1);
  const auto slot_of = [&](size_t i) {
    return static_cast<size_t>((best[i].ns - first) / slot);
  };
  size_t kept = 1;
  for (size_t i = 1; i < best.size(); ++i) {
    if (i + 1 < best.size() && slot_of(i) == slot_of(i + 1)) continue;
    if (i != kept) best[kept] = std::move(best[i]);
    ++kept;
  }
  best.resize(kept);
}

}  // namespace

Allocation AllocationOf(const TypeOptions& groups, std::vector<size_t> types) {
  Allocation allocation;
  for (size_t group = 0; group < groups.size(); ++group) {
    const TypeOption& option = groups[group][types[group]];
    allocation.ns += option.ns;
    allocation.divergence += option.divergence;
  }
  allocation.types = std::move(types);
  return allocation;
}

std::vector<Allocation> BestAllocations(const TypeOptions& groups) {
  std::vector<Allocation> best(1);
  for (const std::vector<TypeOption>& options : groups) {
    std::vector<Allocation> longer;
    longer.reserve(best.size() * options.size());
    for (const Allocation& allocation : best) {
      for (size_t type = 0; type < options.size(); ++type) {
        Allocation& next = longer.emplace_back(allocation);
        next.types.push_back(type);
        next.ns += options[type].ns;
        next.divergence += options[type].divergence;
      }
    }
    KeepBest(longer);
    ThinOut(longer);
    best = std::move(longer);
  }
  if (!groups.empty()) {
    for (size_t type = 0; type < groups.front().size(); ++type) {
      best.push_back(
          AllocationOf(groups, std::vector<size_t>(groups.size(), type)));
    }
    KeepBest(best);
  }
  return best;
}

}  // namespace rankforge
