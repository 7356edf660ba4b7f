// Runs a program and waits for it.
#ifndef RANKFORGE_BASE_CHILD_PROCESS_H_
#define RANKFORGE_BASE_CHILD_PROCESS_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace rankforge {

struct ChildResult {
  int exit_code = 0;   // 128 + n where signal n ended it
  std::string output;  // of both streams
};

// Runs `command`, whose first word is looked for on PATH. Fails where it cannot
// be run. No shell takes part. Several threads may.
Result<ChildResult> RunChild(const std::vector<std::string>& command);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_CHILD_PROCESS_H_
