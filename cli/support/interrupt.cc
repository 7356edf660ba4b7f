#include "cli/support/interrupt.h"

namespace rankforge {
namespace {

volatile sig_atomic_t asked = 0;

void Ask(int) { asked = 1; }

// Returns the action that `signal` had.
struct sigaction AskAt(int signal) {
  struct sigaction before = {};
  sigaction(signal, nullptr, &before);
  if (before.sa_handler == SIG_IGN) return before;
  struct sigaction ask = {};
  ask.sa_handler = Ask;
  ask.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(signal, &ask, nullptr);
  return before;
}

}  // namespace

InterruptScope::InterruptScope() {
  asked = 0;
  interrupt_ = AskAt(SIGINT);
  terminate_ = AskAt(SIGTERM);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

bool InterruptScope::Asked() { return asked != 0; }

}  // namespace rankforge
