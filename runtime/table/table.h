// The dispatch table: what tuning found on one CPU, as JSON (docs/table.md).
// A foreign or damaged table never breaks a model and never changes a result;
// it only costs speed, and the load says once why.
#ifndef RANKFORGE_RUNTIME_TABLE_TABLE_H_
#define RANKFORGE_RUNTIME_TABLE_TABLE_H_

#include <array>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/table/choice.h"
#include "runtime/table/cpu.h"
#include "runtime/table/decision.h"
#include "runtime/table/problem.h"

namespace rankforge {

// The conditions under which a table was measured, for information.
struct TableEnvironment {
  std::string governor;     // "unknown" where the system does not say
  double load_average = 0;  // one minute, when tuning started
  double steal_share = 0;   // of CPU time while tuning
  std::map<size_t, double> read_gbps;  // by thread count
  std::string huge_pages;     // contents of transparent_hugepage/enabled
  std::string boost;          // "on", "off", "unknown"
  std::string cpus;           // numbers of the usable ones: "0,1"
  bool shared_cores = false;  // two of those are threads of one core
  double cpu_share = 0;       // of the least served CPU, when tuning started
  std::string confidence;     // "high" or "low"
  std::string confidence_reason;
};

// The program that wrote a table, for information: entries are valid by spec
// hash, whatever else was built into it.
struct TableBuild {
  std::string library_version;
  std::string compiler;
  std::string flags;
  uint64_t registry_hash = 0;

  static TableBuild Current();
};

struct TablePolicy {
  std::string rigor;  // "estimate", "measure", "patient"
  uint64_t seed = 0;
  double margin = 0.02;  // share by which a challenger must win
  bool cold = true;      // weights came from memory, not from cache
};

struct TableEntry {
  Problem problem;
  std::vector<std::string> layers;
  Decision decision;
  std::string masks{};  // what they rest on, for information; "": not said
  Choice choice{};      // what `decision` names; empty until Bind
};

// Where a choice comes from; counted and shown by `table explain`. kTable:
// measured for this problem; kNearest: for one near it; kShipped: in a table
// that comes with the library.
enum class DecisionSource { kTable, kNearest, kShipped, kDefault, kForced };

inline constexpr size_t kSources = 5;

constexpr std::string_view Name(DecisionSource source) {
  constexpr std::array<std::string_view, kSources> kNames = {
      "table", "nearest", "shipped", "default", "forced"};
  return kNames[static_cast<size_t>(source)];
}

class DispatchTable {
 public:
  // How a look-up was answered.
  struct Answer {
    Choice choice;
    DecisionSource source = DecisionSource::kDefault;
    // Whose entry it is, in a table that must outlive the answer; null: no
    // table's.
    const TableEntry* entry = nullptr;
    std::string reason;  // one sentence, for `explain`
  };

  // Reads and checks a table. Fails (with file, field, value and next step)
  // when the file is no table. An invalid entry is dropped and noted; a bucket
  // with a variant that this build does not have takes the default and is
  // noted. Entries of a table whose fingerprint is not at least kCompatible are
  // kept for showing only.
  static Result<DispatchTable> Load(const std::string& path);
  // The same of a text that is called `name` in messages and whose fingerprint
  // need only match as well as `needed`.
  static Result<DispatchTable> Parse(const std::string& name,
                                     const std::string& text, Match needed);
  // The entries as they stand in the file, whichever CPU and build they are
  // from: for comparing and merging. Look-ups answer with the default.
  static Result<DispatchTable> LoadUnbound(const std::string& path);
  // What Load does to the entries of a file: binds their names to kernels of
  // this build, if the fingerprint matches as well as `needed`. A table that
  // was filled by hand answers look-ups after this only. `name` is for
  // messages.
  void Bind(const std::string& name, Match needed);
  // Sorted keys, written to a temporary file, synced and renamed.
  Status Save(const std::string& path) const;

  // Exact problem; else the nearest entry with the same operation, type,
  // granularity, batch and threads whose rows and cols are within a factor of
  // two; else the default. A table of another CPU answers with the default.
  // Above a factor of two, row loops and panels meet other cache levels and the
  // neighbour's ranking means nothing.
  Answer Lookup(const Problem& problem) const;
  // The activations of an entry for this problem with others than it has, where
  // Lookup finds no entry: it was tuned for another arithmetic.
  std::optional<Activations> OtherActivations(const Problem& problem) const;

  // One message a problem found while loading: foreign CPU (with the fields
  // that differed), dropped entries, replaced variants.
  const std::vector<std::string>& notes() const { return notes_; }
  // Whether look-ups are answered from the entries: they are bound, and the
  // fingerprint matches as well as it must.
  bool usable() const { return usable_; }
  // How well CPU and build match this one's.
  Match match() const { return MatchOf(differences_); }
  const std::vector<CpuDifference>& differences() const { return differences_; }

  CpuInfo cpu;
  TableBuild build = TableBuild::Current();
  TableEnvironment environment;
  TablePolicy policy;
  std::vector<TableEntry> entries;

 private:
  static Result<DispatchTable> Read(const std::string& name,
                                    const std::string& text);

  std::vector<std::string> notes_;
  std::vector<CpuDifference> differences_;
  bool usable_ = false;
};

// The fields of CPU and build in which two tables differ.
std::vector<CpuDifference> Differences(const DispatchTable& a,
                                       const DispatchTable& b);

// A table measured elsewhere that comes with the library (generated/tables/).
struct ShippedTable {
  std::string_view name;
  std::string_view text;
};
std::span<const ShippedTable> ShippedTables();
// The one that matches this CPU best, at least its family; null: none does.
// Read at the first call.
const DispatchTable* ShippedForThisCpu();

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_TABLE_H_
