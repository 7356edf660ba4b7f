// Input files as a whole: mapped read-only or read as text.
#ifndef RANKFORGE_BASE_FILES_H_
#define RANKFORGE_BASE_FILES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/mapping.h"
#include "base/status.h"

namespace rankforge {

// What changes when the contents of a file do: which file it is, its size, and
// when its contents and its inode changed, in ns.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;
};

class MappedFile {
 public:
  static Result<MappedFile> Open(const std::string& path);

  // As it was when it was opened.
  const FileStamp& stamp() const { return stamp_; }

  std::span<const std::byte> bytes() const { return BytesOf(mapping_); }
  // Whether the next reads lie far apart. Without this the kernel fetches up to
  // read_ahead_kb around a page that is not in memory (8 MiB on one host).
  // SampledHash of a checkpoint that no cache held took 0.8 s there, and 0.01 s
  // with this.
  void ExpectSparseReads(bool sparse) const;
  // Takes the pages that were read out of the memory of the process. The next
  // read maps them again.
  void ReleasePages() const;

 private:
  MappedFile() = default;
  Mapping mapping_;  // read-only
  FileStamp stamp_;
};

// Takes whole pages of a read-only mapping out of the memory of the process;
// the next read maps them again. `bytes` must lie in such a mapping.
void ReleaseMappedPages(std::span<const std::byte> bytes);

bool FileExists(const std::string& path);

// The contents of a file, or of a pipe up to its end, of at most `limit` bytes:
// a larger one is not what the caller believes it to be.
Result<std::string> ReadTextFile(const std::string& path, size_t limit);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_FILES_H_
