#include "base/hash_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/atomic_file.h"
#include "base/content_hash.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

// Empty: there is none.
std::string CacheFolder() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') {
    return std::string(cache) + "/rankforge";
  }
  const char* const home = std::getenv("HOME");
  std::error_code error;
  if (home == nullptr || home[0] != '/' || !fs::is_directory(home, error)) {
    return "";
  }
  return std::string(home) + "/.cache/rankforge";
}

// Whether it is what ContentHash::Digest returns.
bool IsDigest(std::string_view text) {
  return text.size() == 32 &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Which files these are, whatever they hold.
std::string NameOf(std::span<const FileStamp> files) {
  std::string name;
  for (const FileStamp& file : files) {
    name += fmt::format("{}:{}\n", file.device, file.inode);
  }
  return HashBytes(std::as_bytes(std::span(name))) + ".hash";
}

// What tells these files, as they are now, from all others.
std::string KeyOf(std::span<const FileStamp> files) {
  std::string key = "rankforge hash 1\n";  // 2: where ContentHash changes
  for (const FileStamp& file : files) {
    key += fmt::format("{}:{} {} {} {}\n", file.device, file.inode, file.size,
                       file.modified_ns, file.changed_ns);
  }
  return key;
}

// Whether another change would give the files other stamps: clocks of file
// systems go in steps of some ms.
bool AreSettled(std::span<const FileStamp> files) {
  constexpr int64_t kStepNs = 100'000'000;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t now_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  return std::ranges::all_of(files, [&](const FileStamp& file) {
    return file.changed_ns < now_ns - kStepNs;
  });
}

}  // namespace

std::string RememberedHash(std::span<const FileStamp> files,
                           const std::function<std::string()>& compute) {
  const std::string folder = CacheFolder();
  if (folder.empty()) return compute();
  const std::string key = KeyOf(files);
  const std::string path = folder + "/" + NameOf(files);
  constexpr size_t kMostBytes = size_t{1} << 16;
  // The key, then the hash: a file that holds something else is written anew.
  const Result<std::string> known = ReadTextFile(path, kMostBytes);
  if (known.ok() && known->starts_with(key)) {
    std::string hash = known->substr(key.size());
    if (IsDigest(hash)) return hash;
  }
  const bool settled = AreSettled(files);
  std::string hash = compute();
  if (!settled) return hash;
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) {
    static_cast<void>(WriteFileAtomically(path, key + hash));
  }
  return hash;
}

}  // namespace rankforge
