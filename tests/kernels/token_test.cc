// Entries for several tokens, on every target of this CPU: against the scalar
// reference, and each token against the kernels of one token on its own mask,
// bit for bit: odd shapes, empty, full and disjoint masks, 1 to 16 tokens,
// bias, accumulation, sub-ranges of the outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/mask/mask.h"
#include "kernels/registry.h"
#include "kernels/tokens/token_mask.h"
#include "meta/packing.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "tests/kernels/entry_testing.h"
#include "tests/kernels/packed_args.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

struct Shape {
  size_t rows;
  size_t cols;
};

// Fewer, as many and more than steps (64 outputs), passes (8 columns or rows),
// tiles (512 inputs) and stretches of scales (64 blocks) have.
constexpr Shape kShapes[] = {{1, 1},    {7, 9},     {64, 8},   {65, 31},
                             {129, 40}, {200, 513}, {31, 1100}};
constexpr size_t kTokens[] = {1, 2, 3, 4, 5, 7, 8, 16};
constexpr float kCanary = 12345.5f;

enum class Masks { kRandom, kEmpty, kFull, kDisjoint, kOneToken };
constexpr Masks kMasks[] = {Masks::kRandom, Masks::kEmpty, Masks::kFull,
                            Masks::kDisjoint, Masks::kOneToken};

// Which of `count` channels token t of `tokens` keeps.
std::vector<uint64_t> BitsOf(Masks masks, size_t t, size_t tokens,
                             size_t count) {
  std::vector<uint64_t> bits(MaskWords(count));
  const std::vector<float> random =
      RandomVector(count, static_cast<unsigned>(17 * t + count));
  for (size_t i = 0; i < count; ++i) {
    const bool kept = masks == Masks::kFull ||
                      (masks == Masks::kRandom && random[i] > 0) ||
                      (masks == Masks::kDisjoint && i % (2 * tokens) == t) ||
                      (masks == Masks::kOneToken && t == 0 && random[i] > 0);
    bits[i / 64] |= uint64_t{kept} << (i % 64);
  }
  return bits;
}

PackedMatrix Packed(const Shape& shape, WeightType type, Layout layout) {
  const std::vector<float> w = RandomVector(shape.rows * shape.cols, 1);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, shape.rows,
                            shape.cols, false};
  return PackedMatrix::Pack({&source, 1}, type, layout).value();
}

void ExpectSameBits(const std::vector<float>& actual,
                    const std::vector<float>& expected,
                    const std::string& where) {
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]),
              std::bit_cast<uint32_t>(expected[i]))
        << where << " at " << i << ": " << actual[i] << " and " << expected[i];
  }
}

struct Case {
  Masks masks = Masks::kRandom;
  size_t tokens = 4;
  bool with_bias = false;
  bool accumulate = false;
  bool second_quantum = false;
};

class TokenTest : public testing::TestWithParam<const KernelEntry*> {
 protected:
  void Check(const Shape& shape, const PackedMatrix& packed, const Case& c) {
    const KernelEntry& entry = *GetParam();
    const Operation operation = entry.spec.operation;
    const Layout layout = packed.layout();
    // Strides that are no multiple of a vector.
    const size_t x_stride = shape.cols + 3, y_stride = shape.rows + 5;
    const std::vector<float> x = RandomVector(c.tokens * x_stride, 2);
    const std::vector<float> bias = RandomVector(shape.rows, 3);

    KernelArgs args = ArgsOn(packed);
    args.x = x.data();
    args.x_stride = x_stride;
    args.y_stride = y_stride;
    args.tokens = c.tokens;
    args.bias = c.with_bias ? bias.data() : nullptr;
    args.accumulate = c.accumulate;
    const size_t quantum = PartQuantum(layout);
    if (c.second_quantum && shape.rows > quantum) {
      args.row_begin = quantum;
      args.row_end = std::min(shape.rows, 2 * quantum);
    }

    const bool row_mask = operation == Operation::kRowMask;
    const size_t count = row_mask ? shape.rows : shape.cols;
    std::vector<std::vector<uint64_t>> bits;
    std::vector<const uint64_t*> bit_pointers;
    for (size_t t = 0; t < c.tokens; ++t) {
      bits.push_back(BitsOf(c.masks, t, c.tokens, count));
      // A row mask only keeps rows in the sub-range.
      for (size_t i = 0; row_mask && i < count; ++i) {
        if (i < args.row_begin || i >= args.row_end) {
          bits[t][i / 64] &= ~(uint64_t{1} << (i % 64));
        }
      }
    }
    for (const auto& own : bits) bit_pointers.push_back(own.data());
    UnionScratch scratch(c.tokens, count);
    if (operation != Operation::kDense) {
      args.mask = UnionOfMasks(bit_pointers, 1, row_mask ? nullptr : x.data(),
                               x_stride, count, scratch.storage());
    }

    std::vector<float> reference(c.tokens * y_stride, kCanary);
    if (c.accumulate) reference = RandomVector(reference.size(), 5);
    std::vector<float> actual = reference, one_by_one = reference;
    const Registry& registry = Registry::Get();
    args.y = reference.data();
    registry.Reference(entry.spec, layout)->fn(args);
    args.y = actual.data();
    entry.fn(args);
    const KernelEntry* one =
        registry.Default(operation, entry.spec.type, layout, 1);
    MaskScratch one_scratch(count);
    for (size_t t = 0; t < c.tokens; ++t) {
      KernelArgs own = args;
      own.tokens = 1;
      own.x = x.data() + t * x_stride;
      own.y = one_by_one.data() + t * y_stride;
      own.mask = MaskFromBits(bits[t].data(), row_mask ? nullptr : own.x, count,
                              1, one_scratch.storage());
      one->fn(own);
    }
    const std::string where =
        entry.FullName() + " " + std::to_string(shape.rows) + "x" +
        std::to_string(shape.cols) + ", " + std::to_string(c.tokens) +
        " tokens, masks " + std::to_string(static_cast<int>(c.masks)) +
        ", bias " + std::to_string(c.with_bias) + ", accumulate " +
        std::to_string(c.accumulate);
    ExpectSameBits(actual, reference, where + ", reference");
    ExpectSameBits(actual, one_by_one, where + ", one by one");
  }
};

TEST_P(TokenTest, AgreesWithTheReferenceAndWithTokensOneByOne) {
  const VariantSpec& spec = GetParam()->spec;
  for (const Shape& shape : kShapes) {
    const PackedMatrix packed = Packed(shape, spec.type, LayoutOf(spec));
    for (const size_t tokens : kTokens) {
      Check(shape, packed, {.tokens = tokens});
      if (HasFatalFailure()) return;
    }
    for (const Masks masks : kMasks) {
      Check(shape, packed, {.masks = masks, .with_bias = true});
      if (HasFatalFailure()) return;
    }
    Check(shape, packed, {.tokens = 6, .accumulate = true});
    Check(shape, packed, {.with_bias = true, .second_quantum = true});
    if (HasFatalFailure()) return;
  }
}

// Nibbles are walked in tiles of 16384 outputs.
class TokenColumnsTest : public TokenTest {};
TEST_P(TokenColumnsTest, MoreOutputsThanATile) {
  const VariantSpec& spec = GetParam()->spec;
  const Shape shape = {16500, 9};
  Check(shape, Packed(shape, spec.type, Layout::kInOut),
        {.tokens = 3, .with_bias = true});
}

// Column masks of two tokens over 70 x 20 weights of one.
class TokenColumnMaskTest : public testing::TestWithParam<const KernelEntry*> {
 protected:
  static constexpr size_t kRows = 70, kCols = 20;
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

  // The outputs of both tokens, which keep the columns of these bits.
  std::vector<float> Outputs(const std::vector<float>& weights,
                             const std::vector<float>& x, uint64_t first,
                             uint64_t second) {
    const SourceMatrix source{weights.data(), SourceMatrix::Type::kF32, kRows,
                              kCols, false};
    const PackedMatrix packed =
        PackedMatrix::Pack({&source, 1}, GetParam()->spec.type, Layout::kInOut)
            .value();
    const uint64_t* const bits[] = {&first, &second};
    UnionScratch scratch(2, kCols);
    std::vector<float> y(2 * kRows, kCanary);
    KernelArgs args = ArgsOn(packed);
    args.mask =
        UnionOfMasks(bits, 1, x.data(), kCols, kCols, scratch.storage());
    args.y = y.data();
    args.y_stride = kRows;
    args.tokens = 2;
    GetParam()->fn(args);
    return y;
  }
};

// A token that drops a column does not see what its own input has there.
TEST_P(TokenColumnMaskTest, NanOfAnInputStaysWithItsToken) {
  const std::vector<float> weights(kRows * kCols, 1.0f);
  std::vector<float> x(2 * kCols, 1.0f);
  x[5] = kNan;          // of the first token, which drops it
  x[kCols + 7] = kNan;  // of the second one, which keeps it
  const std::vector<float> y = Outputs(weights, x, 0b0000011, 0b10100001);
  for (size_t i = 0; i < kRows; ++i) {
    // Ones are not multiples of a rounded scale.
    EXPECT_NEAR(y[i], 2, IsQuantized(GetParam()->spec.type) ? 2e-3 : 0);
    EXPECT_TRUE(std::isnan(y[kRows + i]));
  }
}

// A NaN weight reaches all tokens of the call if one of them keeps its column,
// and else none.
class TokenNanWeightTest : public TokenColumnMaskTest {};
TEST_P(TokenNanWeightTest, ReachesAllTokensWhereOneKeepsItsColumn) {
  std::vector<float> weights(kRows * kCols, 1.0f);
  for (size_t i = 0; i < kRows; ++i) weights[i * kCols + 3] = kNan;
  const std::vector<float> x(2 * kCols, 1.0f);
  const std::vector<float> dropped = Outputs(weights, x, 0b0011, 0b0101);
  for (const float value : dropped) EXPECT_EQ(value, 2);
  const std::vector<float> kept = Outputs(weights, x, 0b1000, 0b0001);
  for (const float value : kept) EXPECT_TRUE(std::isnan(value));
}

// The entries for several tokens that `select` picks. Only targets with FMA
// have any.
template <class Select>
std::vector<const KernelEntry*> TokenEntriesThat(Select select) {
  std::vector<const KernelEntry*> entries;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    if (TakesTokens(entry.spec) && select(entry.spec)) {
      entries.push_back(&entry);
    }
  }
  return entries;
}

bool MasksColumns(const VariantSpec& spec) {
  return spec.operation == Operation::kColumnMask;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenTest);
INSTANTIATE_TEST_SUITE_P(Registry, TokenTest,
                         testing::ValuesIn(TokenEntriesThat(
                             [](const VariantSpec&) { return true; })),
                         TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenColumnsTest);
INSTANTIATE_TEST_SUITE_P(
    Registry, TokenColumnsTest,
    testing::ValuesIn(TokenEntriesThat([](const VariantSpec& spec) {
      return LayoutOf(spec) == Layout::kInOut;
    })),
    TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenColumnMaskTest);
INSTANTIATE_TEST_SUITE_P(Registry, TokenColumnMaskTest,
                         testing::ValuesIn(TokenEntriesThat(&MasksColumns)),
                         TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TokenNanWeightTest);
INSTANTIATE_TEST_SUITE_P(
    Registry, TokenNanWeightTest,
    testing::ValuesIn(TokenEntriesThat([](const VariantSpec& spec) {
      return MasksColumns(spec) && !IsQuantized(spec.type);
    })),
    TestName);

// The scalar reference computes several tokens as it computes each one alone.
TEST(TokenReference, IsTheReferenceOfEachToken) {
  const Shape shape = {33, 70};
  const size_t tokens = 3;
  const std::vector<float> x = RandomVector(tokens * shape.cols, 7);
  for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
    const PackedMatrix packed = Packed(shape, WeightType::kF32, layout);
    const Registry& registry = Registry::Get();
    const KernelEntry* entry = registry.Reference(
        registry.Default(Operation::kDense, WeightType::kF32, layout, 1)->spec,
        layout);
    std::vector<float> together(tokens * shape.rows), alone = together;
    KernelArgs args = ArgsOn(packed);
    args.x = x.data();
    args.x_stride = shape.cols;
    args.y = together.data();
    args.y_stride = shape.rows;
    args.tokens = tokens;
    entry->fn(args);
    args.tokens = 1;
    for (size_t t = 0; t < tokens; ++t) {
      args.x = x.data() + t * shape.cols;
      args.y = alone.data() + t * shape.rows;
      entry->fn(args);
    }
    EXPECT_EQ(together, alone);
  }
}

// The union by definition, over sizes around words and vectors.
TEST(UnionOfMasks, IsWhatItSays) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const size_t granularity : {1, 3, 8, 32}) {
    for (const size_t count : {1, 7, 63, 64, 65, 200, 1031}) {
      const size_t tokens = 5, groups = (count + granularity - 1) / granularity;
      std::vector<std::vector<uint64_t>> bits;
      std::vector<const uint64_t*> pointers;
      for (size_t t = 0; t < tokens; ++t) {
        bits.push_back(BitsOf(Masks::kRandom, t, tokens, groups));
        // What lies beyond the last group does not count.
        if (groups % 64 != 0) bits[t].back() |= ~uint64_t{0} << groups % 64;
      }
      for (const auto& own : bits) pointers.push_back(own.data());
      const auto keeps = [&](size_t t, size_t i) {
        const size_t group = i / granularity;
        return (bits[t][group / 64] >> (group % 64) & 1) != 0;
      };
      const size_t stride = count + 2;
      std::vector<float> x = RandomVector(tokens * stride, 3);
      for (size_t t = 0; t < tokens; ++t) {
        for (size_t i = 0; i < count; ++i) {
          if (!keeps(t, i)) x[t * stride + i] = nan;
        }
      }
      UnionScratch scratch(tokens, count);
      const MaskView view = UnionOfMasks(pointers, granularity, x.data(),
                                         stride, count, scratch.storage());
      EXPECT_EQ(view.granularity, 1u);
      EXPECT_EQ(view.groups, count);
      size_t kept = 0;
      for (size_t i = 0; i < count; ++i) {
        bool any = false;
        for (size_t t = 0; t < tokens; ++t) {
          any = any || keeps(t, i);
          const uint64_t* own = view.bits + t * view.bits_stride;
          ASSERT_EQ((own[i / 64] >> (i % 64) & 1) != 0, keeps(t, i));
        }
        if (!any) continue;
        ASSERT_LT(kept, view.kept);
        ASSERT_EQ(view.index[kept], i);
        for (size_t t = 0; t < tokens; ++t) {
          ASSERT_EQ(
              std::bit_cast<uint32_t>(view.value[t * view.value_stride + kept]),
              std::bit_cast<uint32_t>(keeps(t, i) ? x[t * stride + i] : 0.0f))
              << "granularity " << granularity << ", " << i << " of " << count;
        }
        ++kept;
      }
      EXPECT_EQ(kept, view.kept);
      const MaskView of_rows = UnionOfMasks(pointers, granularity, nullptr, 0,
                                            count, scratch.storage());
      EXPECT_EQ(of_rows.kept, kept);
      EXPECT_EQ(of_rows.value, nullptr);
    }
  }
}

}  // namespace
}  // namespace rankforge
