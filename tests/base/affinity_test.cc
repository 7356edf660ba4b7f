// Quotas of control groups, as both versions write them.
#include "base/affinity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

class CpuQuotaTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(root_); }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  double Quota(const std::string& groups) const {
    return CpuQuota(groups, root_.string());
  }

  const fs::path root_ = testing::TempDir() + "affinity_test";
};

TEST_F(CpuQuotaTest, VersionTwo) {
  EXPECT_EQ(Quota("0::/a/b\n"), INFINITY);
  Write("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(Quota("0::/a/b\n"), INFINITY);
  Write("a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(Quota("0::/a/b\n"), 1.5);
  // The least of the group and its ancestors.
  Write("a/cpu.max", "50000 100000\n");
  EXPECT_EQ(Quota("0::/a/b\n"), 0.5);
  EXPECT_EQ(Quota("0::/\n"), INFINITY);
}

TEST_F(CpuQuotaTest, VersionOne) {
  const std::string groups = "5:memory:/m\n4:cpu,cpuacct:/a\n0::/unified\n";
  Write("m/cpu.cfs_quota_us", "1\n");
  Write("m/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(groups), INFINITY);
  Write("cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
  Write("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(groups), INFINITY);
  Write("cpu,cpuacct/a/cpu.cfs_quota_us", "200000\n");
  EXPECT_EQ(Quota(groups), 2);
  // A container that sees its own group as the root.
  Write("cpu/cpu.cfs_quota_us", "100000\n");
  Write("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(groups), 1);
}

TEST_F(CpuQuotaTest, AGroupOutsideHasTheQuotaOfTheRoot) {
  Write("cpu.max", "100000 100000\n");
  EXPECT_EQ(Quota("0::/../x\n"), 1);
}

TEST_F(CpuQuotaTest, DamagedTextIsNoQuota) {
  Write("a/cpu.max", "x y\n");
  Write("cpu.max", "5\n");
  for (const char* groups : {"", "::", ":", "0::/a", "0::/../..", "x"}) {
    EXPECT_EQ(Quota(groups), INFINITY) << groups;
  }
}

TEST(UsableThreadsTest, AreUsableCpusAtMost) {
  EXPECT_GE(UsableThreads(), 1u);
  EXPECT_LE(UsableThreads(), UsableCpus().size());
  const PinnedHere pin(UsableCpus().front());
  EXPECT_EQ(UsableThreads(), 1u);
}

}  // namespace
}  // namespace rankforge
