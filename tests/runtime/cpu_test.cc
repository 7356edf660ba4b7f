#include "runtime/table/cpu.h"

#include <gtest/gtest.h>

#include "kernels/registry.h"

namespace rankforge {
namespace {

TEST(CpuTest, DetectsThisCpu) {
  const CpuInfo cpu = CpuInfo::Detect();
  EXPECT_FALSE(cpu.vendor.empty());
  EXPECT_GT(cpu.family, 0);
  EXPECT_GE(cpu.cores, 1u);
  EXPECT_EQ(cpu.targets, Registry::Get().targets());
  // Caches may be hidden by a hypervisor, but never shrink outwards.
  if (cpu.l1d_bytes > 0 && cpu.l2_bytes > 0) {
    EXPECT_LE(cpu.l1d_bytes, cpu.l2_bytes);
  }
}

CpuInfo SomeCpu() {
  CpuInfo cpu;
  cpu.vendor = "AuthenticAMD";
  cpu.family = 25;
  cpu.model = 1;
  cpu.stepping = 1;
  cpu.microcode = "0x1";
  cpu.brand = "EPYC";
  cpu.targets = {"AVX2", "SSE4"};
  cpu.l1d_bytes = 32768;
  cpu.l2_bytes = 524288;
  cpu.l3_bytes = 33554432;
  cpu.cores = 2;
  return cpu;
}

// Where `change` makes the CPU differ: "field breaks match"; "" for nowhere.
template <class Change>
std::string Difference(Change change) {
  CpuInfo other = SomeCpu();
  change(other);
  const std::vector<CpuDifference> differences = Differences(SomeCpu(), other);
  EXPECT_LE(differences.size(), 1u);
  if (differences.empty()) return "";
  const CpuDifference& difference = differences[0];
  EXPECT_EQ(static_cast<int>(MatchOf(differences)),
            static_cast<int>(difference.breaks) - 1);
  return difference.field + " breaks " + std::string(Name(difference.breaks));
}

TEST(CpuTest, EachFieldBreaksTheMatchThatItBelongsTo) {
  EXPECT_EQ(Difference([](CpuInfo&) {}), "");
  EXPECT_EQ(MatchOf({}), Match::kExact);
  const auto expect = [](const std::string& difference, auto change) {
    EXPECT_EQ(Difference(change), difference);
  };
  expect("vendor breaks family", [](CpuInfo& c) { c.vendor = "X"; });
  expect("family breaks family", [](CpuInfo& c) { c.family = 6; });
  expect("targets breaks family", [](CpuInfo& c) { c.targets = {"AVX3"}; });
  expect("targets breaks family", [](CpuInfo& c) { c.targets.clear(); });
  expect("targets breaks exact", [](CpuInfo& c) { c.targets = {"AVX2"}; });
  expect("model breaks compatible", [](CpuInfo& c) { c.model = 17; });
  expect("caches.l1d_bytes breaks compatible",
         [](CpuInfo& c) { c.l1d_bytes = 1; });
  expect("caches.l2_bytes breaks compatible",
         [](CpuInfo& c) { c.l2_bytes = 1; });
  expect("caches.l3_bytes breaks compatible",
         [](CpuInfo& c) { c.l3_bytes = 1; });
  expect("stepping breaks exact", [](CpuInfo& c) { c.stepping = 2; });
  expect("microcode breaks exact", [](CpuInfo& c) { c.microcode = "0x2"; });
  expect("", [](CpuInfo& c) { c.microcode = ""; });  // unknown
  expect("brand breaks exact", [](CpuInfo& c) { c.brand = "EPYC 2"; });
  expect("cores breaks exact", [](CpuInfo& c) { c.cores = 64; });
  expect("hypervisor breaks exact", [](CpuInfo& c) { c.hypervisor = true; });
}

TEST(CpuTest, TheWorstDifferenceDecides) {
  CpuInfo other = SomeCpu();
  other.stepping = 2;
  other.model = 17;
  const std::vector<CpuDifference> differences = Differences(SomeCpu(), other);
  EXPECT_EQ(MatchOf(differences), Match::kFamily);
  EXPECT_EQ(Listed(differences, Match::kCompatible), "model 1, here 17");
  EXPECT_EQ(Listed(differences, Match::kExact, " and "),
            "model 1 and 17; stepping 1 and 2");
}

TEST(CpuTest, DifferencesCarryBothValues) {
  CpuInfo other = SomeCpu();
  other.targets = {"AVX3", "AVX2"};
  const auto differences = Differences(SomeCpu(), other);
  ASSERT_EQ(differences.size(), 1u);
  EXPECT_EQ(differences[0].a, "AVX2,SSE4");
  EXPECT_EQ(differences[0].b, "AVX3,AVX2");
}

}  // namespace
}  // namespace rankforge
