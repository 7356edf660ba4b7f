// What RANKFORGE_LOG lets through to stderr. Errors that end the program and
// progress are not its business.
#ifndef RANKFORGE_CLI_SUPPORT_LOG_H_
#define RANKFORGE_CLI_SUPPORT_LOG_H_

#include <string_view>

namespace rankforge {

enum class LogLevel {
  kNone,
  kProblems,  // as if not set: what could not be used, and why
  kSummary,   // each load: how well the table fits, look-ups by kind
  kLookups,   // each look-up
};

bool Logs(LogLevel level);
// Prints `message` when RANKFORGE_LOG is at least `level`.
void Log(LogLevel level, std::string_view message);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_LOG_H_
