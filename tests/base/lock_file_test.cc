// One process at a time, and no trace of those that ended.
#include "base/lock_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

namespace rankforge {
namespace {

class LockFileTest : public testing::Test {
 protected:
  const std::string output_ = testing::TempDir() + "lock_file_test.out";
  ~LockFileTest() override { std::filesystem::remove(output_ + ".lock"); }
};

TEST_F(LockFileTest, OneHolderAtATime) {
  {
    const Result<LockFile> first = LockFile::Take(output_);
    ASSERT_TRUE(first.ok());
    const Result<LockFile> second = LockFile::Take(output_);
    ASSERT_FALSE(second.ok());
    EXPECT_NE(second.status().message().find(output_ + ".lock"),
              std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(output_ + ".lock"));
  EXPECT_TRUE(LockFile::Take(output_).ok());
}

TEST_F(LockFileTest, AKilledHolderKeepsNobodyOut) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Result<LockFile> lock = LockFile::Take(output_);
    const char held = lock.ok() ? 'y' : 'n';
    static_cast<void>(!write(ready[1], &held, 1));
    for (;;) pause();
  }
  char held = 0;
  ASSERT_EQ(read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 'y');
  EXPECT_FALSE(LockFile::Take(output_).ok());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(output_ + ".lock"));
  EXPECT_TRUE(LockFile::Take(output_).ok());
}

TEST_F(LockFileTest, AFolderThatIsNotThereIsAnError) {
  EXPECT_FALSE(LockFile::Take("/nonexistent/folder/x").ok());
}

}  // namespace
}  // namespace rankforge
