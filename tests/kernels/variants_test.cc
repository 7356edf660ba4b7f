// The declared list, its names and its caps.
#include "meta/variants.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "kernels/registry.h"
#include "meta/build.h"
#include "meta/rules.h"

namespace rankforge {
namespace {

using std::string_view_literals::operator""sv;

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

// The cap of meta/variants.h holds for each compiled target.
TEST(Variants, RegistryStaysWithinTheCap) {
  std::map<std::string, size_t> count;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    ++count[std::string(entry.backend) + "/" + entry.target];
  }
  for (const auto& [target, entries] : count) {
    std::printf("%s: %zu entries\n", target.c_str(), entries);
    EXPECT_LE(entries, kMaxVariants) << target;
  }
}

TEST(Variants, RegistryHoldsTheWholeListForTheBestTarget) {
  const Registry& registry = Registry::Get();
  if (kFewVariants) GTEST_SKIP() << "a part of the list is built";
  if (registry.targets().empty()) GTEST_SKIP() << "scalar only";
  const std::string target = registry.targets().front();
  if (target == "SSE4") GTEST_SKIP() << "defaults only";
  for (const VariantSpec& spec : kVariants) {
    const std::string name =
        "hwy/" + target + "/" + std::string(NameOf(spec).view());
    const KernelEntry* entry = registry.Find(name);
    if (NeedsNativeBf16(spec)) {
      EXPECT_EQ(entry, nullptr) << name;
      continue;
    }
    ASSERT_NE(entry, nullptr) << name;
    EXPECT_EQ(entry->spec, spec);
    EXPECT_EQ(entry->spec_hash, SpecHash(NameOf(spec).view()));
  }
}

// The registry has all of them if the CPU multiplies bf16, else none.
TEST(Variants, NativeBf16IsAUnitOfItsOwn) {
  const Registry& registry = Registry::Get();
  const size_t declared = static_cast<size_t>(
      std::count_if(kVariants.begin(), kVariants.end(), &NeedsNativeBf16));
  EXPECT_GT(declared, 0u);
  size_t compiled = 0;
  for (const KernelEntry& entry : registry.entries()) {
    if (!NeedsNativeBf16(entry.spec) || entry.is_reference()) continue;
    EXPECT_EQ(entry.backend, "bf16"sv);
    EXPECT_EQ(entry.target, "AVX3"sv);
    EXPECT_FALSE(entry.reassociates);
    ++compiled;
  }
  bool usable = false;
#ifdef __x86_64__
  const std::vector<std::string> targets = registry.targets();
  usable = !kOneTarget && std::ranges::count(targets, "AVX3") > 0 &&
           __builtin_cpu_supports("avx512bf16");
#endif
  EXPECT_EQ(compiled, usable ? declared : 0);
}

// On each of its targets the xsimd backend has a rival of the default of each
// operation, layout and granularity of its types.
TEST(Variants, XsimdHasARivalOfEachDefault) {
  const Registry& registry = Registry::Get();
  const auto has_target = [&](std::string_view target) {
    return std::ranges::any_of(
        registry.entries(), [&](const KernelEntry& entry) {
          return entry.target == target && entry.backend == "xsimd"sv;
        });
  };
  size_t rivals = 0;
  for (const KernelEntry& entry : registry.entries()) {
    if (!has_target(entry.target) || entry.backend != "hwy"sv ||
        entry.static_rows != 0 || !IsDefault(entry.spec) ||
        !InXsimd(entry.spec)) {
      continue;
    }
    if (kFewVariants &&
        (entry.spec.type != WeightType::kBf16 || entry.spec.granularity != 1)) {
      continue;
    }
    const std::string name =
        std::string("xsimd/") + entry.target + "/" + entry.variant;
    const KernelEntry* rival = registry.Find(name);
    ASSERT_NE(rival, nullptr) << name;
    EXPECT_EQ(rival->spec_hash, entry.spec_hash);
    EXPECT_NE(rival->fn, entry.fn);
    ++rivals;
  }
  if (rivals == 0) GTEST_SKIP() << "no target of xsimd";
}

// Whatever a problem states, there are kernels for it on every target that has
// any, and tuning has nothing else to choose from.
TEST(Variants, EveryOperationRoundsItsInputsWhereItsWeightsAreIntegers) {
  const Registry& registry = Registry::Get();
  for (const WeightType type : kWeightTypes) {
    for (const Operation operation : kOperations) {
      for (const Activations asked : kActivations) {
        const bool rounds =
            Takes(type, asked) && (asked != Activations::kBf16 ||
                                   operation != Operation::kColumnMask);
        EXPECT_EQ(ActivationsFor(operation, type, asked),
                  rounds ? asked : Activations::kF32);
        const Layout layout = operation == Operation::kColumnMask
                                  ? Layout::kInOut
                                  : Layout::kOutIn;
        const KernelEntry* entry = registry.Default(
            operation, type, layout, 1, 1, rounds ? asked : Activations::kF32);
        ASSERT_NE(entry, nullptr);
        if (asked == Activations::kBf16 || registry.targets().empty()) continue;
        EXPECT_FALSE(entry->is_reference()) << entry->FullName();
        for (const KernelEntry* candidate :
             registry.Candidates(operation, type, layout, 1, 64, 64,
                                 rounds ? asked : Activations::kF32)) {
          EXPECT_EQ(ActivationsOf(candidate->spec),
                    rounds ? asked : Activations::kF32);
        }
      }
    }
  }
}

// Dense products of rounded inputs read rows: columns round something else.
TEST(Variants, RoundedColumnsAreOfColumnMasks) {
  for (const VariantSpec& spec : kVariants) {
    if (spec.algorithm != Algorithm::kRoundedColumns) continue;
    EXPECT_EQ(spec.operation, Operation::kColumnMask);
  }
  EXPECT_EQ(Registry::Get().Default(Operation::kDense, WeightType::kI8,
                                    Layout::kInOut, 1, 1, Activations::kI8),
            nullptr);
}

// The tuner measures the rivals; untuned, Highway runs.
TEST(Variants, DefaultsAreOfHighway) {
  const Registry& registry = Registry::Get();
  if (registry.targets().empty()) GTEST_SKIP() << "scalar only";
  for (const VariantSpec& spec : kVariants) {
    for (const Layout layout : kLayouts) {
      if (!Accepts(spec, layout) || NeedsNativeBf16(spec)) continue;
      // Builds with few variants run groups of integers by the reference, and
      // groups in several sums, for which there are no zeroed forms.
      if (kFewVariants && spec.granularity > 1 &&
          (RoundsInput(spec) || SumsOf(layout) > 1)) {
        continue;
      }
      const KernelEntry* entry =
          registry.Default(spec.operation, spec.type, layout, spec.granularity,
                           /*batch=*/1, ActivationsOf(spec));
      ASSERT_NE(entry, nullptr);
      EXPECT_EQ(entry->backend, "hwy"sv) << entry->FullName();
    }
  }
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
