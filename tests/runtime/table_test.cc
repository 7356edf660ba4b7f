// The table's file format, what damage does to it, and how look-ups answer.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "kernels/registry.h"
#include "runtime/plan/plan.h"
#include "runtime/table/dispatch.h"

namespace rankforge {
namespace {

using Source = DecisionSource;

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string Replaced(std::string text, const std::string& from,
                     const std::string& to) {
  const size_t position = text.find(from);
  EXPECT_NE(position, std::string::npos) << from;
  return position == std::string::npos
             ? text
             : text.replace(position, from.size(), to);
}

const KernelEntry& DefaultOf(const Problem& problem, Layout layout) {
  return *DefaultKernel(problem, layout);
}

// Another entry than the default that fits.
const KernelEntry& OtherThanDefault(const Problem& problem, Layout layout) {
  return *Registry::Get()
              .Candidates(problem.operation, problem.type, layout,
                          problem.granularity, problem.rows, problem.cols,
                          problem.activations)
              .at(1);
}

Bucket MakeBucket(double max, const KernelEntry& entry) {
  Bucket bucket;
  bucket.max_density = max;
  bucket.variant = entry.FullName();
  bucket.spec_hash = entry.spec_hash;
  bucket.ns = {1234.5, 6.25, 1200, 15};
  bucket.useful_gbps = 21.5;
  bucket.roofline = 0.875;
  bucket.vs_default = 1.25;
  bucket.runner_up = "hwy/AVX2/second";
  bucket.runner_up_ns = 1300;
  return bucket;
}

const Problem kColumns = {
    Operation::kColumnMask, 512, 384, WeightType::kBf16, 1, 1, 2};
const Problem kDenseProblem = {
    Operation::kDense, 256, 384, WeightType::kF32, 1, 1, 2};

DispatchTable SmallTable() {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  table.environment.governor = "performance";
  table.environment.load_average = 0.25;
  table.environment.read_gbps = {{1, 18.5}, {2, 30.25}};
  table.environment.huge_pages = "always [madvise] never";
  table.environment.confidence = "high";
  table.environment.boost = "off";
  table.environment.cpus = "0,1";
  table.environment.shared_cores = true;
  table.environment.cpu_share = 0.75;
  table.policy = {"measure", 7, 0.02, true};

  TableEntry columns{kColumns, {"model.layers.0.mlp.down_proj"}, {}};
  columns.masks = "recorded";
  columns.decision.layout = Layout::kInOut;
  columns.decision.threads = 2;
  columns.decision.default_variant =
      DefaultOf(kColumns, Layout::kInOut).FullName();
  columns.decision.by_density = {
      MakeBucket(0.4, DefaultOf(kColumns, Layout::kInOut)),
      MakeBucket(1, OtherThanDefault(kColumns, Layout::kInOut))};
  columns.decision.crossover_to_dense = 0.4;

  TableEntry dense{kDenseProblem, {"lm_head"}, {}};
  dense.decision.layout = Layout::kOutIn;
  dense.decision.default_variant =
      DefaultOf(kDenseProblem, Layout::kOutIn).FullName();
  dense.decision.by_density = {
      MakeBucket(1, DefaultOf(kDenseProblem, Layout::kOutIn))};
  table.entries = {columns, dense};
  table.Bind("small table", Match::kExact);
  return table;
}

class TableTest : public testing::Test {
 protected:
  TableTest()
      : path_(testing::TempDir() + "table_test." +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    EXPECT_TRUE(SmallTable().Save(path_).ok());
    text_ = ReadFile(path_);
  }
  ~TableTest() override {
    std::filesystem::remove(path_);
    for (const char* name : {"RANKFORGE_FORCE", "RANKFORGE_MODE"}) {
      unsetenv(name);
    }
  }

  Result<DispatchTable> LoadText(const std::string& text) {
    WriteFile(path_, text);
    return DispatchTable::Load(path_);
  }
  // The whole file is refused, in one line that names it and has `part`.
  void ExpectRefused(const std::string& text, const std::string& part) {
    const Result<DispatchTable> table = LoadText(text);
    ASSERT_FALSE(table.ok());
    const std::string& message = table.status().message();
    EXPECT_NE(message.find(path_), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  // The table loads with one note that has `part`, and answers for what is
  // left.
  DispatchTable ExpectNoted(const std::string& text, const std::string& part) {
    Result<DispatchTable> table = LoadText(text);
    EXPECT_TRUE(table.ok()) << table.status().message();
    if (!table.ok()) return {};
    EXPECT_EQ(table->notes().size(), 1u);
    if (!table->notes().empty()) {
      EXPECT_NE(table->notes()[0].find(part), std::string::npos)
          << table->notes()[0];
      EXPECT_NE(table->notes()[0].find(path_), std::string::npos);
    }
    return *table;
  }

  const std::string path_;
  std::string text_;
};

TEST_F(TableTest, RoundTrip) {
  const Result<DispatchTable> table = DispatchTable::Load(path_);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_TRUE(table->usable());
  EXPECT_TRUE(table->notes().empty());
  EXPECT_EQ(table->cpu, CpuInfo::Detect());
  EXPECT_EQ(table->environment.read_gbps.at(2), 30.25);
  EXPECT_EQ(table->environment.boost, "off");
  EXPECT_EQ(table->environment.cpus, "0,1");
  EXPECT_TRUE(table->environment.shared_cores);
  EXPECT_EQ(table->environment.cpu_share, 0.75);
  EXPECT_EQ(table->policy.seed, 7u);
  ASSERT_EQ(table->entries.size(), 2u);
  const TableEntry& entry = table->entries[1];
  EXPECT_EQ(entry.problem, kColumns);
  EXPECT_EQ(entry.layers[0], "model.layers.0.mlp.down_proj");
  EXPECT_EQ(entry.masks, "recorded");
  EXPECT_EQ(table->entries[0].masks, "");
  EXPECT_EQ(entry.decision.layout, Layout::kInOut);
  EXPECT_EQ(entry.decision.threads, 2u);
  EXPECT_EQ(entry.decision.crossover_to_dense, 0.4);
  ASSERT_EQ(entry.decision.by_density.size(), 2u);
  const Bucket& bucket = entry.decision.by_density[0];
  EXPECT_EQ(bucket.max_density, 0.4);
  EXPECT_EQ(bucket.ns.median, 1234.5);
  EXPECT_EQ(bucket.ns.mad, 6.25);
  EXPECT_EQ(bucket.ns.min, 1200);
  EXPECT_EQ(bucket.ns.n, 15u);
  EXPECT_EQ(bucket.useful_gbps, 21.5);
  EXPECT_EQ(bucket.roofline, 0.875);
  EXPECT_EQ(bucket.vs_default, 1.25);
  EXPECT_EQ(bucket.runner_up, "hwy/AVX2/second");
  EXPECT_EQ(bucket.runner_up_ns, 1300);
  // Written again it is the same file, whatever the order of the entries.
  DispatchTable reversed = *table;
  std::reverse(reversed.entries.begin(), reversed.entries.end());
  ASSERT_TRUE(reversed.Save(path_).ok());
  EXPECT_EQ(ReadFile(path_), text_);
}

// A file of schema 1 as it was when the schema was made: it must load for ever,
// with every value where it was.
TEST_F(TableTest, GoldenFile) {
  const std::string golden =
      std::string(RANKFORGE_SOURCE_DIR) + "/tests/runtime/data/table_v1.json";
  const Result<DispatchTable> table = DispatchTable::Load(golden);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_FALSE(table->usable());
  EXPECT_EQ(table->cpu.vendor, "GoldenCpu");
  EXPECT_EQ(table->cpu.targets, (std::vector<std::string>{"AVX3", "AVX2"}));
  EXPECT_EQ(table->build.registry_hash, 0x0123456789abcdefu);
  EXPECT_EQ(table->environment.steal_share, 0.01);
  EXPECT_EQ(table->policy.rigor, "patient");
  ASSERT_EQ(table->entries.size(), 1u);
  const Decision& decision = table->entries[0].decision;
  EXPECT_EQ(table->entries[0].problem.ToString(),
            "column_mask 4096x11008 bf16 g1, batch 1, 2 threads");
  EXPECT_EQ(decision.by_density[0].spec_hash, 0xfedcba9876543210u);
  EXPECT_EQ(decision.by_density[1].runner_up, "");
  ASSERT_TRUE(table->Save(path_).ok());
  EXPECT_EQ(ReadFile(path_), ReadFile(golden));
}

TEST_F(TableTest, MissingOrUnreadableFilesAreErrors) {
  std::filesystem::remove(path_);
  const Result<DispatchTable> missing = DispatchTable::Load(path_);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find(path_), std::string::npos);
  EXPECT_FALSE(DispatchTable::Load(testing::TempDir()).ok());
  EXPECT_FALSE(DispatchTable::Load("/dev/zero").ok());
  EXPECT_FALSE(DispatchTable::Load("").ok());
}

TEST_F(TableTest, TruncatedAtEveryPoint) {
  for (size_t size = 0; size + 2 < text_.size(); size += 7) {
    EXPECT_FALSE(LoadText(text_.substr(0, size)).ok()) << size;
  }
  ExpectRefused(text_.substr(0, text_.size() / 2), "byte");
}

TEST_F(TableTest, AnotherSchemaIsRefused) {
  for (const char* schema : {"rankforge-table/0", "rankforge-table/2", ""}) {
    ExpectRefused(Replaced(text_, "rankforge-table/1", schema), "schema");
  }
  ExpectRefused("{}", "schema");
  ExpectRefused("[]", "object");
  ExpectRefused("null", "object");
  ExpectRefused("", "byte");
}

TEST_F(TableTest, DuplicateKeysAreRefused) {
  ExpectRefused(
      Replaced(text_, "\"cold\": true", "\"cold\": true, \"cold\": 1"),
      "\"cold\" occurs twice");
}

TEST_F(TableTest, DeepNestingIsRefused) {
  for (const size_t depth : {100u, 100000u}) {
    ExpectRefused(std::string(depth, '[') + std::string(depth, ']'), "deeper");
    ExpectRefused(std::string(depth, '['), "");
    std::string objects;
    for (size_t i = 0; i < depth; ++i) objects += "{\"a\":";
    ExpectRefused(objects, "");
  }
}

TEST_F(TableTest, WrongTypesOfTheWholeFileAreRefused) {
  ExpectRefused(Replaced(text_, "\"family\": ", "\"family\": -"),
                "fingerprint.cpu.family");
  ExpectRefused(Replaced(text_, "\"entries\"", "\"entires\""), "entries");
  ExpectRefused(Replaced(text_, "\"targets\"", "\"target\""),
                "fingerprint.targets");
}

TEST_F(TableTest, DamagedInformationIsOnlyNoted) {
  const DispatchTable table = ExpectNoted(
      Replaced(text_, "\"performance\"", "17"), "environment.governor");
  EXPECT_EQ(table.Lookup(kColumns).source, Source::kTable);
}

TEST_F(TableTest, ABadEntryIsDroppedAndTheOthersStay) {
  // Entries are sorted: the dense one comes first.
  const struct {
    const char* from;
    const char* to;
    const char* named;
  } kDamages[] = {
      {"\"rows\": 256", "\"rows\": -4", "entries[0].problem.rows is -4"},
      {"\"rows\": 256", "\"rows\": 0", "entries[0].problem.rows"},
      {"\"rows\": 256", "\"rows\": 1e300", "entries[0].problem.rows"},
      {"\"rows\": 256", "\"rows\": 99999999999999999999", "problem.rows"},
      {"\"rows\": 256", "\"rows\": \"256\"", "problem.rows"},
      {"\"rows\": 256", "\"rows\": null", "problem.rows"},
      {"\"rows\": 256", "\"row\": 256", "problem.rows is missing"},
      {"\"operation\": \"dense\"", "\"operation\": \"dance\"",
       "problem.operation is \"dance\""},
      {"\"layout\": \"out_in\"", "\"layout\": 3", "entries[0].layout"},
      {"\"max\": 1.0", "\"max\": 0.9", "by_density does not ascend"},
      {"\"max\": 1.0", "\"max\": null", "by_density[0].max"},
      {"\"median\": 1234.5", "\"median\": -1", "ns.median"},
      {"\"spec\": \"", "\"spec\": \"x", "by_density[0].spec"},
      {"\"threads\": 1", "\"threads\": 3", "threads is 3, more than"},
      {"\"layers\": [", "\"layers\": [1,", "entries[0].layers"},
  };
  for (const auto& damage : kDamages) {
    SCOPED_TRACE(damage.to);
    const DispatchTable table =
        ExpectNoted(Replaced(text_, damage.from, damage.to), damage.named);
    EXPECT_EQ(table.entries.size(), 1u);
    EXPECT_EQ(table.Lookup(kDenseProblem).source, Source::kDefault);
    EXPECT_EQ(table.Lookup(kColumns).source, Source::kTable);
  }
  // Out of the range of a double: the parser gives up on the whole file.
  ExpectRefused(Replaced(text_, "\"rows\": 256", "\"rows\": 1e999"), "range");
  // NaN is no JSON.
  ExpectRefused(Replaced(text_, "\"median\": 1234.5", "\"median\": nan"),
                "byte");
}

TEST_F(TableTest, EqualProblemsKeepTheFirst) {
  DispatchTable twice = SmallTable();
  twice.entries.push_back(twice.entries[0]);
  ASSERT_TRUE(twice.Save(path_).ok());
  const DispatchTable table = ExpectNoted(ReadFile(path_), "there twice");
  EXPECT_EQ(table.entries.size(), 2u);
}

TEST_F(TableTest, AnUnknownVariantTakesTheDefault) {
  const std::string name =
      OtherThanDefault(kColumns, Layout::kInOut).FullName();
  const DispatchTable table =
      ExpectNoted(Replaced(text_, name, "hwy/AVX9/column_mask_of_tomorrow"),
                  "hwy/AVX9/column_mask_of_tomorrow is not in this build");
  const DispatchTable::Answer answer = table.Lookup(kColumns);
  EXPECT_EQ(answer.choice.by_density[1].kernel,
            &DefaultOf(kColumns, Layout::kInOut));
  const Decision decision = Described(kColumns, answer);
  EXPECT_EQ(decision.by_density[1].variant,
            DefaultOf(kColumns, Layout::kInOut).FullName());
  EXPECT_EQ(decision.by_density[1].ns.n, 0u);
  // The other density keeps what was measured.
  EXPECT_EQ(decision.by_density[0].ns.n, 15u);
}

TEST_F(TableTest, AnotherSpecHashTakesTheDefault) {
  DispatchTable stale = SmallTable();
  stale.entries[0].decision.by_density[1].spec_hash ^= 1;
  ASSERT_TRUE(stale.Save(path_).ok());
  const DispatchTable table = ExpectNoted(ReadFile(path_), "has spec");
  EXPECT_EQ(table.Lookup(kColumns).choice.by_density[1].kernel,
            &DefaultOf(kColumns, Layout::kInOut));
}

TEST_F(TableTest, AVariantOfAnotherOperationTakesTheDefault) {
  DispatchTable mixed = SmallTable();
  Bucket& bucket = mixed.entries[0].decision.by_density[1];
  bucket = MakeBucket(1, DefaultOf(kDenseProblem, Layout::kOutIn));
  ASSERT_TRUE(mixed.Save(path_).ok());
  const DispatchTable table = ExpectNoted(ReadFile(path_), "does not fit");
  EXPECT_EQ(table.Lookup(kColumns).choice.by_density[1].kernel,
            &DefaultOf(kColumns, Layout::kInOut));
}

TEST_F(TableTest, ALayoutWithoutTheOperationDropsTheEntry) {
  DispatchTable table = SmallTable();
  table.entries[0].decision.layout = Layout::kOutIn;
  ASSERT_TRUE(table.Save(path_).ok());
  EXPECT_EQ(ExpectNoted(ReadFile(path_), "no kernel for").entries.size(), 1u);
}

// Activations are part of the key. An entry that does not state them is of
// exact inputs, and takes no variant that rounds them.
TEST_F(TableTest, ActivationsArePartOfTheProblem) {
  Problem rounded = kDenseProblem;
  rounded.type = WeightType::kI8Group32;
  rounded.activations = Activations::kI8;
  Problem exact = rounded;
  exact.activations = Activations::kF32;
  DispatchTable table = SmallTable();
  TableEntry entry = table.entries[1];
  entry.problem = rounded;
  entry.decision = Unmeasured(DefaultChoice(rounded), rounded);
  entry.decision.by_density = {
      MakeBucket(1, DefaultOf(rounded, Layout::kOutIn))};
  table.entries = {entry};
  ASSERT_TRUE(table.Save(path_).ok());
  const std::string text = ReadFile(path_);
  Result<DispatchTable> loaded = DispatchTable::Load(path_);
  ASSERT_TRUE(loaded.ok());
  EXPECT_TRUE(loaded->notes().empty());
  EXPECT_EQ(loaded->Lookup(rounded).source, Source::kTable);
  EXPECT_EQ(loaded->Lookup(exact).source, Source::kDefault);
  EXPECT_EQ(loaded->Lookup(exact).reason,
            "the table has this problem with i8 activations");
  EXPECT_EQ(loaded->OtherActivations(exact), Activations::kI8);
  EXPECT_EQ(loaded->OtherActivations(rounded), std::nullopt);
  Problem near = rounded;
  near.rows += 32;
  EXPECT_EQ(loaded->Lookup(near).source, Source::kNearest);
  near.activations = Activations::kF32;
  EXPECT_EQ(loaded->OtherActivations(near), std::nullopt);

  const std::string field = "\"activations\": \"i8\",\n    ";
  const DispatchTable old =
      ExpectNoted(Replaced(text, field, ""), "does not fit");
  EXPECT_EQ(old.Lookup(rounded).source, Source::kDefault);
  const DispatchTable::Answer answer = old.Lookup(exact);
  EXPECT_EQ(answer.source, Source::kTable);
  EXPECT_EQ(answer.choice.by_density[0].kernel,
            &DefaultOf(exact, Layout::kOutIn));

  EXPECT_TRUE(
      ExpectNoted(Replaced(text, field, "\"activations\": \"i4\",\n    "),
                  "problem.activations is \"i4\"")
          .entries.empty());
  // What no kernel computes.
  EXPECT_TRUE(
      ExpectNoted(Replaced(text, "\"i8_group32\"", "\"f32\""), "no kernel for")
          .entries.empty());
}

TEST_F(TableTest, AForeignCpuAnswersWithDefaults) {
  DispatchTable foreign = SmallTable();
  foreign.cpu.model += 1;
  foreign.cpu.l3_bytes += 1024;
  // Not even its variants are looked at.
  foreign.entries[0].decision.by_density[1].variant = "hwy/AVX9/x";
  ASSERT_TRUE(foreign.Save(path_).ok());
  const DispatchTable table = ExpectNoted(ReadFile(path_), "model");
  EXPECT_NE(table.notes()[0].find("caches.l3_bytes"), std::string::npos);
  EXPECT_EQ(table.notes()[0].find("vendor"), std::string::npos);
  EXPECT_FALSE(table.usable());
  EXPECT_EQ(table.entries.size(), 2u);  // for showing
  const DispatchTable::Answer answer = table.Lookup(kColumns);
  EXPECT_EQ(answer.source, Source::kDefault);
  EXPECT_EQ(answer.choice.by_density, DefaultChoice(kColumns).by_density);
}

TEST_F(TableTest, ExactLookup) {
  const DispatchTable table = SmallTable();
  const DispatchTable::Answer answer = table.Lookup(kColumns);
  EXPECT_EQ(answer.source, Source::kTable);
  EXPECT_EQ(answer.choice.by_density.size(), 2u);
}

// A table with one entry answers for other shapes only as a neighbour, and for
// anything else not at all.
TEST_F(TableTest, EveryFieldOfTheKeyCounts) {
  DispatchTable table = SmallTable();
  table.entries.resize(1);
  const auto source = [&](auto change) {
    Problem problem = kColumns;
    change(problem);
    return table.Lookup(problem).source;
  };
  EXPECT_EQ(source([](Problem&) {}), Source::kTable);
  EXPECT_EQ(source([](Problem& p) { p.rows += 1; }), Source::kNearest);
  EXPECT_EQ(source([](Problem& p) { p.cols -= 1; }), Source::kNearest);
  EXPECT_EQ(source([](Problem& p) { p.rows *= 2; }), Source::kNearest);
  EXPECT_EQ(source([](Problem& p) { p.rows = p.rows * 2 + 1; }),
            Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.cols = p.cols / 2 - 1; }),
            Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.operation = Operation::kDense; }),
            Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.type = WeightType::kF32; }),
            Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.granularity = 8; }), Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.batch = 4; }), Source::kDefault);
  EXPECT_EQ(source([](Problem& p) { p.threads = 1; }), Source::kDefault);
  EXPECT_EQ(source([](Problem& p) {
              p.type = WeightType::kI8;
              p.activations = Activations::kI8;
            }),
            Source::kDefault);
}

TEST_F(TableTest, TheNearestNeighbourAnswers) {
  DispatchTable table = SmallTable();
  table.entries.resize(1);
  TableEntry far = table.entries[0];
  far.problem.rows = 900;
  far.choice.threads = 1;
  table.entries.insert(table.entries.begin(), far);
  Problem problem = kColumns;
  problem.rows = 600;
  DispatchTable::Answer answer = table.Lookup(problem);
  EXPECT_EQ(answer.source, Source::kNearest);
  EXPECT_EQ(answer.entry->problem.rows, 512u);
  EXPECT_EQ(answer.choice.threads, 2u);
  problem.rows = 800;
  answer = table.Lookup(problem);
  EXPECT_EQ(answer.entry->problem.rows, 900u);
}

TEST_F(TableTest, ExplainSaysWhyAndWhatWasSecond) {
  const DispatchTable table = SmallTable();
  const std::string tuned = Explain(kColumns, table.Lookup(kColumns));
  EXPECT_NE(tuned.find("this problem was tuned"), std::string::npos);
  EXPECT_NE(tuned.find("hwy/AVX2/second, +5.3 %"), std::string::npos) << tuned;
  EXPECT_NE(tuned.find("1.25 times"), std::string::npos) << tuned;
  EXPECT_NE(tuned.find("from density 0.400 on everything is read"),
            std::string::npos);
  Problem unknown = kColumns;
  unknown.rows = 7;
  EXPECT_NE(Explain(unknown, table.Lookup(unknown)).find("not measured"),
            std::string::npos);
}

TEST_F(TableTest, DispatcherCountsBySource) {
  const DispatchTable table = SmallTable();
  const Dispatcher dispatcher(&table);
  Problem near = kColumns;
  near.rows += 1;
  Problem far = kColumns;
  far.rows = 7;
  dispatcher.Decide(kColumns);
  dispatcher.Decide(kColumns);
  dispatcher.Decide(near);
  dispatcher.Decide(far);
  EXPECT_EQ(dispatcher.counts(), (std::array<size_t, kSources>{2, 1, 0, 1, 0}));
  EXPECT_TRUE(dispatcher.notes().empty());
}

TEST_F(TableTest, ModeOffIgnoresTheTable) {
  const DispatchTable table = SmallTable();
  setenv("RANKFORGE_MODE", "off", 1);
  EXPECT_EQ(Dispatcher(&table).Decide(kColumns).source, Source::kDefault);
  setenv("RANKFORGE_MODE", "use", 1);
  EXPECT_EQ(Dispatcher(&table).Decide(kColumns).source, Source::kTable);
  setenv("RANKFORGE_MODE", "sometimes", 1);
  const Dispatcher dispatcher(&table);
  EXPECT_EQ(dispatcher.Decide(kColumns).source, Source::kTable);
  ASSERT_EQ(dispatcher.notes().size(), 1u);
  EXPECT_NE(dispatcher.notes()[0].find("sometimes"), std::string::npos);
}

TEST_F(TableTest, ForceWinsWhereItFits) {
  const DispatchTable table = SmallTable();
  const std::string forced =
      OtherThanDefault(kColumns, Layout::kPanel64).FullName();
  setenv("RANKFORGE_FORCE", forced.c_str(), 1);
  const Dispatcher dispatcher(&table);
  const DispatchTable::Answer answer = dispatcher.Decide(kColumns);
  EXPECT_EQ(answer.source, Source::kForced);
  EXPECT_EQ(answer.choice.layout, Layout::kPanel64);
  EXPECT_EQ(answer.choice.KernelAt(0.5).FullName(), forced);
  // It cannot serve a dense problem.
  EXPECT_EQ(dispatcher.Decide(kDenseProblem).source, Source::kTable);
  EXPECT_TRUE(dispatcher.notes().empty());
  EXPECT_EQ(dispatcher.ForcedNowhere(), "");

  const Dispatcher elsewhere(&table);
  EXPECT_EQ(elsewhere.ForcedNowhere(), "");  // nothing was looked up
  elsewhere.Decide(kDenseProblem);
  EXPECT_NE(elsewhere.ForcedNowhere().find(forced + ": fits no product"),
            std::string::npos);

  setenv("RANKFORGE_FORCE", (forced + "@nowhere").c_str(), 1);
  const Dispatcher no_layout(&table);
  no_layout.Decide(kDenseProblem);
  ASSERT_EQ(no_layout.notes().size(), 1u);
  EXPECT_NE(no_layout.notes()[0].find("names no layout"), std::string::npos);
  EXPECT_EQ(no_layout.ForcedNowhere(), "");

  setenv("RANKFORGE_FORCE", "no/such/variant", 1);
  const Dispatcher mistaken(&table);
  EXPECT_EQ(mistaken.Decide(kColumns).source, Source::kTable);
  EXPECT_EQ(mistaken.notes().size(), 1u);
}

TEST_F(TableTest, NeverMoreThreadsThanThereAre) {
  DispatchTable table = SmallTable();
  table.entries[0].choice.threads = 64;
  EXPECT_EQ(Dispatcher(&table).Decide(kColumns).choice.threads, 2u);
}

TEST_F(TableTest, WithoutATableThereIsTheDefault) {
  const DispatchTable::Answer answer = Dispatcher(nullptr).Decide(kColumns);
  EXPECT_EQ(answer.source, Source::kDefault);
  EXPECT_FALSE(answer.choice.by_density.empty());
}

TEST_F(TableTest, SavingKeepsTheOldFileWhenItFails) {
  const Status status = SmallTable().Save("/nonexistent/folder/table.json");
  EXPECT_EQ(status.code(), StatusCode::kFailed);
  EXPECT_NE(status.message().find("/nonexistent/folder/table.json"),
            std::string::npos);
  EXPECT_FALSE(SmallTable().Save(testing::TempDir()).ok());
  // Success leaves nothing beside the table.
  for (const auto& file :
       std::filesystem::directory_iterator(testing::TempDir())) {
    const std::string name = file.path().string();
    EXPECT_FALSE(name.rfind(path_, 0) == 0 && name != path_) << name;
  }
}

// Random bytes, bits, cuts and repeats: whatever they do, loading ends with a
// status or with a table whose every answer can be bound.
TEST_F(TableTest, RandomDamageNeverCrashes) {
  std::mt19937_64 random(20);
  const auto below = [&](size_t n) {
    return static_cast<size_t>(random() % n);
  };
  size_t loaded = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = text_;
    for (size_t damage = 0; damage <= below(4); ++damage) {
      const size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
          break;
        case 2:
          text.erase(at, 1 + below(40));
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), below(60)));
          break;
        default:
          text[at] = "0123456789.-eE\"[]{},:"[below(21)];
      }
      if (text.empty()) text += ' ';
    }
    const Result<DispatchTable> table = LoadText(text);
    if (!table.ok()) {
      EXPECT_FALSE(table.status().message().empty());
      continue;
    }
    ++loaded;
    for (const Problem& problem : {kColumns, kDenseProblem}) {
      const Choice choice = Dispatcher(&*table).Decide(problem).choice;
      const auto weights = PackedMatrix::Zero(problem.rows, problem.cols,
                                              problem.type, choice.layout);
      ASSERT_TRUE(weights.ok());
      GemvPlan::Bind(*weights, problem, choice);
      Explain(problem, Dispatcher(&*table).Decide(problem));
    }
  }
  // Damage that is too coarse to load would test nothing but the parser.
  EXPECT_GT(loaded, 50u);
}

}  // namespace
}  // namespace rankforge
