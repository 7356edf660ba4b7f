// What a child says and how it ends reaches the caller.
#include "base/child_process.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace rankforge {
namespace {

Result<ChildResult> Shell(const std::string& script) {
  return RunChild({"sh", "-c", script});
}

TEST(RunChildTest, ReturnsTheExitCode) {
  for (const int code : {0, 1, 7, 255}) {
    const Result<ChildResult> child = Shell("exit " + std::to_string(code));
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(child->exit_code, code);
    EXPECT_EQ(child->output, "");
  }
}

TEST(RunChildTest, ReturnsTheSignalThatEndedIt) {
  for (const int signal : {9, 15}) {
    const Result<ChildResult> child =
        Shell("kill -" + std::to_string(signal) + " $$");
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(child->exit_code, 128 + signal);
  }
}

TEST(RunChildTest, CollectsBothStreamsInOrder) {
  const Result<ChildResult> child = Shell("echo a; echo b >&2; echo c");
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->output, "a\nb\nc\n");
}

// More than a pipe holds: the child would wait for ever if nobody read.
TEST(RunChildTest, CollectsMoreThanAPipeHolds) {
  const Result<ChildResult> child = Shell(
      "i=0; while [ $i -lt 20000 ]; do echo 0123456789abcdef; "
      "i=$((i+1)); done");
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->output.size(), 20000u * 17);
}

TEST(RunChildTest, AMissingProgramIsAnError) {
  for (const std::string program :
       {"rankforge-no-such-program", "/no/such/program", ""}) {
    const Result<ChildResult> child = RunChild({program});
    ASSERT_FALSE(child.ok()) << program;
    EXPECT_NE(child.status().message().find("cannot run"), std::string::npos);
  }
}

TEST(RunChildTest, WordsReachItAsTheyAre) {
  const Result<ChildResult> child =
      RunChild({"printf", "%s|", "a b", "$HOME", "*", "", "'\""});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->output, "a b|$HOME|*||'\"|");
}

TEST(RunChildTest, StandardInputIsEmpty) {
  const Result<ChildResult> child = RunChild({"cat"});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->exit_code, 0);
  EXPECT_EQ(child->output, "");
}

TEST(RunChildTest, SeveralThreadsMay) {
  std::vector<std::string> outputs(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < outputs.size(); ++i) {
    threads.emplace_back([&outputs, i] {
      const auto child = Shell("sleep 0.05; echo " + std::to_string(i));
      if (child.ok()) outputs[i] = child->output;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(outputs[i], std::to_string(i) + "\n");
  }
}

}  // namespace
}  // namespace rankforge
