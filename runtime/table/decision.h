// Decisions that no table makes: the default, and what the user forces.
#ifndef RANKFORGE_RUNTIME_TABLE_DECISION_H_
#define RANKFORGE_RUNTIME_TABLE_DECISION_H_

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"
#include "kernels/registry.h"
#include "runtime/table/problem.h"

namespace rankforge {

// Where a decision comes from; counted and shown by `table explain`. kTable:
// measured for this problem; kNearest: for one near it; kShipped: in a table
// that comes with the library.
enum class DecisionSource { kTable, kNearest, kShipped, kDefault, kForced };

inline constexpr size_t kSources = 5;

constexpr std::string_view Name(DecisionSource source) {
  constexpr std::array<std::string_view, kSources> kNames = {
      "table", "nearest", "shipped", "default", "forced"};
  return kNames[static_cast<size_t>(source)];
}

// Whether the entry computes this problem with weights of this layout.
bool Fits(const KernelEntry& entry, const Problem& problem, Layout layout);

// Why `bucket` cannot serve `problem` on `layout`: its variant is not in this
// build, has another spec hash, or does not fit. Empty when it can.
std::string WhyUnfit(const Bucket& bucket, const Problem& problem,
                     Layout layout);

// The layout and variants used when nothing was tuned: [out][in] for dense and
// row mask, [in][out] for column mask, with all threads when the weights are
// larger than 256 KiB.
Decision DefaultDecision(const Problem& problem);

// RANKFORGE_FORCE: the decision that runs `full_name` at every density, or a
// status saying why this problem cannot.
Result<Decision> ForcedDecision(const Problem& problem,
                                std::string_view full_name);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_DECISION_H_
