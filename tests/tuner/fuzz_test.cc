// Damaged tables and journals, thousands of them from a fixed seed: no crash,
// one line per message, and no table that changes a result.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/mask/mask.h"
#include "kernels/registry.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/table/table.h"
#include "tuner/search/choose.h"
#include "tuner/search/journal.h"
#include "tuner/search/resume.h"
#include "tuner/search/search.h"

namespace rankforge {
namespace {

// Changes a text as disks, editors and hands do.
class Damage {
 public:
  explicit Damage(uint64_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    const size_t changes = 1 + random_() % 3;
    for (size_t i = 0; i < changes && !text.empty(); ++i) Change(&text);
    return text;
  }

 private:
  size_t Below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void Change(std::string* text) {
    const size_t at = Below(text->size());
    const size_t length = Below(std::min<size_t>(40, text->size() - at)) + 1;
    switch (Below(7)) {
      case 0:
        (*text)[at] = static_cast<char>(random_());
        break;
      case 1:
        text->erase(at, length);
        break;
      case 2:
        text->insert(at, text->substr(Below(text->size()), length));
        break;
      case 3:
        text->resize(at);
        break;
      case 4:  // a digit, which most often leaves it well-formed
        ChangeDigit(at, text);
        break;
      default:
        ReplaceValue(at, text);
    }
  }

  void ChangeDigit(size_t from, std::string* text) {
    const size_t digit = text->find_first_of("0123456789", from);
    if (digit != std::string::npos) {
      (*text)[digit] = static_cast<char>('0' + Below(10));
    }
  }

  void ReplaceValue(size_t from, std::string* text) {
    static const std::vector<std::string> kValues = {
        "null",
        "-1",
        "1e999",
        "1e308",
        "\"\"",
        "[]",
        "{}",
        "true",
        "0.5",
        "[[[[",
        "1e-320",
        "\"\\u0000\"",
        "0",
        "18446744073709551616",
        "\"" + std::string(5000, 'x') + "\""};
    const size_t begin = text->find(':', from);
    if (begin == std::string::npos) return;
    const size_t end = text->find_first_of(",}\n", begin);
    text->replace(begin + 1,
                  (end == std::string::npos ? text->size() : end) - begin - 1,
                  kValues[Below(kValues.size())]);
  }

  std::mt19937_64 random_;
};

void ExpectOneLine(const std::string& message) {
  EXPECT_FALSE(message.empty());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 2000u);
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

constexpr Problem kProblem = {
    Operation::kColumnMask, 70, 90, WeightType::kBf16, 1, 1, 2};

// Results of kProblem with half of its columns, by layout.
class Product {
 public:
  Product() : x_(kProblem.cols), scratch_(kProblem.cols) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& value : x_) value = uniform(random);
    std::vector<uint32_t> kept;
    for (uint32_t i = 0; i < kProblem.cols; i += 2) kept.push_back(i);
    mask_ = MaskFromIndex(kept.data(), kept.size(), x_.data(), kProblem.cols, 1,
                          scratch_.storage());
    std::vector<float> weights(kProblem.rows * kProblem.cols);
    for (float& weight : weights) weight = uniform(random);
    const SourceMatrix source = {weights.data(), SourceMatrix::Type::kF32,
                                 kProblem.rows, kProblem.cols};
    for (const Layout layout : kLayouts) {
      if (!Offers(layout, kProblem.type)) continue;
      weights_[layout] =
          PackedMatrix::Pack({&source, 1}, kProblem.type, layout).value();
    }
  }

  std::vector<float> Run(const Choice& choice) {
    const PackedMatrix& weights = weights_.at(choice.layout);
    const GemvPlan plan = GemvPlan::Bind(weights, kProblem, choice);
    std::vector<float> y(kProblem.rows);
    const GemvCall call =
        plan.ColumnMask(mask_, {.y = y.data(), .partial = sums_.For(plan)});
    for (size_t part = 0; part < call.parts; ++part) RunPart(call, part);
    return y;
  }

 private:
  std::vector<float> x_;
  MaskScratch scratch_;
  SumsScratch sums_;
  MaskView mask_;
  std::map<Layout, PackedMatrix> weights_;
};

DispatchTable TableOf(const std::vector<Problem>& problems) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  table.environment.confidence = "high";
  table.policy.rigor = "measure";
  for (const Problem& problem : problems) {
    Choice choice = DefaultChoice(problem);
    const auto candidates = Registry::Get().Candidates(
        problem.operation, problem.type, choice.layout, problem.granularity,
        problem.rows, problem.cols, problem.activations);
    choice.by_density.clear();
    for (size_t i = 0; i < 3; ++i) {
      const double limit = i == 2 ? 1 : (static_cast<double>(i) + 1) / 3;
      choice.by_density.push_back({limit, candidates[i % candidates.size()]});
    }
    Decision decision = Unmeasured(choice, problem);
    for (Bucket& bucket : decision.by_density) bucket.ns = {100, 1, 99, 25};
    table.entries.push_back({problem, {"layer"}, decision, "bernoulli"});
  }
  return table;
}

class FuzzTest : public testing::Test {
 protected:
  FuzzTest()
      : path_(testing::TempDir() + "fuzz_test." +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {}
  ~FuzzTest() override { std::filesystem::remove(path_); }
  const std::string path_;
};

TEST_F(FuzzTest, DamagedTablesChangeNoResult) {
  Problem dense = kProblem;
  dense.operation = Operation::kDense;
  ASSERT_TRUE(TableOf({kProblem, dense}).Save(path_).ok());
  const std::string text = ReadFile(path_);
  Product product;
  std::map<Layout, std::vector<float>> expected;
  for (const Layout layout : kLayouts) {
    if (RunsAreRows(layout)) continue;  // offers no column mask
    expected[layout] =
        product.Run(ChoiceOf(*DefaultKernel(kProblem, layout), layout, 2));
  }
  Damage damage(20240607);
  size_t loaded = 0;
  for (int i = 0; i < 4000; ++i) {
    WriteFile(path_, damage(text));
    const Result<DispatchTable> table = DispatchTable::Load(path_);
    if (!table.ok()) {
      ExpectOneLine(table.status().message());
      continue;
    }
    ++loaded;
    for (const std::string& note : table->notes()) ExpectOneLine(note);
    const Choice choice = table->Lookup(kProblem).choice;
    EXPECT_GE(choice.threads, 1u);
    ASSERT_TRUE(expected.contains(choice.layout));
    const std::vector<float> y = product.Run(choice);
    const std::vector<float>& reference = expected.at(choice.layout);
    ASSERT_EQ(std::memcmp(y.data(), reference.data(), y.size() * sizeof(float)),
              0)
        << "mutation " << i;
    if (HasFailure()) FAIL() << "mutation " << i << ":\n" << ReadFile(path_);
  }
  // Both ways out were taken.
  EXPECT_GT(loaded, 400u);
  EXPECT_LT(loaded, 3900u);
}

TEST_F(FuzzTest, DamagedJournalsNameNothingThatIsNotThere) {
  SearchSpace space;
  space.densities = {0.5, 1};
  space.weights = {1, 0};
  for (const char* name : {"a", "b", "c"}) {
    space.candidates.push_back({name, 7, Layout::kInOut, 1});
  }
  JournalHeader header;
  header.cpu.vendor = "TestCpu";
  {
    Result<Journal> journal = Journal::Open(path_, header, false);
    ASSERT_TRUE(journal.ok());
    JournalObserver observer(space, "w", &*journal, [] {});
    for (size_t round = 0; round < 4; ++round) {
      for (size_t c = 0; c < 3; ++c) {
        observer.OnTrial(c, round % 2, {100.0 + static_cast<double>(c)});
      }
    }
    observer.OnDrop(2, 0, 3, 1.5);
    journal->WriteDrift("w", 1.01);
    journal->WriteFinished("w", "search");
    journal->WriteAnchor("v", {"a", 7, "in_out", 1});
  }
  const std::string text = ReadFile(path_);
  Damage damage(20240608);
  size_t opened = 0;
  for (int i = 0; i < 8000; ++i) {
    WriteFile(path_, damage(text));
    const Result<Journal> journal = Journal::Open(path_, header, true);
    if (!journal.ok()) {
      ExpectOneLine(journal.status().message());
      continue;
    }
    ++opened;
    const Measurements known = KnownSamples(space, journal->Trials("w"));
    EXPECT_LE(known.total(), 40u);
    const Decision decision = Choose(space, known, 0.02);
    ASSERT_EQ(decision.by_density.size(), 2u);
    for (const Bucket& bucket : decision.by_density) {
      EXPECT_TRUE(bucket.variant == "a" || bucket.variant == "b" ||
                  bucket.variant == "c");
      EXPECT_TRUE(std::isfinite(bucket.ns.median));
    }
    if (HasFailure()) FAIL() << "mutation " << i << ":\n" << ReadFile(path_);
  }
  EXPECT_GT(opened, 800u);
  EXPECT_LT(opened, 7900u);
}

}  // namespace
}  // namespace rankforge
