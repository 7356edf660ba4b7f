// Runs a program and waits for it.
#ifndef RANKFORGE_BASE_CHILD_PROCESS_H_
#define RANKFORGE_BASE_CHILD_PROCESS_H_

#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace rankforge {

struct ChildOptions {
  std::string_view input = {};  // what it reads on its standard input
  bool errors_apart = false;    // whether its streams are kept apart
  // A child that writes more is ended: what runs away must not fill the memory.
  size_t most_bytes = std::numeric_limits<size_t>::max();
  // Asked at every signal and once a second. Once it is true, nothing more is
  // read, and the child gets SIGTERM, and SIGKILL if it runs five seconds
  // later. Children of its own get neither.
  std::function<bool()> cancelled = {};
};

struct ChildResult {
  int exit_code = 0;        // 128 + n where signal n ended it
  std::string output = {};  // of both streams, or of standard output
  std::string errors = {};  // of standard error where it is apart
};

// Runs `command` without a shell; its first word is a path or a program on
// PATH. Fails if the program cannot be started, or if it writes too much.
// Several threads may call this.
Result<ChildResult> RunChild(const std::vector<std::string>& command,
                             const ChildOptions& options = {});

// The last line of what a program wrote, which says why it failed: a message,
// an interpreter's exception.
std::string_view LastLine(std::string_view text);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_CHILD_PROCESS_H_
