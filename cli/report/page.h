// Pages of results. report_page.py and its modules, which are part of the
// program, draw them with matplotlib.
#ifndef RANKFORGE_CLI_REPORT_PAGE_H_
#define RANKFORGE_CLI_REPORT_PAGE_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/output.h"

namespace rankforge {

// Draws `data`, checked before ("tables", "results" or "front"), as the page
// `out`, and its plots as files in the folder `svg` (empty: only in the page).
// Returns the names of the plots. Errors: no Python with matplotlib (code
// kEnvironment), nowhere to write.
Result<std::vector<std::string>> DrawPage(const Json& data,
                                          const std::string& out,
                                          const std::string& svg);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_REPORT_PAGE_H_
