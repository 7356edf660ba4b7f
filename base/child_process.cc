#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

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

// Starts `command` with `input` as its standard input, and `output` as its
// standard output and error.
Result<pid_t> Start(const std::vector<std::string>& command, int input,
                    int output) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return SystemError("run", error);
  return child;
}

// Everything that is written until the last writer closes its end.
std::string ReadAll(int descriptor) {
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = read(descriptor, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

}  // namespace

Result<ChildResult> RunChild(const std::vector<std::string>& command,
                             std::string_view input) {
  const int input_file = FileWith(input);
  if (input_file < 0) return SystemError("keep the input", errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    close(input_file);
    return SystemError("make a pipe", errno);
  }
  const Result<pid_t> child = Start(command, input_file, ends[1]);
  close(input_file);
  close(ends[1]);
  ChildResult result;
  if (child.ok()) result.output = ReadAll(ends[0]);
  close(ends[0]);
  if (!child.ok()) return child.status();
  int status = 0;
  while (waitpid(*child, &status, 0) != *child) {
    if (errno != EINTR) return SystemError("wait", errno);
  }
  result.exit_code =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace rankforge
