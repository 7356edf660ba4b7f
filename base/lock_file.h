// Keeps two processes from writing the same output.
#ifndef RANKFORGE_BASE_LOCK_FILE_H_
#define RANKFORGE_BASE_LOCK_FILE_H_

#include <string>
#include <utility>

#include "base/status.h"

namespace rankforge {

// A file beside `output` that this process holds a lock on. The system drops
// the lock when the process ends, however it ends: a file that was left behind
// keeps nobody out.
class LockFile {
 public:
  // Makes `output`.lock. An error: another process holds it, or it cannot be
  // made. A file system without locks keeps nobody out.
  static Result<LockFile> Take(const std::string& output);
  ~LockFile();
  LockFile(LockFile&& other) noexcept
      : path_(std::move(other.path_)),
        descriptor_(std::exchange(other.descriptor_, -1)) {}
  LockFile& operator=(LockFile&&) = delete;

 private:
  LockFile(std::string path, int descriptor)
      : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_LOCK_FILE_H_
