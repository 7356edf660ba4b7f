// Messages on stderr that RANKFORGE_LOG selects. Errors that end the program,
// and progress, come at every level.
#ifndef RANKFORGE_CLI_SUPPORT_LOG_H_
#define RANKFORGE_CLI_SUPPORT_LOG_H_

#include <string_view>

namespace rankforge {

enum class LogLevel {
  kNone,
  kProblems,  // the default: what could not be used, and why
  kSummary,   // each load: how well the table fits, look-ups by kind
  kLookups,   // each look-up
};

bool Logs(LogLevel level);
// Prints `message` when RANKFORGE_LOG is at least `level`.
void Log(LogLevel level, std::string_view message);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_LOG_H_
