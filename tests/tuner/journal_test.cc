#include "tuner/journal.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace rankforge {
namespace {

class JournalTest : public testing::Test {
 protected:
  JournalTest()
      : path_(testing::TempDir() + "journal_test." +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove(path_);
    header_.cpu.vendor = "TestCpu";
    header_.registry_hash = 42;
    header_.rigor = "measure";
  }
  ~JournalTest() override { std::filesystem::remove(path_); }

  void Append(const std::string& text) {
    std::ofstream(path_, std::ios::app) << text;
  }

  const std::string path_;
  JournalHeader header_;
  const TrialRecord trial_ = {"hwy/AVX2/a", "in_out", 2, 0.52, {123.5}};
};

TEST_F(JournalTest, TrialsComeBack) {
  {
    Result<Journal> journal = Journal::Open(path_, header_, false);
    ASSERT_TRUE(journal.ok()) << journal.status().message();
    journal->WriteTrial("w", trial_);
    journal->WriteDrop("w", trial_, 3, 1.7);
    journal->WriteRejection("w", "b", "in_out", "wrong");
    journal->WriteFinished("w");
    journal->WriteTrial("v", trial_);
  }
  const Result<Journal> journal = Journal::Open(path_, header_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  ASSERT_EQ(journal->Trials("w").size(), 1u);
  const TrialRecord& trial = journal->Trials("w")[0];
  EXPECT_EQ(trial.variant, trial_.variant);
  EXPECT_EQ(trial.layout, trial_.layout);
  EXPECT_EQ(trial.threads, 2u);
  EXPECT_EQ(trial.density, 0.52);
  EXPECT_EQ(trial.sample.ns, 123.5);
  EXPECT_TRUE(journal->IsFinished("w"));
  EXPECT_FALSE(journal->IsFinished("v"));
  EXPECT_TRUE(journal->Trials("nowhere").empty());
}

TEST_F(JournalTest, EveryTrialIsOnDiskAtOnce) {
  Result<Journal> journal = Journal::Open(path_, header_, false);
  journal->WriteTrial("w", trial_);
  const Result<Journal> reader = Journal::Open(path_, header_, true);
  EXPECT_EQ(reader->Trials("w").size(), 1u);
}

TEST_F(JournalTest, HalfALineIsForgotten) {
  {
    Result<Journal> journal = Journal::Open(path_, header_, false);
    journal->WriteTrial("w", trial_);
  }
  Append(R"({"event":"trial","workload":"w","vari)");
  {
    Result<Journal> journal = Journal::Open(path_, header_, true);
    ASSERT_TRUE(journal.ok()) << journal.status().message();
    EXPECT_EQ(journal->Trials("w").size(), 1u);
    journal->WriteTrial("w", trial_);
  }
  EXPECT_EQ(Journal::Open(path_, header_, true)->Trials("w").size(), 2u);
}

TEST_F(JournalTest, DiscardedTrialsDoNotCount) {
  {
    Result<Journal> journal = Journal::Open(path_, header_, false);
    journal->WriteTrial("w", trial_);
    journal->WriteDiscard("w");
  }
  EXPECT_TRUE(Journal::Open(path_, header_, true)->Trials("w").empty());
}

TEST_F(JournalTest, AnotherCpuBuildOrRigorIsRefused) {
  ASSERT_TRUE(Journal::Open(path_, header_, false).ok());
  JournalHeader other = header_;
  other.registry_hash = 43;
  EXPECT_FALSE(Journal::Open(path_, other, true).ok());
  other = header_;
  other.cpu.model = 5;
  EXPECT_FALSE(Journal::Open(path_, other, true).ok());
  other = header_;
  other.rigor = "patient";
  const Result<Journal> refused = Journal::Open(path_, other, true);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find(path_), std::string::npos);
  EXPECT_NE(refused.status().message().find("--resume"), std::string::npos);
  // Without resuming it starts anew.
  EXPECT_TRUE(Journal::Open(path_, other, false).ok());
}

TEST_F(JournalTest, OtherFilesAreRefused) {
  Append("a shopping list\n");
  EXPECT_FALSE(Journal::Open(path_, header_, true).ok());
  ASSERT_TRUE(Journal::Open(path_, header_, false).ok());
  Append("{\"event\":\"trial\"}\n");
  EXPECT_FALSE(Journal::Open(path_, header_, true).ok());
}

TEST_F(JournalTest, AnUnwritablePathIsAnError) {
  const Result<Journal> journal =
      Journal::Open("/nonexistent/folder/journal", header_, false);
  ASSERT_FALSE(journal.ok());
  EXPECT_NE(journal.status().message().find("/nonexistent/folder/journal"),
            std::string::npos);
}

TEST_F(JournalTest, WithoutAPathNothingIsKept) {
  Result<Journal> journal = Journal::Open("", header_, true);
  ASSERT_TRUE(journal.ok());
  journal->WriteTrial("w", trial_);
  EXPECT_TRUE(journal->Trials("w").empty());
}

}  // namespace
}  // namespace rankforge
