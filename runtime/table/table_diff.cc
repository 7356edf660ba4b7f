#include "runtime/table/table_diff.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace rankforge {
namespace {

bool IsMeasured(const Bucket& bucket) {
  return bucket.ns.n > 0 && bucket.ns.median > 0;
}

std::optional<double> ChoiceRatio(const Bucket& a, const Bucket& b,
                                  bool same_setting) {
  if (!IsMeasured(a) || !IsMeasured(b)) return {};
  // A runner-up was timed with the layout and threads that its table chose, so
  // its time says something of b's choice only if both chose the same.
  if (same_setting && b.variant == a.runner_up && a.runner_up_ns > 0) {
    return a.runner_up_ns / a.ns.median;
  }
  if (same_setting && a.variant == b.runner_up && b.runner_up_ns > 0) {
    return b.ns.median / b.runner_up_ns;
  }
  if (a.vs_default <= 0 || b.vs_default <= 0) return {};
  return a.vs_default / b.vs_default;
}

EntryDiff DiffEntries(const TableEntry& a, const TableEntry& b) {
  EntryDiff diff{&a, &b, {}, true, 0};
  const bool same_setting = a.decision.layout == b.decision.layout &&
                            a.decision.threads == b.decision.threads;
  double low = 0;
  auto in_a = a.decision.by_density.begin();
  auto in_b = b.decision.by_density.begin();
  // Both lists end at density 1.
  while (in_a != a.decision.by_density.end() &&
         in_b != b.decision.by_density.end()) {
    IntervalDiff interval;
    interval.low = low;
    interval.high = std::min(in_a->max_density, in_b->max_density);
    interval.a = &*in_a;
    interval.b = &*in_b;
    if (IsMeasured(*in_a) && IsMeasured(*in_b)) {
      interval.ns_ratio = in_b->ns.median / in_a->ns.median;
    }
    interval.choice_ratio = ChoiceRatio(*in_a, *in_b, same_setting);
    interval.agrees = same_setting && in_a->variant == in_b->variant;
    if (!interval.agrees) {
      diff.agrees = false;
      diff.distance =
          std::max(diff.distance, interval.choice_ratio
                                      ? std::abs(*interval.choice_ratio - 1)
                                      : INFINITY);
    }
    low = interval.high;
    diff.intervals.push_back(interval);
    if (in_a->max_density == low) ++in_a;
    if (in_b->max_density == low) ++in_b;
  }
  return diff;
}

}  // namespace

size_t TableDiff::Agreeing() const {
  return static_cast<size_t>(
      std::ranges::count(both, true, &EntryDiff::agrees));
}

size_t TableDiff::Intervals() const {
  size_t count = 0;
  for (const EntryDiff& entry : both) count += entry.intervals.size();
  return count;
}

size_t TableDiff::AgreeingIntervals() const {
  size_t count = 0;
  for (const EntryDiff& entry : both) {
    count += static_cast<size_t>(
        std::ranges::count(entry.intervals, true, &IntervalDiff::agrees));
  }
  return count;
}

size_t TableDiff::Within(double margin) const {
  return static_cast<size_t>(
      std::ranges::count_if(both, [&](const EntryDiff& entry) {
        return !entry.agrees && entry.distance <= margin;
      }));
}

double TableDiff::LargestDistance() const {
  double largest = 0;
  for (const EntryDiff& entry : both) {
    largest = std::max(largest, entry.distance);
  }
  return largest;
}

TableDiff DiffTables(const DispatchTable& a, const DispatchTable& b) {
  std::map<Problem, const TableEntry*> of_b;
  for (const TableEntry& entry : b.entries) of_b[entry.problem] = &entry;
  TableDiff diff;
  for (const TableEntry& entry : a.entries) {
    const auto same = of_b.find(entry.problem);
    if (same == of_b.end()) {
      diff.only_in_a.push_back(&entry);
      continue;
    }
    diff.both.push_back(DiffEntries(entry, *same->second));
    of_b.erase(same);
  }
  for (const auto& [problem, entry] : of_b) diff.only_in_b.push_back(entry);
  return diff;
}

}  // namespace rankforge
