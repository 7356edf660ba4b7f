#include "cli/support/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/json_fields.h"

namespace rankforge {

Result<Json> ParseInput(const std::string& name, const std::string& text) {
  const Result<nlohmann::json> document = ParseJson(text);
  if (document.ok()) return Json(*document);
  return Failed(
      fmt::format("{}: {}; correct it", name, document.status().message()));
}

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

void KeepStandardStreams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(stream, F_GETFD) >= 0 || errno != EBADF) continue;
    // Takes the lowest free number, which is `stream`. A closed stdout stays an
    // error: writing to a file that is open for reading fails.
    const int flags = stream == STDERR_FILENO ? O_WRONLY : O_RDONLY;
    static_cast<void>(open("/dev/null", flags));
  }
}

void PrintToStderr(std::string_view text) {
  // Blocked for this thread, the signal of a broken pipe waits until it is
  // taken back here.
  sigset_t broken_pipe, before, pending;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (!text.empty() && sigismember(&pending, SIGPIPE) == 0) {
    const timespec none{};
    sigtimedwait(&broken_pipe, nullptr, &none);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void PrintMessage(std::string_view message) {
  std::fflush(stdout);
  std::string line = "rankforge: ";
  for (const char c : message) line += c == '\n' ? ' ' : c;
  line += '\n';
  PrintToStderr(line);
}

Status FlushOutput() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
  return Failed(fmt::format("stdout: {}", std::strerror(errno)));
}

}  // namespace rankforge
