#include "cli/compare/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/compare/bench_times.h"
#include "cli/compare/programs.h"
#include "cli/compare/ratios.h"
#include "cli/support/options.h"
#include "cli/support/output.h"

namespace rankforge {
namespace {

using Words = std::vector<std::string>;

constexpr std::string_view kCompare = "--compare";
constexpr std::string_view kRounds = "--rounds";
constexpr std::string_view kTolerance = "--tolerance";

// What the programs are not given, or not as the command line has it.
bool IsOurs(const std::string& option) {
  return option == kCompare || option == kRounds || option == kTolerance ||
         option == "--json";
}

// Appends the options that `command` was given.
void AppendGiven(const CLI::App& command, Words& words) {
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    const char delimiter = option->get_delimiter();
    if (option->count() == 0 || IsOurs(name)) continue;
    if (delimiter != '\0') {
      words.push_back(name);
      words.push_back(
          CLI::detail::join(option->results(), std::string(1, delimiter)));
      continue;
    }
    for (const std::string& value : option->results()) {
      words.push_back(name);
      if (option->get_items_expected_max() > 0) words.push_back(value);
    }
  }
  // A group of options is a command without a name.
  for (const CLI::App* group : command.get_subcommands({})) {
    if (group->get_name().empty()) AppendGiven(*group, words);
  }
}

Result<Comparison> MeasureAndCompare(const CompareOptions& options,
                                     const Words& words,
                                     BenchPrograms& programs) {
  RANKFORGE_RETURN_IF_ERROR(RunRounds(options.rounds, words, programs));
  const auto last_rounds = [&](const BenchProgram& program) {
    return std::span(program.runs).last(options.rounds);
  };
  return Compare(last_rounds(programs[0]), last_rounds(programs[1]),
                 options.tolerance);
}

// How much work the first runs did, where it differs.
void SayWhatDiffers(const BenchPrograms& programs) {
  // A text that the model samples may differ with the rounding of a kernel, and
  // what its masks keep differs a little, too.
  constexpr double kAlike = 0.01;
  const BenchTimes& here = programs[0].runs.front();
  const BenchTimes& there = programs[1].runs.front();
  for (const auto& [field, amount] : here.amounts) {
    const auto other = there.amounts.find(field);
    if (other == there.amounts.end() ||
        std::abs(amount - other->second) <= kAlike * std::abs(amount)) {
      continue;
    }
    PrintMessage(fmt::format(
        "'{}' is {} here and {} with {}: the times are of different work",
        field, amount, other->second, programs[1].path));
  }
}

void PassOnMessages(const BenchProgram& program) {
  for (const std::string& message : program.messages) {
    PrintMessage(fmt::format("{}: {}", program.path, message));
  }
  if (program.above_roofline == 0) return;
  PrintMessage(fmt::format(
      "{}: a roofline above 1 in {} of {} runs: read bandwidth was measured "
      "too low, which the ratios do not use",
      program.path, program.above_roofline, program.runs.size()));
}

void SayHowReadsDiffer(const Comparison& comparison) {
  const Verdict read = comparison.read.ratio.verdict;
  if (read != Verdict::kSlower && read != Verdict::kFaster) return;
  PrintMessage(fmt::format(
      "the read loops, which both programs have, are {} here ({:.3f} times as "
      "long): the machine treats the two differently, or the loops changed",
      Name(read), comparison.read.ratio.median));
}

Json ToJson(const ComparedEntry& entry) {
  Json rounds = Json::array();
  for (const double ratio : entry.rounds) rounds.push_back(Rounded(ratio));
  return {{"name", entry.name},
          {"ms", Rounded(entry.ms)},
          {"other_ms", Rounded(entry.other_ms)},
          {"ratio", Rounded(entry.ratio.median)},
          {"low", Rounded(entry.ratio.spread.low)},
          {"high", Rounded(entry.ratio.spread.high)},
          {"verdict", Name(entry.ratio.verdict)},
          {"ratios", rounds}};
}

Json NamesWith(const Comparison& comparison, Verdict verdict) {
  Json names = Json::array();
  for (const ComparedEntry* entry : comparison.With(verdict)) {
    names.push_back(entry->name);
  }
  return names;
}

Json ToJson(const Comparison& comparison, const CompareOptions& options,
            const BenchPrograms& programs) {
  Json entries = Json::array();
  for (const ComparedEntry& entry : comparison.entries) {
    entries.push_back(ToJson(entry));
  }
  return {{"program", programs[0].path},
          {"other", programs[1].path},
          {"work", programs[0].runs.front().work},
          {"rounds", options.rounds},
          {"tolerance", options.tolerance},
          {"repeated", programs[0].runs.size() > options.rounds},
          {"slower", NamesWith(comparison, Verdict::kSlower)},
          {"faster", NamesWith(comparison, Verdict::kFaster)},
          {"unclear", NamesWith(comparison, Verdict::kUnclear)},
          {"only_here", comparison.only_here},
          {"only_there", comparison.only_there},
          {"entries", entries},
          {"read_gbps", Rounded(1 / comparison.read.ms)},
          {"other_read_gbps", Rounded(1 / comparison.read.other_ms)}};
}

void PrintEntry(const ComparedEntry& entry) {
  const Ratio& ratio = entry.ratio;
  Print("{:<36}{:>10.4g}{:>10.4g}{:>9.3f}  {:.3f} to {:.3f}", entry.name,
        entry.ms, entry.other_ms, ratio.median, ratio.spread.low,
        ratio.spread.high);
  if (ratio.verdict != Verdict::kWithin) Print("  {}", Name(ratio.verdict));
  Print("\n");
}

void PrintOnly(const BenchProgram& program, const Words& names) {
  if (names.empty()) return;
  Print("only in {}: {}\n", program.path, fmt::join(names, ", "));
}

void PrintComparison(const Comparison& comparison,
                     const CompareOptions& options,
                     const BenchPrograms& programs) {
  const auto of = [&](const char* field) {
    const Json& value = programs[0].runs.front().work.at(field);
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  Print("here:  {}\nthere: {}\n", programs[0].path, programs[1].path);
  Print("{}, {}, {}, {} threads, KV context {}, {} tokens, {} rounds{}\n",
        of("model"), of("method"), of("dtype"), of("threads"), of("context"),
        of("tokens"), options.rounds,
        programs[0].runs.size() > options.rounds
            ? ", repeated, as something was slower in the first"
            : "");
  Print("{:<36}{:>10}{:>10}{:>9}  {}\n", "ms per token", "here", "there",
        "ratio", "spread");
  for (const ComparedEntry& entry : comparison.entries) PrintEntry(entry);
  PrintOnly(programs[0], comparison.only_here);
  PrintOnly(programs[1], comparison.only_there);
  Print("read bandwidth {:.1f} GB/s here, {:.1f} there\n",
        1 / comparison.read.ms, 1 / comparison.read.other_ms);
  const size_t unclear = comparison.With(Verdict::kUnclear).size();
  if (unclear > 0) {
    Print(
        "{} of {} entries vary too much to rule out a loss of {:.3g} %: more "
        "--rounds, or a quiet machine\n",
        unclear, comparison.entries.size(), 100 * options.tolerance);
  }
}

// The entries that fell, if any did.
Status Judged(const Comparison& comparison, const CompareOptions& options,
              const BenchPrograms& programs) {
  if (comparison.entries.empty()) {
    return Failed(programs[1].path + ": has no entry that this program has");
  }
  Words fallen;
  for (const ComparedEntry* entry : comparison.With(Verdict::kSlower)) {
    fallen.push_back(fmt::format("{} {:.3f} ({:.3f} to {:.3f})", entry->name,
                                 entry->ratio.median, entry->ratio.spread.low,
                                 entry->ratio.spread.high));
  }
  if (fallen.empty()) return {};
  return Failed(fmt::format(
      "slower than {} by more than {:.3g} % (times as long): {}",
      programs[1].path, 100 * options.tolerance, fmt::join(fallen, ", ")));
}

}  // namespace

void AddCompare(CLI::App& bench, CompareOptions& options) {
  options.bench = &bench;
  CLI::Option* const compare =
      bench
          .add_option(std::string(kCompare), options.program,
                      "Another rankforge, which runs the same in turn with "
                      "this one; fails if an entry takes longer here")
          ->check(CLI::ExistingFile);
  bench
      .add_option(std::string(kRounds), options.rounds,
                  "Runs of each program; again as many if something is slower")
      ->check(CLI::Range(options.rounds, size_t{1000}))
      ->needs(compare);
  bench
      .add_option(std::string(kTolerance), options.tolerance,
                  "Share of its time that an entry may lose")
      ->check(NumberFrom(0, 100))
      ->needs(compare);
}

Status CompareBench(const CompareOptions& options, bool json) {
  RANKFORGE_ASSIGN_OR_RETURN(BenchPrograms programs,
                             OpenPrograms(options.program));
  Words words;
  AppendGiven(*options.bench, words);
  words.push_back("--json");
  RANKFORGE_ASSIGN_OR_RETURN(Comparison comparison,
                             MeasureAndCompare(options, words, programs));
  if (!comparison.With(Verdict::kSlower).empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(Comparison again,
                               MeasureAndCompare(options, words, programs));
    comparison = Confirmed(comparison, std::move(again));
  }
  for (const BenchProgram& program : programs) PassOnMessages(program);
  SayWhatDiffers(programs);
  SayHowReadsDiffer(comparison);
  if (json) {
    PrintJson(ToJson(comparison, options, programs));
  } else {
    PrintComparison(comparison, options, programs);
  }
  return Judged(comparison, options, programs);
}

}  // namespace rankforge
