#include "cli/support/output.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace rankforge {

double Rounded(double value, int significant_digits) {
  return std::strtod(fmt::format("{:.{}g}", value, significant_digits).c_str(),
                     nullptr);
}

void PrintText(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void PrintJson(const Json& document) {
  // Generated text may end inside a UTF-8 sequence.
  PrintText(document.dump(2, ' ', false, Json::error_handler_t::replace) +
            "\n");
}

void PrintMessage(std::string_view message) {
  std::fflush(stdout);
  std::string line = "rankforge: ";
  for (const char c : message) line += c == '\n' ? ' ' : c;
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

Status FlushOutput() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
  return Failed(fmt::format("stdout: {}", std::strerror(errno)));
}

}  // namespace rankforge
