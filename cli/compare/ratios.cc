#include "cli/compare/ratios.h"

#include <algorithm>

namespace rankforge {
namespace {

Verdict Judge(double median, const Interval& spread, double tolerance) {
  const double limit = 1 + tolerance;
  if (median > limit && spread.low > 1) return Verdict::kSlower;
  if (median < 1 / limit && spread.high < 1) return Verdict::kFaster;
  return spread.high <= limit ? Verdict::kWithin : Verdict::kUnclear;
}

// `time` gives what a run took, in any unit.
template <class Time>
ComparedEntry CompareBy(const Time& time, std::span<const BenchTimes> here,
                        std::span<const BenchTimes> there, double tolerance) {
  ComparedEntry entry;
  std::vector<double> ours, theirs;
  for (size_t i = 0; i < here.size(); ++i) {
    ours.push_back(time(here[i]));
    theirs.push_back(time(there[i]));
    entry.rounds.push_back(ours.back() / theirs.back());
  }
  entry.ms = Median(ours);
  entry.other_ms = Median(theirs);
  entry.ratio = RatioOf(entry.rounds, tolerance);
  return entry;
}

std::vector<std::string> OnlyIn(const BenchTimes& one,
                                const BenchTimes& other) {
  std::vector<std::string> names;
  for (const BenchEntry& entry : one.entries) {
    if (other.Find(entry.name) == 0) names.push_back(entry.name);
  }
  return names;
}

}  // namespace

std::string_view Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kSlower:
      return "slower";
    case Verdict::kFaster:
      return "faster";
    case Verdict::kWithin:
      return "within";
    case Verdict::kUnclear:
      break;
  }
  return "unclear";
}

Ratio RatioOf(const std::vector<double>& rounds, double tolerance) {
  Ratio ratio{Median(rounds), MedianInterval(rounds)};
  ratio.verdict = Judge(ratio.median, ratio.spread, tolerance);
  return ratio;
}

std::vector<const ComparedEntry*> Comparison::With(Verdict verdict) const {
  std::vector<const ComparedEntry*> found;
  for (const ComparedEntry& entry : entries) {
    if (entry.ratio.verdict == verdict) found.push_back(&entry);
  }
  return found;
}

Comparison Compare(std::span<const BenchTimes> here,
                   std::span<const BenchTimes> there, double tolerance) {
  Comparison comparison;
  for (const auto& [name, ms] : here.front().entries) {
    if (there.front().Find(name) == 0) continue;
    comparison.entries.push_back(CompareBy(
        [&name = name](const BenchTimes& run) { return run.Find(name); }, here,
        there, tolerance));
    comparison.entries.back().name = name;
  }
  comparison.only_here = OnlyIn(here.front(), there.front());
  comparison.only_there = OnlyIn(there.front(), here.front());
  comparison.read =
      CompareBy([](const BenchTimes& run) { return 1 / run.read_gbps; }, here,
                there, tolerance);
  return comparison;
}

Comparison Confirmed(const Comparison& first, Comparison again) {
  for (ComparedEntry& entry : again.entries) {
    const auto before =
        std::ranges::find(first.entries, entry.name, &ComparedEntry::name);
    if (entry.ratio.verdict == Verdict::kSlower &&
        before->ratio.verdict != Verdict::kSlower) {
      entry.ratio.verdict = Verdict::kUnclear;
    }
  }
  return again;
}

}  // namespace rankforge
