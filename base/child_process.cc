#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

extern char** environ;

namespace rankforge {
namespace {

Status SystemError(const char* what, int error) {
  return Failed(fmt::format("cannot {}: {}", what, std::strerror(error)));
}

// A file in memory with this text, to be read from its start; negative: there
// is no memory.
int FileWith(std::string_view text) {
  const int file = memfd_create("input", MFD_CLOEXEC);
  if (file < 0) return file;
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      close(file);
      return -1;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  lseek(file, 0, SEEK_SET);
  return file;
}

// A pipe that no other child gets. Ends close with it.
class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_.data(), O_CLOEXEC) != 0) ends_ = {-1, -1};
  }
  ~Pipe() {
    CloseInput();
    CloseOutput();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool ok() const { return ends_[0] >= 0; }
  int output() const { return ends_[0]; }  // to read from
  int input() const { return ends_[1]; }
  void CloseInput() { Close(ends_[1]); }
  void CloseOutput() { Close(ends_[0]); }

 private:
  static void Close(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }

  std::array<int, 2> ends_ = {-1, -1};
};

// Starts `command` with these as its standard streams.
Result<pid_t> Start(const std::vector<std::string>& command, int input,
                    int output, int errors) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return SystemError("run", error);
  return child;
}

// Appends what `descriptor` holds to `text`; false at its end.
bool ReadSome(int descriptor, std::string& text) {
  std::array<char, 1 << 16> buffer;
  const ssize_t count = read(descriptor, buffer.data(), buffer.size());
  if (count < 0 && errno == EINTR) return true;
  if (count <= 0) return false;
  text.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

// Everything that `child` writes, until the last writer of each stream closes
// its end, or until the caller cancels.
Status ReadAll(pid_t child, int output, int errors, const ChildOptions& options,
               ChildResult& result, bool& cancelled) {
  // poll() skips a negative descriptor.
  std::array<pollfd, 2> ends = {
      {{output, POLLIN, 0}, {options.errors_apart ? errors : -1, POLLIN, 0}}};
  const std::array<std::string*, 2> texts = {&result.output, &result.errors};
  // A signal ends poll(). One that arrives just before it is seen later.
  const int wait_ms = options.cancelled ? 1000 : -1;
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    const int ready = poll(ends.data(), ends.size(), wait_ms);
    if (options.cancelled && options.cancelled()) {
      cancelled = true;
      return {};
    }
    if (ready <= 0) continue;
    for (size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].revents == 0) continue;
      if (!ReadSome(ends[i].fd, *texts[i])) ends[i].fd = -1;
    }
    if (texts[0]->size() + texts[1]->size() > options.most_bytes) {
      kill(child, SIGKILL);
      return Failed(
          fmt::format("writes more than {} bytes", options.most_bytes));
    }
  }
  return {};
}

// How `child` ended, as waitpid() says it.
Result<int> Wait(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) != child) {
    if (errno != EINTR) return SystemError("wait", errno);
  }
  return status;
}

// The same of a child that is to end now, and may not want to.
Result<int> End(pid_t child) {
  constexpr auto kPatience = std::chrono::seconds(5);
  constexpr auto kPause = std::chrono::milliseconds(10);
  kill(child, SIGTERM);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < until) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return status;
    if (ended < 0 && errno != EINTR) return SystemError("wait", errno);
    std::this_thread::sleep_for(kPause);
  }
  kill(child, SIGKILL);
  return Wait(child);
}

}  // namespace

Result<ChildResult> RunChild(const std::vector<std::string>& command,
                             const ChildOptions& options) {
  const int input_file = FileWith(options.input);
  if (input_file < 0) return SystemError("keep the input", errno);
  Pipe output;
  Pipe errors;
  if (!output.ok() || !errors.ok()) {
    const int error = errno;
    close(input_file);
    return SystemError("make a pipe", error);
  }
  const Result<pid_t> child =
      Start(command, input_file, output.input(),
            options.errors_apart ? errors.input() : output.input());
  close(input_file);
  output.CloseInput();
  errors.CloseInput();
  if (!child.ok()) return child.status();
  ChildResult result;
  bool cancelled = false;
  const Status read = ReadAll(*child, output.output(), errors.output(), options,
                              result, cancelled);
  // What is still written meets a closed pipe, and does not fill one.
  output.CloseOutput();
  errors.CloseOutput();
  RANKFORGE_ASSIGN_OR_RETURN(const int status,
                             cancelled ? End(*child) : Wait(*child));
  if (!read.ok()) return read;
  result.exit_code =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::string_view LastLine(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text.substr(text.rfind('\n') + 1);
}

}  // namespace rankforge
