// Ctrl-C in long work that has something to clear away.
#ifndef RANKFORGE_CLI_SUPPORT_INTERRUPT_H_
#define RANKFORGE_CLI_SUPPORT_INTERRUPT_H_

#include <signal.h>

namespace rankforge {

// While one lives, the first SIGINT or SIGTERM sets Asked(), for the work to
// stop at its next step; the second ends the process as ever. A signal that was
// ignored stays so (nohup). One at a time.
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
