#include "tuner/measure/reference_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <set>

#include "kernels/registry.h"

namespace rankforge {
namespace {

// Outputs of one checked part; a few parts of a large matrix are checked.
constexpr size_t kCheckedOutputs = 128;
// Unwritten floats around a checked output.
constexpr size_t kFrame = 64;
// A NaN with a payload that no kernel computes.
constexpr uint32_t kUnwritten = 0x7fc0dead;

bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

}  // namespace

std::string ReferenceCheck::WhyWrong(const Candidate& candidate,
                                     const GemvPlan& plan) {
  const KernelEntry* const entry = candidate.kernel;
  // A plan that fell back to the default would be timed under a wrong name.
  if (entry == nullptr || &plan.EntryAt(1) != entry ||
      entry->FullName() != candidate.variant) {
    return "it does not fit this problem or this build";
  }
  // Sums of cols products of values in (-1, 1).
  const double tolerance =
      entry->reassociates ? std::sqrt(static_cast<double>(problem_.cols)) / 256
                          : 0;
  for (size_t m = 0; m < masks_.views.size(); ++m) {
    const MaskView& mask = masks_.views[m];
    std::vector<float>& expected = expected_[{candidate.layout, m}];
    if (expected.empty()) {
      const KernelEntry* reference =
          Registry::Get().Reference(entry->spec, candidate.layout);
      if (reference == nullptr) return "there is no scalar reference for it";
      const Candidate oracle =
          CandidateOf(*reference, candidate.layout, candidate.threads);
      expected = RunSomeParts(calls_->PlanFor(oracle), mask);
    }
    const std::vector<float> got = RunSomeParts(plan, mask);
    for (size_t i = 0; i < got.size(); ++i) {
      // The comparison is false, and the output wrong, when one is NaN.
      if (SameBits(got[i], expected[i]) ||
          std::abs(got[i] - expected[i]) <= tolerance) {
        continue;
      }
      return fmt::format("with {} of {} kept, output {} is {}, expected {}",
                         mask.kept, mask.groups,
                         static_cast<long>(i) - static_cast<long>(kFrame),
                         got[i], expected[i]);
    }
  }
  return "";
}

std::vector<float> ReferenceCheck::RunSomeParts(const GemvPlan& plan,
                                                const MaskView& mask) {
  std::vector<float> framed(problem_.rows + 2 * kFrame,
                            std::bit_cast<float>(kUnwritten));
  GemvCall call = calls_->CallOf(plan, mask, weights_, framed.data() + kFrame);
  CutOutputs(call, std::max<size_t>(1, problem_.rows / kCheckedOutputs));
  for (const size_t part :
       std::set<size_t>{0, call.parts / 2, call.parts - 1}) {
    RunPart(call, part);
  }
  return framed;
}

}  // namespace rankforge
