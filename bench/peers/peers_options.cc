#include "bench/peers/peers_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/affinity.h"
#include "bench/program.h"

namespace rankforge {
namespace {

std::optional<size_t> ParseSide(std::string_view text) {
  size_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool whole = error == std::errc() && rest == end;
  return whole && value >= 1 && value <= kMostSide ? std::optional(value)
                                                   : std::nullopt;
}

std::optional<PeerShape> ParseShape(std::string_view text) {
  const size_t x = text.find('x');
  if (x == std::string_view::npos) return std::nullopt;
  const auto rows = ParseSide(text.substr(0, x));
  const auto cols = ParseSide(text.substr(x + 1));
  if (!rows || !cols) return std::nullopt;
  return PeerShape{*rows, *cols};
}

std::string WhatIsWrongWithShape(const std::string& text) {
  return ParseShape(text) ? ""
                          : fmt::format("{} is not ROWSxCOLS, each up to {}",
                                        text, kMostSide);
}

}  // namespace

std::vector<PeerShape> PeersOptions::shapes() const {
  std::vector<PeerShape> shapes;
  for (const std::string& name : shape_names) {
    shapes.push_back(*ParseShape(name));
  }
  return shapes;
}

std::vector<WeightType> PeersOptions::types() const {
  std::vector<WeightType> types;
  for (const std::string& name : type_names) {
    types.push_back(*FromName(kWeightTypes, name));
  }
  return types;
}

std::vector<Operation> PeersOptions::masks() const {
  std::vector<Operation> masks;
  for (const std::string& name : mask_names) {
    masks.push_back(*FromName(kOperations, name));
  }
  return masks;
}

void AddPeersOptions(CLI::App& program, PeersOptions& options) {
  options.threads = {1, UsableThreads()};
  std::vector<std::string> masks;
  for (const Operation operation : kOperations) {
    if (operation != Operation::kDense) masks.emplace_back(Name(operation));
  }
  const auto list = [&](const char* name, auto& values, const char* what,
                        CLI::Validator check) {
    program.add_option(name, values, what)
        ->delimiter(',')
        ->check(std::move(check));
  };
  list("--shapes", options.shape_names, "Shapes of the matrices",
       {WhatIsWrongWithShape, "ROWSxCOLS"});
  list("--types", options.type_names, "Weight types",
       CLI::IsMember(WeightTypeNames()));
  list("--masks", options.mask_names, "What is skipped at densities below 1",
       CLI::IsMember(masks));
  list("--densities", options.densities,
       "Shares of the columns or rows that are kept; 1: dense",
       ShareFrom(1e-9));
  list("--threads", options.threads, "Numbers of threads", CLI::Range(1, 1024));
  program.add_option("--rounds", options.rounds, "Rounds of turns")
      ->check(CLI::Range(1, 1000));
  program
      .add_option("--tune-seconds", options.tune_seconds,
                  "Time to choose layouts and variants of RankForge in; 0: "
                  "defaults")
      ->check(CLI::Range(0, 3600));
  program.add_flag("--cached", options.cached,
                   "Repeat one copy of the weights; not given: from memory");
  program.add_flag("--exact", options.exact,
                   "Integer weights have exact inputs; not given: those of 8 "
                   "bits, as most peers have");
  program.add_option("--csv", options.csv, "Also write the figures there");
}

}  // namespace rankforge
