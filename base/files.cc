#include "base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace rankforge {

namespace {

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

Status CannotRead(const std::string& path) {
  return Failed(fmt::format("{}: cannot read: {}; check the path", path,
                            std::strerror(errno)));
}

// Of an open regular file.
Result<FileStamp> StampOf(int descriptor, const std::string& path) {
  struct stat info;
  if (fstat(descriptor, &info) != 0) return CannotRead(path);
  if (!S_ISREG(info.st_mode)) {
    return Failed(fmt::format("{}: not a regular file; check the path", path));
  }
  const auto ns = [](const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return FileStamp{info.st_dev, info.st_ino,
                   static_cast<uint64_t>(info.st_size), ns(info.st_mtim),
                   ns(info.st_ctim)};
}

}  // namespace

Result<MappedFile> MappedFile::Open(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return CannotRead(path);
  MappedFile mapped;
  RANKFORGE_ASSIGN_OR_RETURN(mapped.stamp_, StampOf(file.get(), path));
  const auto size = static_cast<size_t>(mapped.stamp_.size);
  if (size == 0) return mapped;  // an empty mapping is an error
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED && errno == ENOMEM) {
    return EnvironmentError(fmt::format(
        "out of memory: {}: its {} bytes find no place; close what is not "
        "needed, or raise the limit of address space (ulimit -v)",
        path, size));
  }
  if (data == MAP_FAILED) return CannotRead(path);
  mapped.mapping_ = Mapping(static_cast<std::byte*>(data), {size});
  return mapped;
}

void MappedFile::ExpectSparseReads(bool sparse) const {
  if (!mapping_) return;
  // Advice: where it is not taken, reading is slower.
  static_cast<void>(madvise(mapping_.get(), bytes().size(),
                            sparse ? MADV_RANDOM : MADV_NORMAL));
}

void MappedFile::ReleasePages() const {
  if (!mapping_) return;
  static_cast<void>(madvise(mapping_.get(), bytes().size(), MADV_DONTNEED));
}

void ReleaseMappedPages(std::span<const std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + bytes.size()) / page * page;
  if (first >= last) return;
  static_cast<void>(
      madvise(reinterpret_cast<void*>(first),  // NOLINT: of whole pages
              last - first, MADV_DONTNEED));
}

bool FileExists(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

Result<std::string> ReadTextFile(const std::string& path, size_t limit) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return CannotRead(path);
  std::string text;
  std::array<char, size_t{1} << 16> buffer;
  for (;;) {
    const ssize_t count = read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotRead(path);
    if (count == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(count));
    if (text.size() > limit) {
      return Failed(fmt::format(
          "{}: more than the {} bytes that such a file may have; check the "
          "path",
          path, limit));
    }
  }
}

}  // namespace rankforge
