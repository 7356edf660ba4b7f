// Output files appear whole or not at all.
#ifndef RANKFORGE_BASE_ATOMIC_FILE_H_
#define RANKFORGE_BASE_ATOMIC_FILE_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace rankforge {

// Eight letters and digits that no other file is likely to have in its name.
std::string RandomName();

// A file that appears under its name only when it is complete: bytes go to a
// temporary file in the same folder, Commit syncs and renames it. Without
// Commit nothing stays.
class AtomicFile {
 public:
  static Result<AtomicFile> Create(const std::string& path);
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;

  Status Append(std::span<const std::byte> bytes);
  // Writes over bytes at `offset` that were appended before: for a header whose
  // values are known last.
  Status Overwrite(size_t offset, std::span<const std::byte> bytes);
  Status Commit();

 private:
  AtomicFile() = default;
  Status Error(const std::string& action) const;

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  size_t size_ = 0;  // appended so far
};

// Writes `contents` to `path` in this way.
Status WriteFileAtomically(const std::string& path, std::string_view contents);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_ATOMIC_FILE_H_
