// `rankforge table diff` prints how two tables differ and what that costs.
#include "runtime/table/table_diff.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "cli/support/options.h"
#include "cli/support/session.h"
#include "cli/table/table_commands.h"

namespace rankforge {
namespace {

struct DiffArguments {
  CommonOptions common;
  std::string a;
  std::string b;
  double margin = -1;  // the larger of the two policies
};

// A ratio that may be missing or infinite.
Json ToJson(std::optional<double> ratio) {
  return ratio && std::isfinite(*ratio) ? Json(Rounded(*ratio)) : Json(nullptr);
}

Json ToJson(const std::vector<const TableEntry*>& entries) {
  Json problems = Json::array();
  for (const TableEntry* entry : entries) {
    problems.push_back(ToJson(entry->problem));
  }
  return problems;
}

Json ToJson(const EntryDiff& entry, double margin) {
  Json intervals = Json::array();
  for (const IntervalDiff& interval : entry.intervals) {
    intervals.push_back(
        {{"above", Rounded(interval.low)},
         {"max", Rounded(interval.high)},
         {"variants", {interval.a->variant, interval.b->variant}},
         {"ns_ratio", ToJson(interval.ns_ratio)},
         {"choice_ratio", ToJson(interval.choice_ratio)}});
  }
  const Decision& a = entry.a->decision;
  const Decision& b = entry.b->decision;
  return {{"problem", ToJson(entry.a->problem)},
          {"agrees", entry.agrees},
          {"within_margin", entry.agrees || entry.distance <= margin},
          {"distance", ToJson(entry.distance)},
          {"layouts", {Name(a.layout), Name(b.layout)}},
          {"threads", {a.threads, b.threads}},
          {"by_density", intervals}};
}

std::string Percent(std::optional<double> ratio) {
  return ratio && std::isfinite(*ratio)
             ? fmt::format("{:+.1f} %", 100 * (*ratio - 1))
             : "not measured";
}

void PrintEntry(const EntryDiff& entry, double margin) {
  const Decision& a = entry.a->decision;
  const Decision& b = entry.b->decision;
  Print("\n{}: {}\n", entry.a->problem.ToString(),
        entry.distance <= margin ? "within the margin" : "beyond the margin");
  if (a.layout != b.layout) {
    Print("  layout {}, {}\n", Name(a.layout), Name(b.layout));
  }
  if (a.threads != b.threads) Print("  threads {}, {}\n", a.threads, b.threads);
  for (const IntervalDiff& interval : entry.intervals) {
    const std::string variants =
        interval.a->variant == interval.b->variant
            ? interval.a->variant
            : fmt::format("{}, {}", interval.a->variant, interval.b->variant);
    Print("  density {:.3f} to {:.3f}: {}: choice {}, time {}\n", interval.low,
          interval.high, variants, Percent(interval.choice_ratio),
          Percent(interval.ns_ratio));
  }
}

void PrintDiff(const DiffArguments& arguments, const TableDiff& diff,
               std::span<const CpuDifference> differences, double margin) {
  if (!differences.empty()) {
    Print("fingerprints: {} ({})\n", Name(MatchOf(differences)),
          Listed(differences, Match::kExact, " and "));
  }
  const auto list = [](const std::string& path,
                       const std::vector<const TableEntry*>& entries) {
    for (const TableEntry* entry : entries) {
      Print("only in {}: {}\n", path, entry->problem.ToString());
    }
  };
  list(arguments.a, diff.only_in_a);
  list(arguments.b, diff.only_in_b);
  for (const EntryDiff& entry : diff.both) {
    if (!entry.agrees) PrintEntry(entry, margin);
  }
  const size_t both = diff.both.size();
  const size_t agreeing = diff.Agreeing();
  const size_t within = diff.Within(margin);
  Print("\n{} of {} densities agree", diff.AgreeingIntervals(),
        diff.Intervals());
  Print(
      "\n{} problems in both: {} agree ({:.0f} %), {} more are within {:.1f} "
      "%, {} are not; the farthest by {}\n",
      both, agreeing,
      both == 0
          ? 0.0
          : 100.0 * static_cast<double>(agreeing) / static_cast<double>(both),
      within, 100 * margin, both - agreeing - within,
      std::isfinite(diff.LargestDistance())
          ? fmt::format("{:.1f} %", 100 * diff.LargestDistance())
          : "what was not measured");
}

Status RunDiff(const DiffArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable a,
                             DispatchTable::LoadUnbound(arguments.a));
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable b,
                             DispatchTable::LoadUnbound(arguments.b));
  PrintNotes(a.notes());
  PrintNotes(b.notes());
  const double margin = arguments.margin >= 0
                            ? arguments.margin
                            : std::max(a.policy.margin, b.policy.margin);
  const TableDiff diff = DiffTables(a, b);
  const std::vector<CpuDifference> differences = Differences(a, b);
  if (!arguments.common.json) {
    PrintDiff(arguments, diff, differences, margin);
    return {};
  }
  Json entries = Json::array();
  for (const EntryDiff& entry : diff.both) {
    entries.push_back(ToJson(entry, margin));
  }
  const size_t agreeing = diff.Agreeing();
  const size_t within = diff.Within(margin);
  PrintJson({{"tables", {arguments.a, arguments.b}},
             {"fingerprint",
              {{"match", Name(MatchOf(differences))},
               {"differences", ToJson(differences)}}},
             {"margin", margin},
             {"only_in_a", ToJson(diff.only_in_a)},
             {"only_in_b", ToJson(diff.only_in_b)},
             {"both", diff.both.size()},
             {"agree", agreeing},
             {"within_margin", within},
             {"beyond_margin", diff.both.size() - agreeing - within},
             {"densities", diff.Intervals()},
             {"densities_agree", diff.AgreeingIntervals()},
             {"largest_distance", ToJson(diff.LargestDistance())},
             {"entries", entries}});
  return {};
}

}  // namespace

void AddTableDiff(CLI::App& table, Action& action) {
  CLI::App* diff = table.add_subcommand(
      "diff",
      "How two tables differ and what the difference costs; exit code 0 "
      "unless one cannot be read");
  auto arguments = std::make_shared<DiffArguments>();
  diff->add_option("A", arguments->a, "Dispatch table")
      ->required()
      ->check(CLI::ExistingFile);
  diff->add_option("B", arguments->b, "Dispatch table")
      ->required()
      ->check(CLI::ExistingFile);
  diff->add_option("--margin", arguments->margin,
                   "Share by which times may differ; not given: the larger of "
                   "the tables' policy.margin")
      ->check(NumberFrom(0, 1))
      ->default_str("");
  AddJson(*diff, arguments->common);
  SetAction(*diff, action, RunDiff, arguments);
}

}  // namespace rankforge
