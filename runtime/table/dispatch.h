// Answers which layout, threads and variants a problem gets: what is forced,
// what a table says, else the default.
#ifndef RANKFORGE_RUNTIME_TABLE_DISPATCH_H_
#define RANKFORGE_RUNTIME_TABLE_DISPATCH_H_

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/table/table.h"

namespace rankforge {

// The answer by name, with what was measured for its kernels.
Decision Described(const Problem& problem, const DispatchTable::Answer& answer);

// Lines for people: the answer for `problem` and why, and per density which
// variant runs, what was second and by how much.
std::string Explain(const Problem& problem,
                    const DispatchTable::Answer& answer);

// One message: why `problem` runs untuned with `table`, which its user calls
// `name`, where that has it with other activations alone. Else empty.
std::string TunedOtherwise(const DispatchTable& table, std::string_view name,
                           const Problem& problem,
                           const DispatchTable::Answer& answer);

// The file that RANKFORGE_TABLE names; empty: none.
std::string TableOfEnvironment();
// RANKFORGE_MODE=off: no table need be read.
bool TablesAreOff();

// What every user of a table goes through: RANKFORGE_FORCE, then `table` (may
// be null), then the shipped one, then the default. RANKFORGE_MODE=off ignores
// both tables (and =use, like no value, does not). Thread count of the choice
// never exceeds problem.threads.
class Dispatcher {
 public:
  using Shipped = const DispatchTable* (*)();
  using Observer =
      std::function<void(const Problem&, const DispatchTable::Answer&)>;

  // Reads the environment variables once, here; the shipped table when first
  // needed.
  explicit Dispatcher(const DispatchTable* table,
                      Shipped shipped = &ShippedForThisCpu);
  DispatchTable::Answer Decide(const Problem& problem) const;
  // Is told every answer.
  void Observe(Observer observer) { observer_ = std::move(observer); }
  // Look-ups by source, indexed by DecisionSource.
  const std::array<size_t, kSources>& counts() const { return counts_; }
  // One message a setting that could not be honoured: an unknown mode or
  // variant.
  const std::vector<std::string>& notes() const { return notes_; }
  // One message if RANKFORGE_FORCE names a variant that fitted no look-up so
  // far. Else empty.
  std::string ForcedNowhere() const;

 private:
  DispatchTable::Answer LookUp(const Problem& problem) const;

  const DispatchTable* table_;
  Shipped shipped_;
  bool use_tables_ = true;
  std::string forced_;
  Observer observer_;
  std::vector<std::string> notes_;
  mutable std::array<size_t, kSources> counts_{};
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_DISPATCH_H_
