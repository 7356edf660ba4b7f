#include "base/lock_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace rankforge {
namespace {

// Whether the open file still has that name: its last holder removes it.
bool IsAt(int descriptor, const std::string& path) {
  struct stat open_file, named;
  return fstat(descriptor, &open_file) == 0 &&
         stat(path.c_str(), &named) == 0 && open_file.st_dev == named.st_dev &&
         open_file.st_ino == named.st_ino;
}

}  // namespace

Result<LockFile> LockFile::Take(const std::string& output) {
  const std::string path = output + ".lock";
  for (;;) {
    const int descriptor =
        open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor < 0) {
      return Failed(fmt::format(
          "{}: cannot create: {}; choose a folder that exists and is writable",
          path, std::strerror(errno)));
    }
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(descriptor);
      return Failed(fmt::format(
          "{}: another process is writing {}; wait until it ends, or name "
          "another output",
          path, output));
    }
    if (IsAt(descriptor, path)) return LockFile(path, descriptor);
    close(descriptor);
  }
}

LockFile::~LockFile() {
  if (descriptor_ < 0) return;
  unlink(path_.c_str());
  close(descriptor_);
}

}  // namespace rankforge
