#include "runtime/table/choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kernels/fits.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

// Below this a second thread costs more to wake than it saves; one core reads
// 256 KiB in about 15 us.
constexpr double kSingleThreadBytes = 256 << 10;

// RANKFORGE_FORCE, cut at the @.
struct Forced {
  explicit Forced(std::string_view text) : variant(text) {
    const size_t at = text.find('@');
    if (at == std::string_view::npos) return;
    variant = text.substr(0, at);
    layout_name = text.substr(at + 1);
  }
  bool names_layout() const { return layout_name.data() != nullptr; }

  std::string_view variant;
  std::string_view layout_name;  // null: the first that fits
};

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

const KernelEntry* ForcedKernel(std::string_view forced) {
  return Registry::Get().Find(Forced(forced).variant);
}

std::string WhyNotForced(std::string_view forced) {
  const Forced asked(forced);
  const KernelEntry* kernel = ForcedKernel(forced);
  if (kernel == nullptr) return WhyAbsent(asked.variant);
  if (!asked.names_layout()) return "";
  const auto layout = FromName(kLayouts, asked.layout_name);
  if (!layout) return "names no layout";
  return Accepts(kernel->spec, *layout)
             ? ""
             : fmt::format("does not run in layout {}", asked.layout_name);
}

Result<Choice> ForcedChoice(const Problem& problem, std::string_view forced) {
  const std::string wrong = WhyNotForced(forced);
  if (!wrong.empty()) {
    return UsageError(fmt::format(
        "RANKFORGE_FORCE={} {}; see `rankforge variants`", forced, wrong));
  }
  const Forced asked(forced);
  const KernelEntry& kernel = *ForcedKernel(forced);
  for (const Layout layout : kLayouts) {
    if (asked.names_layout() && Name(layout) != asked.layout_name) continue;
    if (Fits(kernel, problem, layout)) {
      return ChoiceOf(kernel, layout, DefaultThreads(problem));
    }
  }
  return UsageError(fmt::format("RANKFORGE_FORCE={} does not apply to {}",
                                forced, problem.ToString()));
}

Choice Refitted(Choice choice, const Problem& problem) {
  const KernelEntry* const fallback = DefaultKernel(problem, choice.layout);
  for (DensityKernel& part : choice.by_density) {
    if (!Fits(*part.kernel, problem, choice.layout)) part.kernel = fallback;
  }
  return choice;
}

}  // namespace rankforge
