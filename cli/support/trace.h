// Masks of a real run: what `tune --trace` measures with.
#ifndef RANKFORGE_CLI_SUPPORT_TRACE_H_
#define RANKFORGE_CLI_SUPPORT_TRACE_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/options.h"
#include "runtime/table/problem.h"

namespace rankforge {

// Runs the first tokens of the text `path` through the model and its adapter
// (--adapter), and gives each workload with a row or column mask up to 64 masks
// that its layers saw, with the mean and the spread of their densities. One
// message names the layers of those for which the run shows none; these and
// dense workloads stay as they are.
Status RecordTrace(const std::string& path, const std::string& model,
                   const CommonOptions& options,
                   std::vector<Workload>& workloads);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_TRACE_H_
