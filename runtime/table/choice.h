// What runs a problem: a layout, threads and kernels, as pointers. Nothing here
// is measured (decision.h) and nothing is looked up by name after this.
#ifndef RANKFORGE_RUNTIME_TABLE_CHOICE_H_
#define RANKFORGE_RUNTIME_TABLE_CHOICE_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/registry.h"
#include "runtime/table/problem.h"

namespace rankforge {

// The kernel for densities up to max_density and above that of the previous
// one.
struct DensityKernel {
  double max_density = 1;
  const KernelEntry* kernel = nullptr;

  bool operator==(const DensityKernel&) const = default;
};

// Kernels that fit the problem and the layout. They ascend in max_density; the
// last one ends at 1.
struct Choice {
  Layout layout = Layout::kOutIn;
  size_t threads = 1;
  std::vector<DensityKernel> by_density;

  // The kernel that serves `density`; the last one serves all that is left.
  const KernelEntry& KernelAt(double density) const;
};

// Whether the entry computes this problem with weights of this layout.
bool Fits(const KernelEntry& entry, const Problem& problem, Layout layout);

// What runs on this layout when nothing was tuned; null where the layout does
// not offer the operation.
const KernelEntry* DefaultKernel(const Problem& problem, Layout layout);

// Fails where weights of none of `types` take such activations.
Status CheckWeightsTake(Activations activations,
                        std::span<const WeightType> types);
// Fails where this CPU computes products of bf16 weights with such activations
// by the scalar reference alone, a hundred times slower than other types.
Status CheckCpu(Activations activations);

// One kernel for every density.
Choice ChoiceOf(const KernelEntry& kernel, Layout layout, size_t threads);

// The layout, threads and kernel used when nothing was tuned: [out][in] for
// dense and row mask, [in][out] for column mask, with all threads when the
// weights are larger than 256 KiB.
Choice DefaultChoice(const Problem& problem);

// RANKFORGE_FORCE, the full name of a variant or <name>@<layout>: the choice
// that runs it at every density, in this layout or else in the first that it
// accepts, or a status saying why this problem cannot.
Result<Choice> ForcedChoice(const Problem& problem, std::string_view forced);
// The entry that it names; null where there is none.
const KernelEntry* ForcedKernel(std::string_view forced);
// Why it can be forced on no problem at all; empty where it can.
std::string WhyNotForced(std::string_view forced);

// `choice` for another shape: kernels that do not fit it (instantiated for one
// shape) give way to the default.
Choice Refitted(Choice choice, const Problem& problem);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_CHOICE_H_
