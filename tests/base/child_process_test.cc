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

TEST(RunChildTest, ReadsItsInput) {
  const Result<ChildResult> child = RunChild({"cat"}, {.input = "a\nb"});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->output, "a\nb");
}

// More of each than a pipe holds, in turn: reading one stream to its end first
// would wait for ever.
TEST(RunChildTest, KeepsStreamsApart) {
  const Result<ChildResult> child =
      RunChild({"sh", "-c",
                "i=0; while [ $i -lt 20000 ]; do echo 0123456789abcdef; "
                "echo fedcba9876543210 >&2; i=$((i+1)); done; exit 3"},
               {.errors_apart = true});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->exit_code, 3);
  EXPECT_EQ(child->output.size(), 20000u * 17);
  EXPECT_EQ(child->errors.size(), 20000u * 17);
  EXPECT_EQ(child->output.find("fed"), std::string::npos);
  EXPECT_EQ(child->errors.find("012"), std::string::npos);
}

TEST(RunChildTest, EndsAChildThatWritesTooMuch) {
  for (const std::string script :
       {"exec yes", "exec yes >&2",
        "trap '' PIPE TERM; while :; do echo a; done"}) {
    const Result<ChildResult> child = RunChild(
        {"sh", "-c", script}, {.errors_apart = true, .most_bytes = 100'000});
    ASSERT_FALSE(child.ok()) << script;
    EXPECT_NE(child.status().message().find("100000"), std::string::npos);
  }
  const Result<ChildResult> child =
      RunChild({"printf", "%100d", "1"}, {.most_bytes = 100});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->output.size(), 100u);
}

TEST(RunChildTest, EndsAChildWhenItIsCancelled) {
  const Result<ChildResult> child =
      RunChild({"sleep", "600"}, {.cancelled = [] { return true; }});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->exit_code, 128 + 15);
  const Result<ChildResult> other =
      RunChild({"echo", "a"}, {.cancelled = [] { return false; }});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->output, "a\n");
}

// One that ignores SIGTERM and goes on writing would fill its pipe and wait.
TEST(RunChildTest, EndsACancelledChildThatWritesOn) {
  const Result<ChildResult> child =
      RunChild({"sh", "-c", "trap '' TERM; while :; do echo aaaaaaaa; done"},
               {.cancelled = [] { return true; }});
  ASSERT_TRUE(child.ok());
  EXPECT_NE(child->exit_code, 0);
  const Result<ChildResult> silent =
      RunChild({"sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"},
               {.cancelled = [] { return true; }});
  ASSERT_TRUE(silent.ok());
  EXPECT_EQ(silent->exit_code, 128 + 9);
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

TEST(LastLineTest, IsTheLastOneThatSaysSomething) {
  EXPECT_EQ(LastLine(""), "");
  EXPECT_EQ(LastLine("\n\n"), "");
  EXPECT_EQ(LastLine("a"), "a");
  EXPECT_EQ(LastLine("a\nb\n\n"), "b");
}

}  // namespace
}  // namespace rankforge
