#include "runtime/table/choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kernels/fits.h"

namespace rankforge {
namespace {

// Below this a second thread costs more to wake than it saves; one core reads
// 256 KiB in about 15 us.
constexpr double kSingleThreadBytes = 256 << 10;

size_t DefaultThreads(const Problem& problem) {
  const double bytes = WeightBytes(
      problem.type, static_cast<double>(problem.rows * problem.cols));
  return bytes < kSingleThreadBytes ? 1 : problem.threads;
}

}  // namespace

const KernelEntry& Choice::KernelAt(double density) const {
  const auto last = by_density.end() - 1;
  return *std::find_if(by_density.begin(), last,
                       [&](const DensityKernel& part) {
                         return density <= part.max_density;
                       })
              ->kernel;
}

bool Fits(const KernelEntry& entry, const Problem& problem, Layout layout) {
  return Fits(entry, Demand{problem.operation, problem.type, layout,
                            problem.granularity, problem.batch, problem.rows,
                            problem.cols, problem.activations});
}

const KernelEntry* DefaultKernel(const Problem& problem, Layout layout) {
  return Registry::Get().Default(problem.operation, problem.type, layout,
                                 problem.granularity, problem.batch,
                                 problem.activations);
}

Status CheckWeightsTake(Activations activations,
                        std::span<const WeightType> types) {
  if (std::ranges::any_of(
          types, [&](WeightType type) { return Takes(type, activations); })) {
    return {};
  }
  return UsageError(fmt::format(
      "activations {}: are for weights of {}, and no product here takes them; "
      "use f32, or another type of weights",
      Name(activations),
      activations == Activations::kBf16 ? "bf16 (but for masked columns)"
                                        : "i8 and i4"));
}

Status CheckCpu(Activations activations) {
  if (activations != Activations::kBf16 || Registry::Get().targets().empty()) {
    return {};
  }
  const Problem rows = {.type = WeightType::kBf16, .activations = activations};
  if (!DefaultKernel(rows, Layout::kOutIn)->is_reference()) return {};
  return EnvironmentError(
      "activations bf16: this CPU does not multiply bf16 (vdpbf16ps of "
      "AVX-512); use f32");
}

Choice ChoiceOf(const KernelEntry& kernel, Layout layout, size_t threads) {
  return {layout, threads, {{1, &kernel}}};
}

Choice DefaultChoice(const Problem& problem) {
  const Layout layout = problem.operation == Operation::kColumnMask
                            ? Layout::kInOut
                            : Layout::kOutIn;
  return ChoiceOf(*DefaultKernel(problem, layout), layout,
                  DefaultThreads(problem));
}

Result<Choice> ForcedChoice(const Problem& problem,
                            std::string_view full_name) {
  const KernelEntry* kernel = Registry::Get().Find(full_name);
  if (kernel == nullptr) {
    return UsageError("RANKFORGE_FORCE=" + std::string(full_name) +
                      ": no such variant on this CPU; `rankforge variants` "
                      "lists them");
  }
  for (const Layout layout : kLayouts) {
    if (Fits(*kernel, problem, layout)) {
      return ChoiceOf(*kernel, layout, DefaultThreads(problem));
    }
  }
  return UsageError("RANKFORGE_FORCE=" + std::string(full_name) +
                    " does not apply to " + problem.ToString());
}

Choice Refitted(Choice choice, const Problem& problem) {
  const KernelEntry* const fallback = DefaultKernel(problem, choice.layout);
  for (DensityKernel& part : choice.by_density) {
    if (!Fits(*part.kernel, problem, choice.layout)) part.kernel = fallback;
  }
  return choice;
}

}  // namespace rankforge
