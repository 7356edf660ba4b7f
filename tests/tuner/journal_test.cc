#include "tuner/search/journal.h"

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
  }
  ~JournalTest() override { std::filesystem::remove(path_); }

  void Append(const std::string& text) {
    std::ofstream(path_, std::ios::app) << text;
  }

  const std::string path_;
  JournalHeader header_;
  const TrialRecord trial_ = {
      {"hwy/AVX2/a", 0xfedcba9876543210, "in_out", 2}, 0.52, {123.5}};
};

TEST_F(JournalTest, TrialsComeBack) {
  {
    Result<Journal> journal = Journal::Open(path_, header_, false);
    ASSERT_TRUE(journal.ok()) << journal.status().message();
    journal->WriteTrial("w", trial_);
    journal->WriteDrop("w", trial_.candidate, 0.52, 3, 1.7);
    journal->WriteRejection("w", "b", "in_out", "wrong");
    journal->WriteFinished("w", "all");
    journal->WriteTrial("v", trial_);
  }
  const Result<Journal> journal = Journal::Open(path_, header_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  ASSERT_EQ(journal->Trials("w").size(), 1u);
  const TrialRecord& trial = journal->Trials("w")[0];
  EXPECT_EQ(trial.candidate, trial_.candidate);
  EXPECT_EQ(trial.density, 0.52);
  EXPECT_EQ(trial.sample.ns, 123.5);
  EXPECT_TRUE(journal->IsFinished("w", "all"));
  EXPECT_FALSE(journal->IsFinished("w", "more"));
  EXPECT_FALSE(journal->IsFinished("v", "all"));
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

// What took 123.5 ns takes 10 % more now, and the anchor is measured again.
TEST_F(JournalTest, DriftAndAnchorsAreReplayed) {
  TrialRecord other = trial_;
  other.candidate.threads = 1;
  {
    Result<Journal> journal = Journal::Open(path_, header_, false);
    journal->WriteTrial("w", trial_);
    journal->WriteTrial("w", other);
    journal->WriteTrial("v", other);
    journal->WriteDrift("w", 1.1);
    journal->WriteAnchor("w", trial_.candidate);
    journal->WriteRefusal("w", trial_.candidate, 0.52);
  }
  const Result<Journal> journal = Journal::Open(path_, header_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  ASSERT_EQ(journal->Trials("w").size(), 1u);
  EXPECT_EQ(journal->Trials("w")[0].candidate.threads, 1u);
  EXPECT_NEAR(journal->Trials("w")[0].sample.ns, 123.5 * 1.1, 1e-9);
  EXPECT_EQ(journal->Trials("v")[0].sample.ns, 123.5);
}

TEST_F(JournalTest, AnotherCpuOrPlaceOfWeightsIsRefused) {
  ASSERT_TRUE(Journal::Open(path_, header_, false).ok());
  JournalHeader other = header_;
  other.cpu.model = 5;
  EXPECT_FALSE(Journal::Open(path_, other, true).ok());
  other = header_;
  other.cold = false;
  const Result<Journal> refused = Journal::Open(path_, other, true);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find(path_), std::string::npos);
  EXPECT_NE(refused.status().message().find("--resume"), std::string::npos);
  // Without resuming it starts anew.
  EXPECT_TRUE(Journal::Open(path_, other, false).ok());
}

// Killed before the first line was written.
TEST_F(JournalTest, AnEmptyFileIsANewJournal) {
  Append("");
  Result<Journal> journal = Journal::Open(path_, header_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  journal->WriteTrial("w", trial_);
  EXPECT_EQ(Journal::Open(path_, header_, true)->Trials("w").size(), 1u);
}

TEST_F(JournalTest, TimesThatAreNoneDoNotCount) {
  ASSERT_TRUE(Journal::Open(path_, header_, false).ok());
  for (const char* ns : {"0", "-5", "1e999"}) {
    Append(std::string(R"({"event":"trial","workload":"w","variant":"a",)") +
           R"("spec":"0","layout":"in_out","threads":1,"density":1,"ns":)" +
           ns + "}\n");
  }
  const Result<Journal> journal = Journal::Open(path_, header_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  EXPECT_TRUE(journal->Trials("w").empty());
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
