// Every entry of the registry with one token, on every target of this CPU, or
// every entry of a plug-in (RANKFORGE_PLUGIN), against the scalar reference:
// odd shapes, tails, empty and full masks, bias, accumulation and sub-ranges of
// the outputs. Entries must equal the reference of their activations bit for
// bit; those of targets without fused multiply-add are held to a bound.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/mask/mask.h"
#include "kernels/registry.h"
#include "meta/packing.h"
#include "meta/rules.h"
#include "meta/variants.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/plugin_file.h"
#include "tests/kernels/entry_testing.h"
#include "tests/kernels/packed_args.h"

namespace rankforge {
namespace {

struct Shape {
  size_t rows;
  size_t cols;
};

// One, one lane less and more, blocks and odd sizes in both directions, and one
// shape with several panels and many passes. The last has more outputs than
// rounded columns copy.
constexpr Shape kShapes[] = {
    {1, 1},   {7, 8},   {8, 7},    {9, 33},   {31, 64},   {32, 15}, {33, 16},
    {64, 31}, {65, 17}, {129, 40}, {127, 97}, {300, 211}, {2083, 9}};
constexpr double kDensities[] = {0, 0.05, 0.5, 1};
constexpr float kCanary = 12345.5f;
constexpr size_t kMargin = 64;

std::vector<float> RandomVector(size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

// Bernoulli(density) over `groups`. Density 0 keeps none, a negative density
// keeps exactly one.
std::vector<uint32_t> RandomIndex(size_t groups, double density,
                                  std::mt19937& random) {
  std::vector<uint32_t> index;
  if (density < 0) {
    index.push_back(static_cast<uint32_t>(random() % groups));
    return index;
  }
  std::bernoulli_distribution keep(density);
  for (uint32_t i = 0; i < groups; ++i) {
    if (keep(random)) index.push_back(i);
  }
  return index;
}

std::vector<size_t> GranularitiesOf(const VariantSpec& spec) {
  if (spec.operation == Operation::kDense) return {1};
  if (spec.form == MaskForm::kZeroed) return {1, 8, 32};
  return {spec.granularity};
}

// Makes every stored -127 of 8-bit weights -128, which we never store, but
// files may. A byte of a scale that is alike loses 1 in its mantissa.
void StoreLeastIntegers(PackedMatrix& packed) {
  if (FormatOf(packed.type()).bits != 8) return;
  std::replace(packed.data(), packed.data() + packed.bytes(), std::byte{0x81},
               std::byte{0x80});
}

// Random weights of this shape, packed once for all entries.
const PackedMatrix& PackedFor(const Shape& shape, WeightType type,
                              Layout layout) {
  static std::map<std::tuple<size_t, size_t, WeightType, Layout>, PackedMatrix>
      cache;
  const auto key = std::tuple(shape.rows, shape.cols, type, layout);
  if (const auto found = cache.find(key); found != cache.end()) {
    return found->second;
  }
  std::mt19937 random(static_cast<unsigned>(shape.rows * 7919 + shape.cols));
  // Odd and coprime to the shapes: large matrices repeat it.
  const std::vector<float> pattern = RandomVector(10007, random);
  std::vector<float> weights(shape.rows * shape.cols);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = pattern[i % pattern.size()];
  }
  const SourceMatrix source{weights.data(), SourceMatrix::Type::kF32,
                            shape.rows, shape.cols, false};
  PackedMatrix packed = PackedMatrix::Pack({&source, 1}, type, layout).value();
  StoreLeastIntegers(packed);
  return cache.emplace(key, std::move(packed)).first->second;
}

// The error bound of entries that add in another order or round twice: one
// rounding of the sum of magnitudes for each of n steps.
float Bound(size_t n, float magnitude) {
  return static_cast<float>(n + 2) * std::numeric_limits<float>::epsilon() *
         magnitude;
}

enum class Range { kAll, kSecondQuantum };

class GemvTest : public testing::TestWithParam<const KernelEntry*> {
 protected:
  // One problem: weights, input, mask and both outputs, run on [begin, end).
  void Check(const Shape& shape, size_t granularity, double density,
             bool with_bias, bool accumulate, Range range) {
    const KernelEntry& entry = *GetParam();
    const VariantSpec& spec = entry.spec;
    const Layout layout = LayoutOf(spec);
    std::mt19937 random(static_cast<unsigned>(shape.rows * 7919 +
                                              shape.cols * 31 + granularity));
    const PackedMatrix& packed = PackedFor(shape, spec.type, layout);
    const std::vector<float> x = RandomVector(shape.cols, random);
    const std::vector<float> bias = RandomVector(shape.rows, random);

    KernelArgs args = ArgsOn(packed);
    args.x = x.data();
    args.bias = with_bias ? bias.data() : nullptr;
    args.accumulate = accumulate;
    const size_t quantum = PartQuantum(layout);
    if (range == Range::kSecondQuantum && shape.rows > quantum) {
      args.row_begin = quantum;
      args.row_end = std::min(shape.rows, 2 * quantum);
    }

    InputScratch rounded(shape.cols);
    if (RoundsInput(spec)) {
      args.rounded = RoundInput(x.data(), shape.cols, spec.type, layout,
                                rounded.storage());
    }
    const bool row_mask = spec.operation == Operation::kRowMask;
    const size_t masked = row_mask ? shape.rows : shape.cols;
    MaskScratch scratch(RoundUp(masked, kMaxGranularity));
    if (spec.operation != Operation::kDense) {
      const size_t groups = (masked + granularity - 1) / granularity;
      std::vector<uint32_t> index = RandomIndex(groups, density, random);
      if (row_mask) {
        // Only whole groups of the sub-range, as a plan hands them over.
        std::erase_if(index, [&](uint32_t i) {
          return i * granularity < args.row_begin ||
                 i * granularity >= args.row_end;
        });
      }
      args.mask = MaskFromIndex(index.data(), index.size(),
                                row_mask ? nullptr : x.data(), masked,
                                granularity, scratch.storage());
    }

    std::vector<float> expected(shape.rows + 2 * kMargin, kCanary);
    std::mt19937 start(5);
    const std::vector<float> before = RandomVector(shape.rows, start);
    if (accumulate) {
      std::copy(before.begin(), before.end(), expected.begin() + kMargin);
    }
    std::vector<float> actual = expected;
    const KernelEntry* reference = Registry::Get().Reference(spec, layout);
    ASSERT_NE(reference, nullptr);
    args.y = expected.data() + kMargin;
    reference->fn(args);
    args.y = actual.data() + kMargin;
    args.ahead = AheadBytes(entry.spec.prefetch);
    entry.fn(args);

    const float magnitude =
        static_cast<float>(shape.cols) * 16 + 8;  // of 4-sigma products
    for (size_t i = 0; i < actual.size(); ++i) {
      const std::string where =
          entry.FullName() + " rows " + std::to_string(shape.rows) + " cols " +
          std::to_string(shape.cols) + " g " + std::to_string(granularity) +
          " density " + std::to_string(density) + " bias " +
          std::to_string(with_bias) + " accumulate " +
          std::to_string(accumulate) + " output " +
          std::to_string(static_cast<long>(i) - static_cast<long>(kMargin));
      if (entry.reassociates) {
        ASSERT_NEAR(actual[i], expected[i], Bound(shape.cols, magnitude))
            << where;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]),
                  std::bit_cast<uint32_t>(expected[i]))
            << where << ": " << actual[i] << " and " << expected[i];
      }
    }
  }
};

TEST_P(GemvTest, AgreesWithTheScalarReference) {
  const KernelEntry& entry = *GetParam();
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  if (entry.static_rows != 0) {
    shapes = {{entry.static_rows, entry.static_cols}};
  }
  for (const size_t granularity : GranularitiesOf(entry.spec)) {
    for (const Shape& shape : shapes) {
      for (const double density : kDensities) {
        Check(shape, granularity, density, false, false, Range::kAll);
        if (HasFatalFailure()) return;
        if (entry.spec.operation == Operation::kDense) break;
      }
      Check(shape, granularity, -1, true, false, Range::kAll);
      Check(shape, granularity, 0.5, false, true, Range::kAll);
      Check(shape, granularity, 0.5, true, false, Range::kSecondQuantum);
      if (HasFatalFailure()) return;
    }
  }
}

// NaN in kept columns reaches the output; NaN in dropped columns is not read by
// the forms that skip.
class SkippingColumnsTest : public testing::TestWithParam<const KernelEntry*> {
};
TEST_P(SkippingColumnsTest, NanOfWeightsReachesTheOutputFromKeptColumnsAlone) {
  const KernelEntry& entry = *GetParam();
  const size_t rows = 70, cols = 40;
  std::vector<float> weights(rows * cols, 1.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t i = 0; i < rows; ++i) weights[i * cols + 3] = nan;
  const SourceMatrix source{weights.data(), SourceMatrix::Type::kF32, rows,
                            cols, false};
  const Layout layout = LayoutOf(entry.spec);
  const PackedMatrix packed =
      PackedMatrix::Pack({&source, 1}, entry.spec.type, layout).value();
  const std::vector<float> x(cols, 2.0f);
  for (const bool keep_nan : {false, true}) {
    std::vector<uint32_t> index = {1, 2, 9, 39};
    if (keep_nan) index.insert(index.begin() + 2, 3);
    MaskScratch scratch(cols);
    std::vector<float> y(rows);
    KernelArgs args = ArgsOn(packed);
    args.mask = MaskFromIndex(index.data(), index.size(), x.data(), cols, 1,
                              scratch.storage());
    args.y = y.data();
    args.ahead = AheadBytes(entry.spec.prefetch);
    entry.fn(args);
    for (const float value : y) {
      if (keep_nan) {
        EXPECT_TRUE(std::isnan(value));
      } else {
        // Ones are not multiples of a rounded scale.
        EXPECT_NEAR(value, 8.0f, IsQuantized(entry.spec.type) ? 8e-3f : 0);
      }
    }
  }
}

// A dense product reads all of x: what is not finite there shows in every
// output, rounded inputs included.
class DenseGemvTest : public testing::TestWithParam<const KernelEntry*> {};
TEST_P(DenseGemvTest, InputsThatAreNotFiniteReachEveryOutput) {
  const KernelEntry& entry = *GetParam();
  const Shape shape = {70, 211};
  const PackedMatrix& packed =
      PackedFor(shape, entry.spec.type, LayoutOf(entry.spec));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    std::vector<float> x(shape.cols, 1.0f);
    x[200] = bad;
    InputScratch scratch(shape.cols);
    std::vector<float> y(shape.rows);
    KernelArgs args = ArgsOn(packed);
    args.x = x.data();
    args.y = y.data();
    if (RoundsInput(entry.spec)) {
      args.rounded = RoundInput(x.data(), shape.cols, entry.spec.type,
                                LayoutOf(entry.spec), scratch.storage());
    }
    args.ahead = AheadBytes(entry.spec.prefetch);
    entry.fn(args);
    for (const float value : y) EXPECT_FALSE(std::isfinite(value));
  }
}

// The entries of the plug-in that RANKFORGE_PLUGIN names, else those that are
// built in.
std::vector<const KernelEntry*> AllEntries() {
  const char* plugin = std::getenv("RANKFORGE_PLUGIN");
  if (plugin != nullptr) {
    static const Status loaded = LoadPlugin(plugin);
    EXPECT_TRUE(loaded.ok()) << loaded.message();
  }
  std::vector<const KernelEntry*> all;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    const bool of_plugin = entry.static_rows != 0;
    if (!entry.is_reference() && of_plugin == (plugin != nullptr)) {
      all.push_back(&entry);
    }
  }
  return all;
}

TEST(Entries, ArePlugInsWhereOneIsNamed) {
  size_t entries = 0;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    entries += entry.static_rows != 0;
  }
  EXPECT_EQ(entries > 0, std::getenv("RANKFORGE_PLUGIN") != nullptr);
}

// The entries for any shape that `select` picks.
template <class Select>
std::vector<const KernelEntry*> EntriesThat(Select select) {
  std::vector<const KernelEntry*> entries = AllEntries();
  std::erase_if(entries, [&](const KernelEntry* entry) {
    return entry->static_rows != 0 || !select(entry->spec);
  });
  return entries;
}

INSTANTIATE_TEST_SUITE_P(Registry, GemvTest, testing::ValuesIn(AllEntries()),
                         TestName);
// A plug-in has only entries for single shapes, so these have no instance
// there.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SkippingColumnsTest);
INSTANTIATE_TEST_SUITE_P(
    Registry, SkippingColumnsTest,
    testing::ValuesIn(EntriesThat([](const VariantSpec& spec) {
      return spec.operation == Operation::kColumnMask &&
             spec.form != MaskForm::kZeroed && spec.granularity == 1;
    })),
    TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DenseGemvTest);
INSTANTIATE_TEST_SUITE_P(
    Registry, DenseGemvTest,
    testing::ValuesIn(EntriesThat([](const VariantSpec& spec) {
      return spec.operation == Operation::kDense;
    })),
    TestName);

// The scalar reference itself against arithmetic in double.
TEST(ScalarReference, IsTheMatrixProduct) {
  std::mt19937 random(3);
  const size_t rows = 45, cols = 77;
  const std::vector<float> weights = RandomVector(rows * cols, random);
  const auto largest = [](const std::vector<float>& values) -> double {
    return std::fabs(*std::max_element(
        values.begin(), values.end(),
        [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
  };
  const double largest_weight = largest(weights);
  const std::vector<float> x = RandomVector(cols, random);
  const double largest_x = largest(x);
  const std::vector<uint32_t> kept_cols = RandomIndex(cols, 0.4, random);
  const std::vector<uint32_t> kept_rows = RandomIndex(rows, 0.4, random);
  const auto contains = [](const std::vector<uint32_t>& list, size_t i) {
    return std::binary_search(list.begin(), list.end(),
                              static_cast<uint32_t>(i));
  };
  const SourceMatrix source{weights.data(), SourceMatrix::Type::kF32, rows,
                            cols, false};
  size_t checked = 0;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    if (!entry.is_reference()) continue;
    const Layout layout = LayoutOf(entry.spec);
    const PackedMatrix packed =
        PackedMatrix::Pack({&source, 1}, entry.spec.type, layout).value();
    MaskScratch scratch(std::max(rows, cols));
    const bool masks_rows = entry.spec.operation == Operation::kRowMask;
    const bool masks_cols = entry.spec.operation == Operation::kColumnMask;
    const auto& list = masks_rows ? kept_rows : kept_cols;
    std::vector<float> y(rows, kCanary);
    KernelArgs args = ArgsOn(packed);
    args.x = x.data();
    args.mask =
        MaskFromIndex(list.data(), list.size(), masks_rows ? nullptr : x.data(),
                      masks_rows ? rows : cols, 1, scratch.storage());
    args.y = y.data();
    args.ahead = AheadBytes(entry.spec.prefetch);
    entry.fn(args);
    // Nibbles are multiplied as stored, 0 to 15, and 8 is subtracted or a
    // minimum added later: up to sixteen steps of at most an eighth of the
    // largest weight.
    const double added =
        FormatOf(entry.spec.type).bits == 4 ? 2 * largest_weight : 0;
    // Half a step of the rounding of an input to 8 bits, or of the factor of an
    // integer: up to 127, the largest weight, or 8, whose scale is up to a
    // seventh of it.
    const bool to_bf16 = NeedsNativeBf16(entry.spec);
    const double rounding =
        RoundsInput(entry.spec) && !to_bf16 ? largest_x / 254 : 0;
    // Half a step of bf16, and the steps of the sums.
    const double relative = (to_bf16 ? 0x1p-8 : 0) + 0x1p-22;
    const double largest_product =
        entry.spec.algorithm == Algorithm::kRoundedColumns
            ? (FormatOf(entry.spec.type).bits == 4 ? 8.0 / 7 : 1) *
                  largest_weight
            : 0;
    for (size_t i = 0; i < rows; ++i) {
      double sum = 0;
      double magnitude = 0, weights_magnitude = 0;
      for (size_t j = 0; j < cols; ++j) {
        if (masks_cols && !contains(kept_cols, j)) continue;
        const auto weight = static_cast<double>(packed.At(i, j));
        sum += weight * x[j];
        magnitude += (std::fabs(weight) + added) * std::fabs(x[j]);
        weights_magnitude += std::max(std::fabs(weight), largest_product);
      }
      if (masks_rows && !contains(kept_rows, i)) sum = 0;
      ASSERT_NEAR(y[i], sum,
                  relative * magnitude + rounding * weights_magnitude)
          << entry.FullName();
    }
    ++checked;
  }
  // Each type has two entries on rows and two on columns. Floats have four more
  // on panels, integers three with rounded inputs and two on interleaved rows;
  // bf16 also has the two of rows with rounded inputs.
  const auto integers =
      static_cast<size_t>(std::ranges::count_if(kWeightTypes, IsQuantized));
  EXPECT_EQ(checked, 8 * kWeightTypes.size() + integers + 2);
}

}  // namespace
}  // namespace rankforge
