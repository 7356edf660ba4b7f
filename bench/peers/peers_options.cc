#include "bench/peers/peers_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <optional>
#include <thread>

namespace rankforge {
namespace {

using Words = std::vector<std::string>;

// The largest product that fits the 32-bit sizes of BLAS by far.
constexpr size_t kMaxSide = 1 << 17;

std::optional<size_t> ParseSize(std::string_view text, size_t most) {
  size_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool whole = error == std::errc() && rest == end;
  return whole && value >= 1 && value <= most ? std::optional(value)
                                              : std::nullopt;
}

std::optional<PeerShape> ParseShape(std::string_view text) {
  const size_t x = text.find('x');
  if (x == std::string_view::npos) return std::nullopt;
  const auto rows = ParseSize(text.substr(0, x), kMaxSide);
  const auto cols = ParseSize(text.substr(x + 1), kMaxSide);
  if (!rows || !cols) return std::nullopt;
  return PeerShape{*rows, *cols};
}

std::optional<double> ParseDensity(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool whole = error == std::errc() && rest == end;
  return whole && value > 0 && value <= 1 ? std::optional(value) : std::nullopt;
}

std::optional<Operation> ParseMask(std::string_view text) {
  const auto operation = FromName(kOperations, text);
  return operation == Operation::kDense ? std::nullopt : operation;
}

// Appends the values of a comma-separated list.
template <class Value, class Parse>
Status ParseAll(const char* option, const char* takes, const Words& words,
                Parse parse, std::vector<Value>& values) {
  for (const std::string& word : words) {
    const std::optional<Value> value = parse(word);
    if (!value) {
      return UsageError(
          fmt::format("{}: '{}' is not {} (see --help)", option, word, takes));
    }
    values.push_back(*value);
  }
  return {};
}

std::string TypeNames() {
  std::string names = "one of";
  for (const WeightType type : kWeightTypes) {
    names += fmt::format(" {}", Name(type));
  }
  return names;
}

}  // namespace

Result<PeersOptions> ParsePeersOptions(int argc, char** argv) {
  CLI::App program(
      "Dense and masked matrix-vector products of RankForge beside those of "
      "other libraries:\nthe same data, in turn, medians in us and the median "
      "ratio within a round.");
  program.option_defaults()->always_capture_default();
  Words shapes = {"4096x11008", "11008x4096"};
  Words types = {"f32", "bf16", "i8_group32", "i4_group32"};
  Words masks = {"column_mask"};
  Words densities = {"0.25", "0.5", "1"};
  Words threads = {
      "1", std::to_string(std::max(1u, std::thread::hardware_concurrency()))};
  PeersOptions options;
  const auto list = [&](const char* name, Words& words, const char* what) {
    program.add_option(name, words, what)->delimiter(',');
  };
  list("--shapes", shapes, "ROWSxCOLS,...");
  list("--types", types, "weight types");
  list("--masks", masks, "column_mask, row_mask: skipped below density 1");
  list("--densities", densities, "shares of columns or rows kept; 1: dense");
  list("--threads", threads, "thread counts");
  program
      .add_option("--rounds", options.rounds, "everybody takes a turn in each")
      ->check(CLI::Range(1, 1000));
  program
      .add_option("--tune-seconds", options.tune_seconds,
                  "to choose layouts and variants of RankForge in; 0: defaults")
      ->check(CLI::Range(0, 3600));
  program.add_flag("--cached", options.cached,
                   "one copy of the weights, as in a cache");
  program.add_option("--csv", options.csv, "also write this file");
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      return UsageError(fmt::format("{} (see --help)", error.what()));
    }
    program.exit(error);
    options.help = true;
    return options;
  }
  const auto parse_threads = [](std::string_view text) {
    return ParseSize(text, 1024);
  };
  const auto parse_type = [](std::string_view text) {
    return FromName(kWeightTypes, text);
  };
  RANKFORGE_RETURN_IF_ERROR(ParseAll("--shapes", "ROWSxCOLS up to 131072",
                                     shapes, ParseShape, options.shapes));
  RANKFORGE_RETURN_IF_ERROR(ParseAll("--types", TypeNames().c_str(), types,
                                     parse_type, options.types));
  RANKFORGE_RETURN_IF_ERROR(ParseAll("--masks", "column_mask or row_mask",
                                     masks, ParseMask, options.masks));
  RANKFORGE_RETURN_IF_ERROR(ParseAll("--densities", "above 0 and at most 1",
                                     densities, ParseDensity,
                                     options.densities));
  RANKFORGE_RETURN_IF_ERROR(ParseAll("--threads", "a count from 1 to 1024",
                                     threads, parse_threads, options.threads));
  return options;
}

}  // namespace rankforge
