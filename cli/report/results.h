// Files that collect what `eval --json` and `bench --json` print.
#ifndef RANKFORGE_CLI_REPORT_RESULTS_H_
#define RANKFORGE_CLI_REPORT_RESULTS_H_

#include <string>

#include "base/status.h"
#include "cli/support/output.h"

namespace rankforge {

// The documents of `path`, one after another, with "kind" ("eval" or "bench")
// and those of their fields that a report needs, all there and of their types.
Result<Json> ReadResults(const std::string& path);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_REPORT_RESULTS_H_
