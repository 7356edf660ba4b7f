// Sets of CPUs of any size; quotas of control groups, as both versions write
// them.
#include "base/affinity.h"

#include <gtest/gtest.h>

#include <cerrno>
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

// The system of a machine with so many CPUs, which lets a thread run on two of
// them: the last one and number 3.
CpuSet::Getter MachineOf(size_t machine_cpus) {
  return [=](size_t bytes, cpu_set_t* set) {
    if (bytes * 8 < machine_cpus) {
      errno = EINVAL;
      return -1;
    }
    CPU_SET_S(3, bytes, set);
    CPU_SET_S(machine_cpus - 1, bytes, set);
    return 0;
  };
}

TEST(CpuSetTest, HoldsTheCpusOfLargeMachines) {
  for (const int cpus : {8, 1024, 1025, 4096, 100000}) {
    EXPECT_EQ(CpuSet::Read(MachineOf(static_cast<size_t>(cpus))).cpus(),
              (std::vector<int>{3, cpus - 1}));
  }
  EXPECT_EQ(CpuSet::Of(0).cpus(), std::vector<int>{0});
  EXPECT_EQ(CpuSet::Of(5000).cpus(), std::vector<int>{5000});
}

TEST(CpuSetTest, IsEmptyWhereTheSystemDoesNotTell) {
  const auto refuses = [](int error) {
    return [=](size_t, cpu_set_t*) {
      errno = error;
      return -1;
    };
  };
  EXPECT_TRUE(CpuSet::Read(refuses(EPERM)).cpus().empty());
  EXPECT_TRUE(CpuSet::Read(refuses(EINVAL)).cpus().empty());
}

TEST(UsableThreadsTest, AreUsableCpusAtMost) {
  EXPECT_GE(UsableThreads(), 1u);
  EXPECT_LE(UsableThreads(), UsableCpus().size());
  const PinnedHere pin(UsableCpus().front());
  EXPECT_EQ(UsableThreads(), 1u);
}

}  // namespace
}  // namespace rankforge
