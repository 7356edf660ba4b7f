// The tables that come with the library: every row resolves, and look-ups reach
// them where nothing better answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/registry.h"
#include "meta/build.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

using Source = DecisionSource;

const std::string kFolder = RANKFORGE_SOURCE_DIR "/generated/tables/";

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TEST(ShippedTablesTest, AllFilesAreBuiltIn) {
  size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(kFolder)) {
    files += file.path().extension() == ".json";
  }
  EXPECT_EQ(ShippedTables().size(), files);
  EXPECT_GT(files, 0u);
  for (const ShippedTable& table : ShippedTables()) {
    EXPECT_EQ(table.text, ReadFile(kFolder + std::string(table.name) + ".json"))
        << table.name;
  }
}

// What names a target of this CPU is looked up in the registry; on machines of
// other CPUs nothing can be said of the rest.
TEST(ShippedTablesTest, EveryRowResolves) {
  if (kFewVariants) GTEST_SKIP() << "most variants are not in this build";
  const std::vector<std::string> targets = Registry::Get().targets();
  for (const ShippedTable& shipped : ShippedTables()) {
    SCOPED_TRACE(shipped.name);
    const Result<DispatchTable> table = DispatchTable::LoadUnbound(
        kFolder + std::string(shipped.name) + ".json");
    ASSERT_TRUE(table.ok()) << table.status().message();
    EXPECT_TRUE(table->notes().empty()) << table->notes()[0];
    EXPECT_FALSE(table->entries.empty());
    for (const TableEntry& entry : table->entries) {
      for (const Bucket& bucket : entry.decision.by_density) {
        const size_t slash = bucket.variant.find('/') + 1;
        const std::string target = bucket.variant.substr(
            slash, bucket.variant.find('/', slash) - slash);
        if (std::ranges::count(targets, target) == 0) continue;
        EXPECT_EQ(WhyUnfit(bucket, entry.problem, entry.decision.layout), "");
      }
    }
  }
}

// A shipped table is for the family, whatever the caches.
TEST(ShippedTablesTest, ServeTheFamily) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  table.cpu.l3_bytes += 4096;
  const std::string path = testing::TempDir() + "shipped_test.json";
  ASSERT_TRUE(table.Save(path).ok());
  const std::string text = ReadFile(path);
  std::filesystem::remove(path);
  const auto usable = [&](Match needed) {
    const Result<DispatchTable> parsed =
        DispatchTable::Parse("t", text, needed);
    EXPECT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->match(), Match::kFamily);
    EXPECT_EQ(parsed->notes().size(), parsed->usable() ? 0u : 1u);
    return parsed->usable();
  };
  EXPECT_TRUE(usable(Match::kFamily));
  EXPECT_FALSE(usable(Match::kCompatible));
}

const Problem kMeasured = {
    Operation::kDense, 4096, 4096, WeightType::kBf16, 1, 1, 2};

// A table with one entry, whose layout tells it from others.
DispatchTable TableFor(const Problem& problem, Layout layout) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  table.cpu.brand = "Example";
  const Choice choice = ChoiceOf(*DefaultKernel(problem, layout), layout, 2);
  table.entries = {{problem, {"l"}, Unmeasured(choice, problem)}};
  table.Bind("example", Match::kExact);
  return table;
}

const DispatchTable* Shipped() {
  static const DispatchTable kTable = TableFor(kMeasured, Layout::kInOut);
  return &kTable;
}
const DispatchTable* NothingShipped() { return nullptr; }

class ChainTest : public testing::Test {
 protected:
  ~ChainTest() override {
    unsetenv("RANKFORGE_MODE");
    unsetenv("RANKFORGE_FORCE");
  }
};

TEST_F(ChainTest, ShippedComesAfterTheTableAndBeforeTheDefault) {
  Problem other = kMeasured;
  other.rows = 64;
  const DispatchTable own = TableFor(other, Layout::kOutIn);
  const Dispatcher dispatcher(&own, &Shipped);
  EXPECT_EQ(dispatcher.Decide(other).source, Source::kTable);
  const DispatchTable::Answer answer = dispatcher.Decide(kMeasured);
  EXPECT_EQ(answer.source, Source::kShipped);
  EXPECT_EQ(answer.choice.layout, Layout::kInOut);
  EXPECT_NE(answer.reason.find("Example"), std::string::npos) << answer.reason;
  // Its neighbours, too.
  Problem near = kMeasured;
  near.rows += 32;
  EXPECT_EQ(dispatcher.Decide(near).source, Source::kShipped);
  Problem far = kMeasured;
  far.type = WeightType::kF32;
  EXPECT_EQ(dispatcher.Decide(far).source, Source::kDefault);
  EXPECT_EQ(dispatcher.counts(), (std::array<size_t, kSources>{1, 0, 2, 1, 0}));
  // The user's own nearest entry goes before a shipped exact one.
  const DispatchTable near_own = TableFor(near, Layout::kOutIn);
  EXPECT_EQ(Dispatcher(&near_own, &Shipped).Decide(kMeasured).source,
            Source::kNearest);
}

TEST_F(ChainTest, WithoutATable) {
  EXPECT_EQ(Dispatcher(nullptr, &Shipped).Decide(kMeasured).source,
            Source::kShipped);
  EXPECT_EQ(Dispatcher(nullptr, &NothingShipped).Decide(kMeasured).source,
            Source::kDefault);
}

TEST_F(ChainTest, ModeOffIgnoresWhatIsShipped) {
  setenv("RANKFORGE_MODE", "off", 1);
  const DispatchTable::Answer answer =
      Dispatcher(nullptr, &Shipped).Decide(kMeasured);
  EXPECT_EQ(answer.source, Source::kDefault);
  EXPECT_NE(answer.reason.find("RANKFORGE_MODE"), std::string::npos);
}

TEST_F(ChainTest, ForceGoesFirst) {
  const std::string forced = DefaultChoice(kMeasured).KernelAt(1).FullName();
  setenv("RANKFORGE_FORCE", forced.c_str(), 1);
  EXPECT_EQ(Dispatcher(nullptr, &Shipped).Decide(kMeasured).source,
            Source::kForced);
}

TEST_F(ChainTest, EachAnswerIsTold) {
  Dispatcher dispatcher(nullptr, &Shipped);
  std::vector<Source> told;
  dispatcher.Observe([&](const Problem&, const DispatchTable::Answer& answer) {
    told.push_back(answer.source);
  });
  Problem far = kMeasured;
  far.rows = 7;
  dispatcher.Decide(kMeasured);
  dispatcher.Decide(far);
  EXPECT_EQ(told, (std::vector{Source::kShipped, Source::kDefault}));
}

// On a CPU that a table is shipped for, its own problems get it.
TEST_F(ChainTest, ThisCpu) {
  const DispatchTable* shipped = ShippedForThisCpu();
  if (shipped == nullptr) GTEST_SKIP() << "no table is shipped for this CPU";
  const Dispatcher dispatcher(nullptr);
  for (const TableEntry& entry : shipped->entries) {
    EXPECT_EQ(dispatcher.Decide(entry.problem).source, Source::kShipped);
  }
}

}  // namespace
}  // namespace rankforge
