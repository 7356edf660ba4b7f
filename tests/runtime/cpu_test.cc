#include "runtime/cpu.h"

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
  cpu.brand = "EPYC";
  cpu.targets = {"AVX2", "SSE4"};
  cpu.l1d_bytes = 32768;
  cpu.l2_bytes = 524288;
  cpu.l3_bytes = 33554432;
  cpu.cores = 2;
  return cpu;
}

// The one field in which `change` makes the CPU differ; "" for none.
template <class Change>
std::string Difference(Change change) {
  CpuInfo other = SomeCpu();
  change(other);
  const std::vector<CpuDifference> differences =
      CompatibilityDifferences(SomeCpu(), other);
  EXPECT_LE(differences.size(), 1u);
  return differences.empty() ? "" : differences[0].field;
}

TEST(CpuTest, EachCompatibilityFieldIsNamed) {
  EXPECT_EQ(Difference([](CpuInfo&) {}), "");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.vendor = "X"; }), "vendor");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.family = 6; }), "family");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.model = 17; }), "model");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.targets = {"AVX2"}; }), "targets");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.l1d_bytes = 1; }),
            "caches.l1d_bytes");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.l2_bytes = 1; }), "caches.l2_bytes");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.l3_bytes = 1; }), "caches.l3_bytes");
}

TEST(CpuTest, OtherFieldsDoNotMatter) {
  EXPECT_EQ(Difference([](CpuInfo& c) { c.stepping = 2; }), "");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.brand = "EPYC 2"; }), "");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.cores = 64; }), "");
  EXPECT_EQ(Difference([](CpuInfo& c) { c.hypervisor = true; }), "");
}

TEST(CpuTest, DifferencesCarryBothValues) {
  CpuInfo other = SomeCpu();
  other.targets = {"AVX3", "AVX2"};
  const auto differences = CompatibilityDifferences(SomeCpu(), other);
  ASSERT_EQ(differences.size(), 1u);
  EXPECT_EQ(differences[0].a, "AVX2,SSE4");
  EXPECT_EQ(differences[0].b, "AVX3,AVX2");
}

}  // namespace
}  // namespace rankforge
