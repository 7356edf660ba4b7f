// Files appear whole or not at all, and nothing is left beside them.
#include "base/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class AtomicFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = testing::TempDir() + "atomic-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }
  // Names of all that lies in the folder.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    return names;
  }
  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path folder_;
};

TEST_F(AtomicFileTest, AnEmptyNameIsRefusedBeforeAnyWork) {
  EXPECT_FALSE(AtomicFile::Create("").ok());
}

TEST_F(AtomicFileTest, AppearsWhenItIsCommitted) {
  Result<AtomicFile> file = AtomicFile::Create(Path("a"));
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->Append(Bytes("....")).ok());
  ASSERT_TRUE(file->Append(Bytes("five")).ok());
  ASSERT_TRUE(file->Overwrite(0, Bytes("four")).ok());
  EXPECT_FALSE(fs::exists(Path("a")));
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(Contents(Path("a")), "fourfive");
  EXPECT_EQ(Names(), std::vector<std::string>{"a"});
}

TEST_F(AtomicFileTest, ReplacesTheFileOfThatName) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "the first, longer text").ok());
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "second").ok());
  EXPECT_EQ(Contents(Path("a")), "second");
  EXPECT_EQ(Names().size(), 1u);
}

TEST_F(AtomicFileTest, WithoutCommitNothingIsLeft) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "kept").ok());
  {
    Result<AtomicFile> file = AtomicFile::Create(Path("a"));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(Bytes("lost")).ok());
    EXPECT_EQ(Names().size(), 2u);
  }
  EXPECT_EQ(Names().size(), 1u);
  EXPECT_EQ(Contents(Path("a")), "kept");
}

TEST_F(AtomicFileTest, AMovedFileIsFinishedByItsNewOwner) {
  Result<AtomicFile> first = AtomicFile::Create(Path("a"));
  Result<AtomicFile> second = AtomicFile::Create(Path("b"));
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(first->Append(Bytes("one")).ok());
  {
    AtomicFile moved = std::move(*first);
    ASSERT_TRUE(moved.Append(Bytes(" two")).ok());
    *second = std::move(moved);  // drops b
  }
  ASSERT_TRUE(second->Commit().ok());
  EXPECT_EQ(Contents(Path("a")), "one two");
  EXPECT_EQ(Names().size(), 1u);
}

TEST_F(AtomicFileTest, FailsAtOnceWhereNoFileCanBe) {
  fs::create_directory(Path("folder"));
  for (const std::string& path :
       {Path("folder"), Path("missing/a"), std::string("/dev/null")}) {
    const Result<AtomicFile> file = AtomicFile::Create(path);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_NE(file.status().message().find(path), std::string::npos);
  }
  EXPECT_EQ(Names().size(), 1u);
}

TEST_F(AtomicFileTest, AFailedRenameLeavesNothing) {
  {
    Result<AtomicFile> file = AtomicFile::Create(Path("a"));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(Bytes("text")).ok());
    fs::create_directory(Path("a"));  // another program was quicker
    const Status status = file->Commit();
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.message().find("cannot rename"), std::string::npos);
  }
  EXPECT_EQ(Names().size(), 1u);
  EXPECT_TRUE(fs::is_directory(Path("a")));
}

// A limit on the size of files stands for a full disk: write() takes a part and
// then fails in the same way.
TEST_F(AtomicFileTest, AFullDiskLeavesTheOldFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old").ok());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limited = before;
  limited.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  const Status status = WriteFileAtomically(Path("a"), std::string(1000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("cannot write"), std::string::npos);
  EXPECT_EQ(Contents(Path("a")), "old");
  EXPECT_EQ(Names().size(), 1u);
}

TEST_F(AtomicFileTest, HasThePermissionsOfAnyOtherFile) {
  const mode_t mask = umask(027);
  const Status status = WriteFileAtomically(Path("a"), "text");
  umask(mask);
  ASSERT_TRUE(status.ok());
  struct stat info;
  ASSERT_EQ(stat(Path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

}  // namespace
}  // namespace rankforge
