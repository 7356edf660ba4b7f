#include "runtime/model/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
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

// The size of an open regular file.
Result<size_t> SizeOf(int descriptor, const std::string& path) {
  struct stat info;
  if (fstat(descriptor, &info) != 0) return CannotRead(path);
  if (!S_ISREG(info.st_mode)) {
    return Failed(fmt::format("{}: not a regular file; check the path", path));
  }
  return static_cast<size_t>(info.st_size);
}

}  // namespace

Result<MappedFile> MappedFile::Open(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return CannotRead(path);
  RANKFORGE_ASSIGN_OR_RETURN(const size_t size, SizeOf(file.get(), path));
  MappedFile mapped;
  if (size == 0) return mapped;  // an empty mapping is an error
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return CannotRead(path);
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

bool FileExists(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

Result<std::string> ReadTextFile(const std::string& path, size_t limit) {
  RANKFORGE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > limit) {
    return Failed(fmt::format(
        "{}: {} bytes, more than the {} that such a file may have; check the "
        "path",
        path, bytes.size(), limit));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Status AtomicFile::Error(const std::string& action) const {
  return Failed(
      fmt::format("{}: cannot {}: {}; choose a folder that exists, is writable "
                  "and has room",
                  path_, action, std::strerror(errno)));
}

Result<AtomicFile> AtomicFile::Create(const std::string& path) {
  AtomicFile file;
  file.path_ = path;
  // Renaming onto a directory would fail only after all the work is done.
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    errno = EISDIR;
    return file.Error("write");
  }
  std::string temporary = path + ".XXXXXX";
  file.descriptor_ = mkostemp(temporary.data(), O_CLOEXEC);
  if (file.descriptor_ < 0) return file.Error("create");
  file.temporary_ = std::move(temporary);
  // mkostemp makes a file for its owner alone; give it what open() would.
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(file.descriptor_, 0666 & ~mask) != 0) return file.Error("create");
  return file;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Status AtomicFile::Append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status AtomicFile::Commit() {
  if (fsync(descriptor_) != 0) return Error("sync");
  if (close(std::exchange(descriptor_, -1)) != 0) return Error("close");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Error("rename");
  temporary_.clear();
  // The rename itself is on disk once the folder is; not every file system
  // lets folders be synced, and the data is safe either way.
  const std::filesystem::path folder =
      std::filesystem::path(path_).parent_path();
  const Descriptor directory(open(folder.empty() ? "." : folder.c_str(),
                                  O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) fsync(directory.get());
  return {};
}

}  // namespace rankforge
