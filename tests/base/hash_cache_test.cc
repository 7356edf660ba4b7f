// A hash is computed once for the same files, and again for others.
#include "base/hash_cache.h"

#include <gtest/gtest.h>

#include <chrono>
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

  // The hash of these files, where computing it now would give this digit.
  static std::string Hash(const std::vector<FileStamp>& files, char digit) {
    return RememberedHash(files, [&] { return std::string(32, digit); });
  }
  static std::string Digits(char digit) { return std::string(32, digit); }

  const fs::path folder_ = testing::TempDir() + "hash_cache_test";
};

TEST_F(HashCacheTest, IsComputedOnceForTheSameStamps) {
  const FileStamp stamp = {1, 2, 3, 4, 5};
  EXPECT_EQ(Hash({stamp}, '1'), Digits('1'));
  EXPECT_EQ(Hash({stamp}, '2'), Digits('1'));
  EXPECT_EQ(Hash({stamp, stamp}, '4'), Digits('4'));
  for (const FileStamp& other :
       {FileStamp{9, 2, 3, 4, 5}, FileStamp{1, 9, 3, 4, 5},
        FileStamp{1, 2, 9, 4, 5}, FileStamp{1, 2, 3, 9, 5},
        FileStamp{1, 2, 3, 4, 9}}) {
    EXPECT_EQ(Hash({other}, '5'), Digits('5'));
  }
}

TEST_F(HashCacheTest, ADamagedEntryIsWrittenAnew) {
  const FileStamp stamp = {1, 2, 3, 4, 5};
  Hash({stamp}, '1');
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (!entry.is_regular_file()) continue;
    // The key without its hash.
    fs::resize_file(entry.path(), fs::file_size(entry.path()) - 32);
  }
  EXPECT_EQ(Hash({stamp}, '2'), Digits('2'));
  EXPECT_EQ(Hash({stamp}, '3'), Digits('2'));
}

// Another change may leave the stamp as it is.
TEST_F(HashCacheTest, FilesThatHaveJustChangedAreNotRemembered) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  FileStamp stamp = {1, 2, 3, 4, 5};
  stamp.changed_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  EXPECT_EQ(Hash({stamp}, '1'), Digits('1'));
  EXPECT_EQ(Hash({stamp}, '2'), Digits('2'));
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}, stamp}, '3'), Digits('3'));
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}, stamp}, '4'), Digits('4'));
  stamp.changed_ns -= 1'000'000'000;
  EXPECT_EQ(Hash({stamp}, '5'), Digits('5'));
  EXPECT_EQ(Hash({stamp}, '6'), Digits('5'));
}

TEST_F(HashCacheTest, WithoutAFolderEveryRunComputes) {
  setenv("XDG_CACHE_HOME", "/proc/nothing", 1);
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}}, '1'), Digits('1'));
  EXPECT_EQ(Hash({{1, 2, 3, 4, 5}}, '2'), Digits('2'));
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
