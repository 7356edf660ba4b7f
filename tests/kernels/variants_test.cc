// The declared list, its names, its caps, and the generated unit.
#include "meta/variants.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "kernels/registry.h"
#include "kernels/static_unit.h"

namespace rankforge {
namespace {

TEST(Variants, NamesAreUniqueAndFit) {
  std::set<std::string> names;
  for (const VariantSpec& spec : kVariants) {
    const VariantName name = NameOf(spec);
    EXPECT_LT(name.size, name.chars.size());
    EXPECT_TRUE(names.insert(std::string(name.view())).second) << name.view();
  }
}

TEST(Variants, EveryOperationTypeAndLayoutHasOneDefault) {
  std::map<std::tuple<Operation, WeightType, Algorithm, int, int>, int> count;
  for (const VariantSpec& spec : kVariants) {
    count[{spec.operation, spec.type, spec.algorithm, spec.panel,
           spec.granularity}] += IsDefault(spec);
  }
  for (const auto& [key, defaults] : count) EXPECT_EQ(defaults, 1);
}

// The cap of meta/variants.h, for each target as compiled.
TEST(Variants, RegistryStaysWithinTheCap) {
  std::map<std::string, size_t> count;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    ++count[std::string(entry.backend) + "/" + entry.target];
  }
  for (const auto& [target, entries] : count) {
    std::printf("%s: %zu entries\n", target.c_str(), entries);
    EXPECT_LE(entries, 300u) << target;
  }
}

TEST(Variants, RegistryHoldsTheWholeListForTheBestTarget) {
  const Registry& registry = Registry::Get();
#ifdef RANKFORGE_DEFAULT_VARIANTS
  GTEST_SKIP() << "built with the defaults only";
#endif
  if (registry.targets().empty()) GTEST_SKIP() << "scalar only";
  const std::string target = registry.targets().front();
  if (target == "SSE4" || target == "SSSE3") GTEST_SKIP() << "defaults only";
  for (const VariantSpec& spec : kVariants) {
    const std::string name =
        "hwy/" + target + "/" + std::string(NameOf(spec).view());
    const KernelEntry* entry = registry.Find(name);
    ASSERT_NE(entry, nullptr) << name;
    EXPECT_EQ(entry->spec, spec);
    EXPECT_EQ(entry->spec_hash, SpecHash(NameOf(spec).view()));
  }
}

TEST(Variants, GeneratedUnitIsWhatItsCommandPrints) {
  std::ifstream file(std::string(RANKFORGE_SOURCE_DIR) +
                     "/generated/column_mask_bf16_4096x11008.cc");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), StaticUnitSource(4096, 11008, WeightType::kBf16));
}

TEST(Types, NamesRoundTrip) {
  for (const Operation operation : kOperations) {
    EXPECT_EQ(FromName(kOperations, Name(operation)), operation);
  }
  for (const WeightType type : kWeightTypes) {
    EXPECT_EQ(FromName(kWeightTypes, Name(type)), type);
  }
  for (const Layout layout : kLayouts) {
    EXPECT_EQ(FromName(kLayouts, Name(layout)), layout);
  }
  EXPECT_FALSE(FromName(kLayouts, "out-in").has_value());
}

}  // namespace
}  // namespace rankforge
