// Files as a whole: mapped read-only, read as text, or streamed so that either
// the complete new file is there or the old state. (What fits in a string is
// written with runtime/atomic_file.h.)
#ifndef RANKFORGE_RUNTIME_MODEL_FILES_H_
#define RANKFORGE_RUNTIME_MODEL_FILES_H_

#include <cstddef>
#include <span>
#include <string>

#include "runtime/status.h"

namespace rankforge {

class MappedFile {
 public:
  static Result<MappedFile> Open(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

bool FileExists(const std::string& path);

// The contents of a text file of at most `limit` bytes: a larger one is not
// what the caller believes it to be.
Result<std::string> ReadTextFile(const std::string& path, size_t limit);

// A file that appears under its name only when it is complete: bytes go to a
// temporary file in the same folder, Commit syncs and renames it. Without
// Commit nothing is left behind.
class AtomicFile {
 public:
  static Result<AtomicFile> Create(const std::string& path);
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;

  Status Append(std::span<const std::byte> bytes);
  Status Commit();

 private:
  AtomicFile() = default;
  Status Error(const std::string& action) const;

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FILES_H_
