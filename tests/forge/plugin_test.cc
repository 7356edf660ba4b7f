// Loading plug-ins in this process: a whole one, damaged and foreign ones. The
// tests run in the order of this file: nothing is added to a registry in use.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "kernels/registry.h"
#include "meta/static_variants.h"
#include "runtime/plan/plan.h"
#include "runtime/plugin_file.h"
#include "runtime/table/table.h"

namespace rankforge {
namespace {

const std::string kPlugin = TEST_PLUGIN;
constexpr StaticUnit kDense = UnitOf("dense", "bf16", 1, 129, 72);
constexpr StaticUnit kColumns = UnitOf("column_mask", "bf16", 1, 300, 211);

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A file of this test with these contents.
std::string FileOf(const std::string& contents) {
  const std::string path =
      testing::TempDir() + "plugin_test_" + std::to_string(getpid()) + ".so";
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

void ExpectRefusal(const std::string& path, const std::string& part) {
  const Status status = LoadPlugin(path);
  EXPECT_EQ(status.code(), StatusCode::kFailed);
  EXPECT_TRUE(status.message().starts_with(path + ": ")) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos)
      << status.message() << "\n does not mention: " << part;
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
}

size_t StaticEntriesOf(const StaticUnit& unit) {
  return static_cast<size_t>(std::ranges::count_if(
      Registry::Get().entries(), [&](const KernelEntry& entry) {
        return entry.static_rows == unit.rows &&
               entry.static_cols == unit.cols && Holds(unit, entry.spec);
      }));
}

TEST(LoadPlugin, RefusesWhatIsNone) {
  ExpectRefusal("no/such/file.so", "No such file");
  ExpectRefusal(testing::TempDir(), "Is a directory");
  ExpectRefusal(FileOf(""), "no plug-in");
  ExpectRefusal(FileOf("RankForge plug-in 0123456789abcdef"), "damaged");
  ExpectRefusal(FileOf(std::string(4096, 'x')), "no plug-in");
  // A library, but not sealed as a plug-in: its code does not run.
  ExpectRefusal(FOREIGN_PLUGINS "/foreign_plugin_1.so", "no plug-in");
}

TEST(LoadPlugin, RefusesEveryDamage) {
  const std::string whole = ReadFile(kPlugin);
  ASSERT_GT(whole.size(), 4096u);
  for (const size_t size : {whole.size() - 1, whole.size() / 2, size_t{64}}) {
    ExpectRefusal(FileOf(whole.substr(0, size)), "no plug-in, or not a whole");
  }
  // The seal covers all bytes, the ones that no code would look at, too.
  for (size_t at = 0; at + 64 < whole.size(); at += whole.size() / 37) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    ExpectRefusal(FileOf(damaged), "damaged");
  }
  ExpectRefusal(FileOf(whole + "x"), "no plug-in");
}

// Copies of them, sealed: what else is wrong with them is found, then.
TEST(LoadPlugin, RefusesForeignOnes) {
  const std::pair<int, std::string> cases[] = {
      {0, "exports no"},
      {1, "ABI number is"},
      {2, "size of KernelArgs is"},
      {3, "size of an entry is"},
      {4, "for target AVX9, which is not"},
      {5, "entry 0 is none of"}};
  for (const auto& [which, part] : cases) {
    const std::string path = FileOf(ReadFile(
        FOREIGN_PLUGINS "/foreign_plugin_" + std::to_string(which) + ".so"));
    const Status sealed = SealPlugin(path);
    ASSERT_TRUE(sealed.ok()) << sealed.message();
    ExpectRefusal(path, part);
  }
}

TEST(LoadPlugin, AddsEveryEntryOnce) {
  const Status loaded = LoadPlugin(kPlugin);
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  ExpectRefusal(kPlugin, "is registered already");
  EXPECT_EQ(StaticEntriesOf(kDense), EntryCount(kDense));
  EXPECT_EQ(StaticEntriesOf(kColumns), EntryCount(kColumns));
  EXPECT_GT(EntryCount(kDense), 2u);
}

TEST(LoadPlugin, RefusesOnceKernelsAreInUse) {
  Registry::Get();
  ExpectRefusal(kPlugin, "in use already");
}

TEST(LoadedPlugin, KeepsTheRegistryInOrder) {
  const std::vector<std::string> targets = Registry::Get().targets();
  std::vector<std::string> sorted = targets;
  std::ranges::sort(sorted);
  EXPECT_EQ(std::ranges::adjacent_find(sorted), sorted.end());
  const KernelEntry* untuned =
      Registry::Get().Default(kDense.operation, kDense.type, Layout::kOutIn, 1);
  EXPECT_EQ(untuned->static_rows, 0u);
}

// What tables store must not change from build to build.
TEST(LoadedPlugin, NamesAndHashesAreStable) {
  const KernelEntry* entry = Registry::Get().Find(
      "hwy/" TEST_TARGET "/column_mask_bf16_columns8_list_g1_ahead_300x211");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->spec_hash, 0x0dd94be6e1344de8u);
  EXPECT_EQ(entry->static_rows, 300u);
  EXPECT_EQ(entry->static_cols, 211u);
}

TEST(LoadedPlugin, IsOfferedForItsShapeAlone) {
  const auto offered = [](size_t rows) {
    const auto candidates = Registry::Get().Candidates(
        kColumns.operation, kColumns.type, Layout::kInOut, 1, rows,
        kColumns.cols, Activations::kF32);
    return std::ranges::count_if(candidates, [](const KernelEntry* entry) {
      return entry->static_rows != 0;
    });
  };
  EXPECT_GT(offered(kColumns.rows), 0);
  EXPECT_EQ(offered(kColumns.rows + 1), 0);
}

// An entry compiled for one shape must not run for its neighbour's.
TEST(LoadedPlugin, DoesNotGoToNeighbours) {
  const KernelEntry* entry = Registry::Get().Find(
      "hwy/" TEST_TARGET "/column_mask_bf16_columns8_list_g1_ahead_300x211");
  ASSERT_NE(entry, nullptr);
  Problem problem{Operation::kColumnMask, 300, 211, WeightType::kBf16, 1, 1, 1};
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  const Choice choice = ChoiceOf(*entry, Layout::kInOut, 1);
  table.entries.push_back({problem, {"layer"}, Unmeasured(choice, problem)});
  table.Bind("example", Match::kExact);
  EXPECT_EQ(&table.Lookup(problem).choice.KernelAt(1), entry);
  problem.rows += 32;
  const DispatchTable::Answer answer = table.Lookup(problem);
  EXPECT_EQ(answer.source, DecisionSource::kNearest);
  EXPECT_EQ(answer.choice.by_density, DefaultChoice(problem).by_density);
}

TEST(WhyAbsent, NamesTheShapeOfAPlugin) {
  EXPECT_NE(WhyAbsent("hwy/AVX2/dense_bf16_rows4_ahead_4096x11008")
                .find("plug-in for 4096x11008 that is not loaded"),
            std::string::npos);
  for (const char* other :
       {"", "hwy/AVX2/dense_bf16_rows4_ahead", "a_x", "a_4x", "a_x4",
        "a_12345678x4", "a_4096x4096x", "_4 x4"}) {
    EXPECT_NE(WhyAbsent(other).find("not in this build"), std::string::npos)
        << other;
  }
}

}  // namespace
}  // namespace rankforge
