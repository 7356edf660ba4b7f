// Runs a program and waits for it.
#ifndef RANKFORGE_BASE_CHILD_PROCESS_H_
#define RANKFORGE_BASE_CHILD_PROCESS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace rankforge {

struct ChildResult {
  int exit_code = 0;   // 128 + n where signal n ended it
  std::string output;  // of both streams
};

// Runs `command` without a shell; its first word is a path or a program on
// PATH. It reads `input` on its standard input. Fails if the program cannot be
// started. Several threads may call this.
Result<ChildResult> RunChild(const std::vector<std::string>& command,
                             std::string_view input = {});

}  // namespace rankforge

#endif  // RANKFORGE_BASE_CHILD_PROCESS_H_
