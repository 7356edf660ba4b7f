// Several tables of one CPU as one.
#ifndef RANKFORGE_RUNTIME_TABLE_TABLE_MERGE_H_
#define RANKFORGE_RUNTIME_TABLE_TABLE_MERGE_H_

#include <span>
#include <string>

#include "base/status.h"
#include "runtime/table/table.h"

namespace rankforge {

struct NamedTable {
  std::string name;  // for messages
  DispatchTable table;
};

// The result has the entries of all tables. Of those with the same problem, the
// decision that was measured best stays, with the layers of all: higher rigor,
// then high before low confidence, then more samples, then the table named
// first. What the result says of the whole holds for every entry: the least
// rigor, the least confidence, the largest margin. Fails if the fingerprints
// are not compatible, or if only some of the tables were measured in cache.
Result<DispatchTable> MergeTables(std::span<const NamedTable> tables);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_TABLE_MERGE_H_
