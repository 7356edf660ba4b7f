#include "runtime/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace rankforge {
namespace {

// Writes and syncs; 0 or the errno of what failed.
int WriteAll(int file, std::string_view contents) {
  while (!contents.empty()) {
    const ssize_t written = write(file, contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    contents.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(file) == 0 ? 0 : errno;
}

// Makes the rename itself durable. Some file systems cannot sync a folder; the
// file is whole either way, so nothing is reported.
void SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder =
      slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  fsync(file);
  close(file);
}

}  // namespace

Status WriteFileAtomically(const std::string& path, std::string_view contents) {
  const auto failure = [&](const std::string& what, int error) {
    return Failed(fmt::format("{}: {}: {}; choose a writable path", path, what,
                              std::strerror(error)));
  };
  // Renaming over a device or a folder would replace or fail oddly.
  struct stat existing;
  if (stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode)) {
    return failure("cannot be replaced",
                   S_ISDIR(existing.st_mode) ? EISDIR : EINVAL);
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  const int file =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return failure("cannot be written", errno);
  int error = WriteAll(file, contents);
  if (close(file) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) {
    error = errno;
  }
  if (error != 0) {
    std::remove(temporary.c_str());
    return failure("cannot be written", error);
  }
  SyncFolderOf(path);
  return {};
}

}  // namespace rankforge
