#include "runtime/table/table_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <tuple>
#include <utility>

#include "runtime/table/rigor.h"

namespace rankforge {
namespace {

// More for more rigor. A rigor that this build does not know has rank 0.
size_t RankOfRigor(const DispatchTable& table) {
  const auto found = std::ranges::find_if(
      kRigors, [&](Rigor rigor) { return Name(rigor) == table.policy.rigor; });
  return found == kRigors.end()
             ? 0
             : static_cast<size_t>(found - kRigors.begin()) + 1;
}

bool IsConfident(const DispatchTable& table) {
  return table.environment.confidence == "high";
}

size_t Samples(const Decision& decision) {
  size_t samples = 0;
  for (const Bucket& bucket : decision.by_density) samples += bucket.ns.n;
  return samples;
}

Status CheckMergeable(const NamedTable& first, const NamedTable& other) {
  const auto differences = Differences(first.table, other.table);
  if (MatchOf(differences) < Match::kCompatible) {
    return Failed(fmt::format(
        "{} and {} are of different CPUs ({}); a table holds one: keep a file "
        "for each (those in generated/tables/ are all built in)",
        first.name, other.name,
        Listed(differences, Match::kCompatible, " and ")));
  }
  if (first.table.policy.cold != other.table.policy.cold) {
    return Failed(
        fmt::format("{} was measured {}, {} {} (policy.cold); keep two files",
                    first.name, first.table.policy.cold ? "cold" : "in cache",
                    other.name, other.table.policy.cold ? "cold" : "in cache"));
  }
  return {};
}

void AddLayers(const std::vector<std::string>& more,
               std::vector<std::string>* layers) {
  for (const std::string& layer : more) {
    if (std::ranges::count(*layers, layer) == 0) layers->push_back(layer);
  }
}

// Makes the conditions of `merged` true of the measurements of `other`, too.
void JoinConditions(const NamedTable& other, DispatchTable* merged) {
  const TableEnvironment& from = other.table.environment;
  TableEnvironment& environment = merged->environment;
  environment.load_average =
      std::max(environment.load_average, from.load_average);
  environment.steal_share = std::max(environment.steal_share, from.steal_share);
  // The read bandwidth is the largest that any table measured.
  for (const auto& [threads, gbps] : from.read_gbps) {
    environment.read_gbps[threads] =
        std::max(environment.read_gbps[threads], gbps);
  }
  if (IsConfident(*merged) && !IsConfident(other.table)) {
    environment.confidence = from.confidence;
    // Without its folder: the merged file goes to machines that lack it.
    environment.confidence_reason = fmt::format(
        "{}: {}", std::filesystem::path(other.name).filename().string(),
        from.confidence_reason);
  }
  if (RankOfRigor(other.table) < RankOfRigor(*merged)) {
    merged->policy.rigor = other.table.policy.rigor;
  }
  merged->policy.margin =
      std::max(merged->policy.margin, other.table.policy.margin);
  // A table of several builds or machines is an exact match for none of them.
  if (MatchOf(Differences(*merged, other.table)) != Match::kExact) {
    merged->build.registry_hash = 0;
  }
}

}  // namespace

Result<DispatchTable> MergeTables(std::span<const NamedTable> tables) {
  if (tables.empty()) return UsageError("nothing to merge");
  DispatchTable merged = tables[0].table;
  // Rigor, confidence and samples of an entry. The larger one replaces the
  // smaller.
  using Quality = std::tuple<size_t, bool, size_t>;
  std::map<Problem, std::pair<Quality, TableEntry>> best;
  for (const NamedTable& named : tables) {
    const DispatchTable& table = named.table;
    RANKFORGE_RETURN_IF_ERROR(CheckMergeable(tables[0], named));
    if (&named != &tables[0]) JoinConditions(named, &merged);
    for (const TableEntry& entry : table.entries) {
      const Quality quality = {RankOfRigor(table), IsConfident(table),
                               Samples(entry.decision)};
      const auto [place, is_first] =
          best.try_emplace(entry.problem, quality, entry);
      if (is_first) continue;
      auto& [best_quality, best_entry] = place->second;
      AddLayers(entry.layers, &best_entry.layers);
      if (quality > best_quality) {
        best_quality = quality;
        best_entry.decision = entry.decision;
      }
    }
  }
  merged.entries.clear();
  for (auto& [problem, kept] : best) {
    merged.entries.push_back(std::move(kept.second));
  }
  return merged;
}

}  // namespace rankforge
