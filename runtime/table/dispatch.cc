#include "runtime/table/dispatch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "kernels/registry.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

using Source = DecisionSource;

constexpr double kNearestFactor = 2;

// Sum of the distances in log2(rows) and log2(cols), or infinity when the entry
// of one problem says nothing about the other.
double Distance(const Problem& a, const Problem& b) {
  Problem same_shape = a;
  same_shape.rows = b.rows;
  same_shape.cols = b.cols;
  if (same_shape != b) return INFINITY;
  const auto distance = [](size_t x, size_t y) {
    return std::abs(std::log2(static_cast<double>(x) / static_cast<double>(y)));
  };
  const double rows = distance(a.rows, b.rows);
  const double cols = distance(a.cols, b.cols);
  const double limit = std::log2(kNearestFactor);
  return rows <= limit && cols <= limit ? rows + cols : INFINITY;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

DispatchTable::Answer DispatchTable::Lookup(const Problem& problem) const {
  Answer answer;
  if (!usable_) {
    answer.choice = DefaultChoice(problem);
    answer.reason = "the table was measured on another CPU";
    return answer;
  }
  double smallest = INFINITY;
  for (const TableEntry& entry : entries) {
    const double distance = Distance(entry.problem, problem);
    if (distance < smallest) {
      smallest = distance;
      answer.entry = &entry;
    }
  }
  if (answer.entry == nullptr) {
    answer.choice = DefaultChoice(problem);
    const auto other = OtherActivations(problem);
    answer.reason =
        other ? fmt::format("the table has this problem with {} activations",
                            Name(*other))
              : "no entry of the table is near this problem";
  } else if (answer.entry->problem == problem) {
    answer.choice = answer.entry->choice;
    answer.source = Source::kTable;
    answer.reason = "this problem was tuned";
  } else {
    answer.choice = Refitted(answer.entry->choice, problem);
    answer.source = Source::kNearest;
    answer.reason = fmt::format("the nearest tuned problem is {}",
                                answer.entry->problem.ToString());
  }
  return answer;
}

std::optional<Activations> DispatchTable::OtherActivations(
    const Problem& problem) const {
  if (!usable_) return std::nullopt;
  std::optional<Activations> other;
  for (const TableEntry& entry : entries) {
    if (Distance(entry.problem, problem) < INFINITY) return std::nullopt;
    Problem stated = problem;
    stated.activations = entry.problem.activations;
    if (entry.problem == stated) other = entry.problem.activations;
  }
  return other;
}

std::string TunedOtherwise(const DispatchTable& table, std::string_view name,
                           const Problem& problem,
                           const DispatchTable::Answer& answer) {
  if (answer.source != Source::kDefault) return "";
  const std::optional<Activations> other = table.OtherActivations(problem);
  if (!other) return "";
  return fmt::format(
      "{}: has {} with {} activations alone, so that it runs untuned; tune "
      "with the same activations",
      name, problem.ToString(), Name(*other));
}

Decision Described(const Problem& problem,
                   const DispatchTable::Answer& answer) {
  Decision decision = Unmeasured(answer.choice, problem);
  if (answer.entry == nullptr) return decision;
  const Decision& measured = answer.entry->decision;
  decision.crossover_to_dense = measured.crossover_to_dense;
  for (size_t i = 0; i < decision.by_density.size(); ++i) {
    // A kernel that does not fit the neighbour's shape was replaced.
    if (decision.by_density[i].variant == measured.by_density[i].variant) {
      decision.by_density[i] = measured.by_density[i];
    }
  }
  return decision;
}

std::string Explain(const Problem& problem,
                    const DispatchTable::Answer& answer) {
  const Decision decision = Described(problem, answer);
  // Not that of the layout, which is what decision.default_variant names.
  const std::string untuned = DefaultChoice(problem).KernelAt(1).FullName();
  std::string text =
      fmt::format("{}\n  from {}: {}\n  layout {}, {} of {} threads\n",
                  problem.ToString(), Name(answer.source), answer.reason,
                  Name(decision.layout), decision.threads, problem.threads);
  double low = 0;
  for (const Bucket& bucket : decision.by_density) {
    text += fmt::format("  density {:.3f} to {:.3f}: {}\n", low,
                        bucket.max_density, bucket.variant);
    low = bucket.max_density;
    if (bucket.ns.n == 0) {
      text += "    not measured\n";
      continue;
    }
    text += fmt::format(
        "    median {:.1f} us, MAD {:.1f}, min {:.1f}, n {}; {:.1f} useful "
        "GB/s, {:.2f} of the read bandwidth\n",
        bucket.ns.median / 1e3, bucket.ns.mad / 1e3, bucket.ns.min / 1e3,
        bucket.ns.n, bucket.useful_gbps, bucket.roofline);
    text += bucket.variant == untuned
                ? "    is the default: nothing else won by the margin\n"
                : fmt::format("    {:.2f} times as quick as the default {}\n",
                              bucket.vs_default, untuned);
    if (!bucket.runner_up.empty() && bucket.ns.median > 0) {
      text += fmt::format("    second: {}, {:+.1f} %\n", bucket.runner_up,
                          100 * (bucket.runner_up_ns / bucket.ns.median - 1));
    }
  }
  if (decision.crossover_to_dense < 1) {
    text += fmt::format("  from density {:.3f} on everything is read\n",
                        decision.crossover_to_dense);
  }
  return text;
}

std::string TableOfEnvironment() { return Environment("RANKFORGE_TABLE"); }

bool TablesAreOff() { return Environment("RANKFORGE_MODE") == "off"; }

Dispatcher::Dispatcher(const DispatchTable* table, Shipped shipped)
    : table_(table),
      shipped_(shipped),
      forced_(Environment("RANKFORGE_FORCE")) {
  const std::string mode = Environment("RANKFORGE_MODE");
  use_tables_ = !TablesAreOff();
  if (use_tables_ && !mode.empty() && mode != "use") {
    notes_.push_back(fmt::format(
        "RANKFORGE_MODE={:.40} is neither off nor use; the table is used",
        mode));
  }
  if (!forced_.empty()) {
    const std::string wrong = WhyNotForced(forced_);
    if (!wrong.empty()) {
      notes_.push_back(
          fmt::format("RANKFORGE_FORCE={:.80} {}; see `rankforge variants`",
                      forced_, wrong));
    }
  }
}

DispatchTable::Answer Dispatcher::LookUp(const Problem& problem) const {
  DispatchTable::Answer answer;
  if (use_tables_ && table_ != nullptr) answer = table_->Lookup(problem);
  if (answer.source != Source::kDefault) return answer;
  const DispatchTable* shipped = use_tables_ ? shipped_() : nullptr;
  if (shipped != nullptr) {
    DispatchTable::Answer from = shipped->Lookup(problem);
    if (from.source != Source::kDefault) {
      from.source = Source::kShipped;
      from.reason = fmt::format("the table shipped for {}: {}",
                                shipped->cpu.brand, from.reason);
      return from;
    }
  }
  answer.choice = DefaultChoice(problem);
  if (!use_tables_) {
    answer.reason = "RANKFORGE_MODE=off";
  } else if (table_ == nullptr) {
    answer.reason = "there is no table";
  }
  return answer;
}

DispatchTable::Answer Dispatcher::Decide(const Problem& problem) const {
  DispatchTable::Answer answer;
  Result<Choice> forced = Failed("nothing is forced");
  if (!forced_.empty()) forced = ForcedChoice(problem, forced_);
  if (forced.ok()) {
    answer.choice = std::move(*forced);
    answer.source = Source::kForced;
    answer.reason = "RANKFORGE_FORCE names this variant";
  } else {
    answer = LookUp(problem);
  }
  answer.choice.threads = std::min(answer.choice.threads, problem.threads);
  ++counts_[static_cast<size_t>(answer.source)];
  if (observer_) observer_(problem, answer);
  return answer;
}

std::string Dispatcher::ForcedNowhere() const {
  // What can be forced nowhere at all has its note.
  const KernelEntry* const forced =
      forced_.empty() || !WhyNotForced(forced_).empty() ? nullptr
                                                        : ForcedKernel(forced_);
  if (forced == nullptr || counts_[static_cast<size_t>(Source::kForced)] > 0 ||
      std::ranges::all_of(counts_, [](size_t count) { return count == 0; })) {
    return "";
  }
  return fmt::format(
      "RANKFORGE_FORCE={}: fits no product here; it is for {} of {} weights "
      "with {} activations",
      forced_, Name(forced->spec.operation), Name(forced->spec.type),
      Name(ActivationsOf(forced->spec)));
}

}  // namespace rankforge
