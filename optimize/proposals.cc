#include "optimize/proposals.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

namespace rankforge {
namespace {

constexpr double kShortOfDivergence = 0.6;
constexpr double kShortOfTime = 0.97;

TypeOptions OptionsOf(const FormCosts& form,
                      const std::vector<std::vector<double>>& divergences) {
  TypeOptions options(form.ns.size());
  for (size_t group = 0; group < form.ns.size(); ++group) {
    const std::vector<double>& added = divergences[group];
    for (size_t type = 0; type < form.ns[group].size(); ++type) {
      options[group].push_back(
          {form.ns[group][type], added[type] - added.front()});
    }
  }
  return options;
}

// All candidates that no other beats, by ascending time.
std::vector<Proposal> PredictedFront(
    std::span<const FormCosts> forms,
    const std::vector<std::vector<double>>& divergences) {
  std::vector<Proposal> all;
  for (size_t form = 0; form < forms.size(); ++form) {
    for (Allocation& best :
         BestAllocations(OptionsOf(forms[form], divergences))) {
      all.push_back({form, std::move(best.types), best.ns,
                     forms[form].divergence + best.divergence});
    }
  }
  std::ranges::sort(all, [](const Proposal& a, const Proposal& b) {
    return std::tie(a.ns, a.divergence) < std::tie(b.ns, b.divergence);
  });
  std::vector<Proposal> front;
  for (Proposal& next : all) {
    if (!front.empty() && next.divergence >= front.back().divergence) continue;
    front.push_back(std::move(next));
  }
  return front;
}

// Collects candidates of a front, each once.
class Picker {
 public:
  Picker(std::span<const Proposal> front, std::span<const Proposal> measured,
         size_t count)
      : front_(front), measured_(measured), count_(count) {}

  void QuickestWithin(double divergence) {
    const auto found = std::ranges::find_if(
        front_, [&](const Proposal& c) { return c.divergence <= divergence; });
    if (found != front_.end()) Pick(*found);
  }
  // The last on the front is the one that diverges least.
  void SlowestWithin(double ns) {
    const Proposal* last = nullptr;
    for (const Proposal& candidate : front_) {
      if (candidate.ns <= ns) last = &candidate;
    }
    if (last != nullptr) Pick(*last);
  }
  std::vector<Proposal> Take() {
    std::ranges::sort(picked_, {}, &Proposal::ns);
    return std::move(picked_);
  }
  size_t left() const { return count_ - picked_.size(); }

 private:
  void Pick(const Proposal& candidate) {
    const auto same = [&](const Proposal& other) {
      return other.form == candidate.form && other.types == candidate.types;
    };
    if (left() == 0 || std::ranges::any_of(picked_, same) ||
        std::ranges::any_of(measured_, same)) {
      return;
    }
    picked_.push_back(candidate);
  }

  std::span<const Proposal> front_;
  std::span<const Proposal> measured_;
  size_t count_;
  std::vector<Proposal> picked_;
};

}  // namespace

Proposal Predicted(std::span<const FormCosts> forms,
                   const std::vector<std::vector<double>>& divergences,
                   size_t form, std::vector<size_t> types) {
  Allocation allocation =
      AllocationOf(OptionsOf(forms[form], divergences), std::move(types));
  return {form, std::move(allocation.types), allocation.ns,
          forms[form].divergence + allocation.divergence};
}

std::vector<Proposal> Propose(
    std::span<const FormCosts> forms,
    const std::vector<std::vector<double>>& divergences,
    const ProposalOptions& options, std::span<const Proposal> measured) {
  const std::vector<Proposal> front = PredictedFront(forms, divergences);
  if (front.empty()) return {};
  Picker picker(front, measured, options.count);
  if (options.max_divergence) {
    picker.QuickestWithin(*options.max_divergence);
    picker.QuickestWithin(*options.max_divergence * kShortOfDivergence);
  }
  if (options.max_ns) {
    picker.SlowestWithin(*options.max_ns);
    picker.SlowestWithin(*options.max_ns * kShortOfTime);
  }
  // In turn at equal distances of time and of the size of errors, whose square
  // the divergence is: where time drops without loss, and where loss begins.
  const auto between = [](double from, double to, double share) {
    return from + (to - from) * share;
  };
  const auto error_of = [](const Proposal& proposal) {
    return std::sqrt(std::max(proposal.divergence, 0.0));
  };
  const size_t steps = picker.left();
  for (size_t step = 0; step < steps; ++step) {
    const double share =
        (static_cast<double>(step) + 0.5) / static_cast<double>(steps);
    if (step % 2 == 0) {
      const double error =
          between(error_of(front.back()), error_of(front.front()), share);
      picker.QuickestWithin(error * error);
    } else {
      picker.SlowestWithin(between(front.front().ns, front.back().ns, share));
    }
  }
  return picker.Take();
}

std::string DescribeTypes(std::span<const size_t> choice,
                          std::span<const WeightType> types,
                          std::span<const double> weights) {
  std::vector<double> shares(types.size());
  double all = 0;
  for (size_t group = 0; group < choice.size(); ++group) {
    shares[choice[group]] += weights[group];
    all += weights[group];
  }
  std::vector<size_t> order(types.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(
      order, [&](size_t a, size_t b) { return shares[a] > shares[b]; });
  if (order.size() == 1 || shares[order[1]] == 0) {
    return std::string(Name(types[order.front()]));
  }
  std::vector<std::string> parts;
  for (const size_t type : order) {
    if (shares[type] == 0) continue;
    parts.push_back(fmt::format("{:.0f} % {}", 100 * shares[type] / all,
                                Name(types[type])));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace rankforge
