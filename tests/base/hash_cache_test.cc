// A hash is computed once for the same files, and again for others.
#include "base/hash_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

class HashCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  }
  void TearDown() override {
    fs::remove_all(folder_);
    unsetenv("XDG_CACHE_HOME");
  }

  // The hash of these files, where computing it now would give `value`.
  static std::string Hash(const std::vector<FileStamp>& files,
                          const std::string& value) {
    return RememberedHash(files, [&] { return value; });
  }

  const fs::path folder_ = testing::TempDir() + "hash_cache_test";
};

TEST_F(HashCacheTest, IsComputedOnceForTheSameStamps) {
  const FileStamp stamp = {1, 2, 3, 4, 5};
  EXPECT_EQ(Hash({stamp}, "first"), "first");
  EXPECT_EQ(Hash({stamp}, "second"), "first");
  EXPECT_EQ(Hash({stamp, stamp}, "two"), "two");
  for (const FileStamp& other :
       {FileStamp{9, 2, 3, 4, 5}, FileStamp{1, 9, 3, 4, 5},
        FileStamp{1, 2, 9, 4, 5}, FileStamp{1, 2, 3, 9, 5},
        FileStamp{1, 2, 3, 4, 9}}) {
    EXPECT_EQ(Hash({other}, "other"), "other");
  }
}

TEST_F(HashCacheTest, ADamagedEntryIsWrittenAnew) {
  const FileStamp stamp = {1, 2, 3, 4, 5};
  Hash({stamp}, "first");
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (entry.is_regular_file()) std::ofstream(entry.path()) << "x";
  }
  EXPECT_EQ(Hash({stamp}, "second"), "second");
  EXPECT_EQ(Hash({stamp}, "third"), "second");
}

TEST_F(HashCacheTest, WithoutAFolderEveryRunComputes) {
  setenv("XDG_CACHE_HOME", "/proc/nothing", 1);
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}}, "first"), "first");
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}}, "second"), "second");
}

TEST(FileStampTest, ChangesWithTheContents) {
  const std::string path = testing::TempDir() + "hash_cache_test.file";
  const auto stamp = [&] { return MappedFile::Open(path)->stamp(); };
  std::ofstream(path) << "abc";
  const FileStamp first = stamp();
  EXPECT_EQ(first.size, 3u);
  EXPECT_EQ(stamp().inode, first.inode);
  EXPECT_EQ(stamp().changed_ns, first.changed_ns);
  fs::last_write_time(
      path, fs::file_time_type::clock::now() + std::chrono::seconds(10));
  EXPECT_NE(stamp().modified_ns, first.modified_ns);
  fs::remove(path);
}

}  // namespace
}  // namespace rankforge
