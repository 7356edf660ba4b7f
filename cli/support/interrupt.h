// Ctrl-C during long work that has something to clear away.
#ifndef RANKFORGE_CLI_SUPPORT_INTERRUPT_H_
#define RANKFORGE_CLI_SUPPORT_INTERRUPT_H_

#include <signal.h>

namespace rankforge {

// While one exists, the first SIGINT or SIGTERM sets Asked(), and the work
// stops at its next step; the second ends the process. A signal that is ignored
// (nohup) stays ignored. At most one exists at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  static bool Asked();

 private:
  struct sigaction interrupt_ = {};
  struct sigaction terminate_ = {};
};

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_INTERRUPT_H_
