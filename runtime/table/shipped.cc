// The tables of generated/tables/, built into the library as text.
#include <optional>

#include "runtime/table/table.h"

namespace rankforge {
namespace {

constexpr ShippedTable kTables[] = {
#include "shipped_tables.inc"
};

std::optional<DispatchTable> BestForThisCpu() {
  std::optional<DispatchTable> best;
  for (const ShippedTable& shipped : ShippedTables()) {
    Result<DispatchTable> table = DispatchTable::Parse(
        std::string(shipped.name), std::string(shipped.text), Match::kFamily);
    if (!table.ok() || !table->usable()) continue;
    if (!best || table->match() > best->match()) best = std::move(*table);
  }
  return best;
}

}  // namespace

std::span<const ShippedTable> ShippedTables() { return kTables; }

const DispatchTable* ShippedForThisCpu() {
  static const std::optional<DispatchTable> kBest = BestForThisCpu();
  return kBest ? &*kBest : nullptr;
}

}  // namespace rankforge
