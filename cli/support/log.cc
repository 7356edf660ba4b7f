#include "cli/support/log.h"

#include <cstdlib>

#include "cli/support/output.h"

namespace rankforge {
namespace {

LogLevel FromEnvironment() {
  const char* value = std::getenv("RANKFORGE_LOG");
  if (value == nullptr) return LogLevel::kProblems;
  const std::string_view text = value;
  if (text.size() == 1 && text[0] >= '0' && text[0] <= '3') {
    return static_cast<LogLevel>(text[0] - '0');
  }
  PrintMessage(fmt::format(
      "RANKFORGE_LOG={:.40} is none of 0, 1, 2, 3; 1 is used", text));
  return LogLevel::kProblems;
}

}  // namespace

bool Logs(LogLevel level) {
  static const LogLevel kLevel = FromEnvironment();
  return level <= kLevel;
}

void Log(LogLevel level, std::string_view message) {
  if (Logs(level)) PrintMessage(message);
}

}  // namespace rankforge
