#include "base/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

namespace rankforge {

std::string RandomName() {
  std::random_device random;
  return fmt::format("{:08x}", static_cast<uint32_t>(random()));
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
  if (path.empty()) return UsageError("the name of the file to write is empty");
  // Renaming onto a folder would fail only after all the work is done. Renaming
  // onto a device would replace it.
  struct stat existing;
  if (stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode)) {
    errno = S_ISDIR(existing.st_mode) ? EISDIR : EINVAL;
    return file.Error("write");
  }
  std::string temporary = path + "." + RandomName();
  // By open and not by mkostemp: the file gets the permissions that it is to
  // have. To ask for the umask is to change it, for the whole process.
  while ((file.descriptor_ = open(
              temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) <
         0) {
    if (errno != EEXIST) return file.Error("create");
    temporary = path + "." + RandomName();
  }
  file.temporary_ = std::move(temporary);
  return file;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

Status AtomicFile::Append(std::span<const std::byte> bytes) {
  RANKFORGE_RETURN_IF_ERROR(Overwrite(size_, bytes));
  size_ += bytes.size();
  return {};
}

Status AtomicFile::Overwrite(size_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(),
                                   static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("write");
    offset += static_cast<size_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status AtomicFile::Commit() {
  if (fsync(descriptor_) != 0) return Error("sync");
  if (close(std::exchange(descriptor_, -1)) != 0) return Error("close");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Error("rename");
  temporary_.clear();
  // The rename is on disk when the folder is. Some file systems do not sync
  // folders; the data is safe on those, too.
  const std::filesystem::path folder =
      std::filesystem::path(path_).parent_path();
  const int directory = open(folder.empty() ? "." : folder.c_str(),
                             O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return {};
  fsync(directory);
  close(directory);
  return {};
}

Status WriteFileAtomically(const std::string& path, std::string_view contents) {
  RANKFORGE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RANKFORGE_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(contents))));
  return file.Commit();
}

}  // namespace rankforge
