#include "tuner/search/space.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "meta/variants.h"
#include "runtime/table/choice.h"
#include "tuner/search/rigor.h"

namespace rankforge {
namespace {

constexpr double kBins[] = {0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85};

double LowDensity(const Workload& workload) {
  return workload.density_p05 > 0 ? workload.density_p05 : workload.density;
}
double HighDensity(const Workload& workload) {
  return workload.density_p95 > 0 ? workload.density_p95 : workload.density;
}

// Ascending, the last is 1.
std::vector<double> DensitiesOf(const Workload& workload,
                                FurtherDensities further) {
  if (workload.problem.operation == Operation::kDense) return {1};
  // 0.95 and 1 would be two names for the same masks.
  const double expected = workload.density > 0.95 ? 1 : workload.density;
  std::vector<double> densities = {expected};
  if (expected < 1) densities.push_back(1);
  constexpr double kNear = 0.2;
  for (const double bin : kBins) {
    const bool near = bin >= LowDensity(workload) - kNear &&
                      bin <= HighDensity(workload) + kNear;
    const bool wanted = further == FurtherDensities::kAll ||
                        (further == FurtherDensities::kNearSpread && near);
    // Nearer than this to the layer's own density, a bin has nothing to add.
    const bool distinct =
        std::abs(bin - expected) > 0.1 * std::max(bin, expected);
    if (wanted && distinct) densities.push_back(bin);
  }
  std::sort(densities.begin(), densities.end());
  return densities;
}

// Share of the calls in the bucket of each density: of a normal distribution
// with the layer's 5 % and 95 % quantiles (1.645 deviations from the mean
// each), or all in the expected one when these are unknown.
std::vector<double> WeightsOf(const Workload& workload, size_t expected,
                              const std::vector<double>& densities) {
  std::vector<double> weights(densities.size(), 0);
  const double deviation =
      (HighDensity(workload) - LowDensity(workload)) / (2 * 1.645);
  if (deviation <= 0 || densities.size() == 1) {
    weights[expected] = 1;
    return weights;
  }
  const auto below = [&](double density) {
    return 0.5 *
           std::erfc((workload.density - density) / (deviation * std::sqrt(2)));
  };
  double previous = 0;
  for (size_t d = 0; d < densities.size(); ++d) {
    const bool last = d + 1 == densities.size();
    const double next = last ? 1 : below((densities[d] + densities[d + 1]) / 2);
    weights[d] = next - previous;
    // A bucket that one call in a thousand sees decides no layout.
    if (weights[d] < 1e-3) weights[d] = 0;
    previous = next;
  }
  return weights;
}

std::vector<Candidate> CandidatesFor(const Problem& problem) {
  const Choice untuned = DefaultChoice(problem);
  std::vector<Candidate> candidates;
  for (const Layout layout : kLayouts) {
    // Threads that cannot share the sums have nothing to gain from them.
    const bool in_sums = SumsOf(layout) > 1;
    if (problem.threads % SumsOf(layout) != 0) continue;
    for (const KernelEntry* entry : Registry::Get().Candidates(
             problem.operation, problem.type, layout, problem.granularity,
             problem.rows, problem.cols, problem.activations)) {
      candidates.push_back(CandidateOf(
          *entry, layout, in_sums ? problem.threads : untuned.threads));
    }
  }
  const auto is_default = [&](const Candidate& candidate) {
    return candidate.layout == untuned.layout &&
           candidate.kernel == &untuned.KernelAt(1);
  };
  // In front even where the registry lists it among slower targets.
  std::stable_partition(candidates.begin(), candidates.end(), is_default);
  if (problem.threads == 1) return candidates;
  const size_t count = candidates.size();
  for (size_t c = 0; c < count; ++c) {
    if (SumsOf(candidates[c].layout) > 1) continue;
    Candidate twin = candidates[c];
    twin.threads = untuned.threads == 1 ? problem.threads : 1;
    candidates.push_back(std::move(twin));
  }
  return candidates;
}

}  // namespace

Candidate CandidateOf(const KernelEntry& kernel, Layout layout,
                      size_t threads) {
  return {kernel.FullName(),
          kernel.spec_hash,
          layout,
          threads,
          kernel.spec.form == MaskForm::kZeroed,
          &kernel};
}

Status CheckWorkload(const Workload& workload) {
  const Problem& problem = workload.problem;
  const std::string name =
      workload.layers.empty() ? problem.ToString() : workload.layers[0];
  const auto wrong = [&](const char* field, auto value, const char* expected) {
    return UsageError(
        fmt::format("{}: {} is {}, expected {}", name, field, value, expected));
  };
  if (problem.rows == 0) return wrong("rows", 0, "at least 1");
  if (problem.cols == 0) return wrong("cols", 0, "at least 1");
  if (problem.threads == 0) return wrong("threads", 0, "at least 1");
  if (problem.batch != 1) return wrong("batch", problem.batch, "1");
  if (ActivationsFor(problem.operation, problem.type, problem.activations) !=
      problem.activations) {
    return wrong("activations", Name(problem.activations),
                 "f32: no kernel rounds inputs of this operation and type");
  }
  if (problem.granularity == 0 || problem.granularity > kMaxGranularity) {
    return wrong("granularity", problem.granularity, "1 to 32");
  }
  // Written so that NaN fails.
  if (!(workload.density > 0 && workload.density <= 1)) {
    return wrong("density", workload.density, "a share in (0, 1]");
  }
  if (!(LowDensity(workload) <= workload.density &&
        workload.density <= HighDensity(workload) &&
        HighDensity(workload) <= 1)) {
    return wrong("density", workload.density,
                 "a share between density_p05 and density_p95");
  }
  const size_t channels =
      problem.operation == Operation::kRowMask ? problem.rows : problem.cols;
  if (!workload.keep_frequency.empty() &&
      workload.keep_frequency.size() != channels) {
    return wrong("keep_frequency", workload.keep_frequency.size(),
                 "one value a masked channel");
  }
  return {};
}

std::vector<Workload> MergeEqualProblems(
    const std::vector<Workload>& workloads) {
  std::vector<Workload> merged;
  std::map<Problem, size_t> place;
  for (const Workload& workload : workloads) {
    const auto [found, is_new] = place.emplace(workload.problem, merged.size());
    if (is_new) {
      merged.push_back(workload);
      continue;
    }
    Workload& first = merged[found->second];
    const double low = std::min(LowDensity(first), LowDensity(workload));
    const double high = std::max(HighDensity(first), HighDensity(workload));
    const auto before =
        static_cast<double>(std::max<size_t>(first.layers.size(), 1));
    const auto added =
        static_cast<double>(std::max<size_t>(workload.layers.size(), 1));
    first.density =
        (first.density * before + workload.density * added) / (before + added);
    if (low < high) {
      first.density_p05 = low;
      first.density_p95 = high;
    }
    first.layers.insert(first.layers.end(), workload.layers.begin(),
                        workload.layers.end());
  }
  return merged;
}

double ModelBytes(const Workload& workload) {
  const Problem& problem = workload.problem;
  return WeightBytes(
      problem.type,
      static_cast<double>(problem.rows * problem.cols *
                          std::max<size_t>(workload.layers.size(), 1)));
}

std::string_view MaskSource(const Workload& workload) {
  if (!workload.trace.empty()) return "trace";
  if (!workload.keep_frequency.empty()) return "recorded";
  return Name(workload.mask_structure);
}

SearchSpace MakeSpace(const Workload& workload, Rigor rigor) {
  return SpaceAt(workload, DensitiesOf(workload, SettingsOf(rigor).densities));
}

SearchSpace SpaceAt(const Workload& workload, std::vector<double> densities) {
  SearchSpace space;
  space.candidates = CandidatesFor(workload.problem);
  space.densities = std::move(densities);
  const auto nearest = std::min_element(
      space.densities.begin(), space.densities.end(), [&](double a, double b) {
        return std::abs(a - workload.density) < std::abs(b - workload.density);
      });
  space.expected = static_cast<size_t>(nearest - space.densities.begin());
  space.weights = WeightsOf(workload, space.expected, space.densities);
  return space;
}

}  // namespace rankforge
