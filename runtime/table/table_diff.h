// Where two tables differ, and what the difference costs.
#ifndef RANKFORGE_RUNTIME_TABLE_TABLE_DIFF_H_
#define RANKFORGE_RUNTIME_TABLE_TABLE_DIFF_H_

#include <optional>
#include <string>
#include <vector>

#include "runtime/table/table.h"

namespace rankforge {

// Densities in (low, high], which both tables serve with one bucket each.
struct IntervalDiff {
  double low = 0;
  double high = 1;
  const Bucket* a = nullptr;
  const Bucket* b = nullptr;
  bool agrees = false;  // same layout, threads and variant
  // Time of b's choice / time of a's choice, each from its own run. None if
  // either was not measured.
  std::optional<double> ns_ratio;
  // The same ratio without what changed between the runs. If one table's choice
  // was the runner-up of the other, both times are from that other's run.
  // Otherwise each time is relative to the default of its own run.
  std::optional<double> choice_ratio;
};

struct EntryDiff {
  const TableEntry* a = nullptr;
  const TableEntry* b = nullptr;
  std::vector<IntervalDiff> intervals;
  bool agrees = false;  // all of its intervals agree
  // The largest |choice_ratio - 1| where the choices differ. 0 if all agree,
  // infinite if a ratio is not known.
  double distance = 0;
};

struct TableDiff {
  std::vector<const TableEntry*> only_in_a;
  std::vector<const TableEntry*> only_in_b;
  std::vector<EntryDiff> both;

  size_t Agreeing() const;
  // Intervals of all entries in `both`, and how many of them agree.
  size_t Intervals() const;
  size_t AgreeingIntervals() const;
  // Entries that do not agree and whose distance is at most `margin`.
  size_t Within(double margin) const;
  // Over all entries in `both`; 0: all agree.
  double LargestDistance() const;
};

// Points into `a` and `b`, which must outlive the result.
TableDiff DiffTables(const DispatchTable& a, const DispatchTable& b);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_TABLE_DIFF_H_
