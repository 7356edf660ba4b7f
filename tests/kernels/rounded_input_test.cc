// Rounding of inputs to 8 bits and to bf16, on the best target of this CPU.
#include "kernels/rounded/rounded_input.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "kernels/numbers/bfloat16.h"
#include "runtime/plan/plan.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

constexpr WeightType kI8 = WeightType::kI8, kI4 = WeightType::kI4Group32,
                     kI4m = WeightType::kI4mGroup32;

template <WeightType type>
int IntegerAt(const RoundedInput& rounded, size_t i) {
  return rounded.integers[RoundedPosition<type>(i)];
}

template <WeightType type>
void ExpectEveryInputWithinHalfAStep(size_t cols) {
  const std::vector<float> x = RandomVector(cols, 3);
  InputScratch scratch(cols);
  const RoundedInput rounded =
      RoundInput(x.data(), cols, type, Layout::kOutIn, scratch.storage());
  for (size_t i = 0; i < RoundedBlocks(cols) * kBlock; ++i) {
    const float scale = rounded.scales[i / kBlock];
    const int integer = IntegerAt<type>(rounded, i);
    if (i >= cols) {
      EXPECT_EQ(integer, 0) << cols << " " << i;
      continue;
    }
    EXPECT_LE(std::abs(integer), 127);
    EXPECT_NEAR(x[i], static_cast<float>(integer) * scale, 0.5001f * scale)
        << cols << " " << i;
  }
}

TEST(RoundedInputTest, IsWithinHalfAStep) {
  for (const size_t cols : {1, 31, 32, 33, 64, 127, 128, 129, 300, 4096}) {
    ExpectEveryInputWithinHalfAStep<kI8>(cols);
    ExpectEveryInputWithinHalfAStep<kI4>(cols);
    ExpectEveryInputWithinHalfAStep<kI4m>(cols);
  }
}

TEST(RoundedInputTest, PositionsAreAPermutation) {
  std::set<size_t> i8, i4;
  for (size_t i = 0; i < 512; ++i) {
    i8.insert(RoundedPosition<kI8>(i));
    i4.insert(RoundedPosition<kI4>(i));
  }
  EXPECT_EQ(*i8.rbegin(), 511u);
  EXPECT_EQ(*i4.rbegin(), 511u);
  EXPECT_EQ(i8.size(), 512u);
  EXPECT_EQ(i4.size(), 512u);
}

// -8 times the integers that meet a word of nibbles.
TEST(RoundedInputTest, ZerosPayForStoredNibbles) {
  const size_t cols = 200;
  const std::vector<float> x = RandomVector(cols, 4);
  InputScratch scratch(cols);
  const RoundedInput rounded =
      RoundInput(x.data(), cols, kI4, Layout::kOutIn, scratch.storage());
  for (size_t block = 0; block < RoundedBlocks(cols); ++block) {
    int sums[kBlockZeros] = {};
    for (size_t i = 0; i < kBlock; ++i) {
      sums[NibblePositionOf(i).byte / 4] +=
          IntegerAt<kI4>(rounded, block * kBlock + i);
    }
    for (size_t s = 0; s < kBlockZeros; ++s) {
      EXPECT_EQ(rounded.zeros[block * kBlockZeros + s], -kNibbleZero * sums[s]);
    }
  }
  EXPECT_EQ(
      RoundInput(x.data(), cols, kI8, Layout::kOutIn, scratch.storage()).zeros,
      nullptr);
}

TEST(RoundedInputTest, SumsOfBlocksMeetMinimums) {
  const size_t cols = 200;
  const std::vector<float> x = RandomVector(cols, 6);
  InputScratch scratch(cols);
  const RoundedInput rounded =
      RoundInput(x.data(), cols, kI4m, Layout::kOutIn, scratch.storage());
  EXPECT_EQ(rounded.zeros, nullptr);
  for (size_t block = 0; block < RoundedBlocks(cols); ++block) {
    int sum = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      sum += IntegerAt<kI4m>(rounded, block * kBlock + i);
    }
    EXPECT_EQ(rounded.sums[block],
              rounded.scales[block] * static_cast<float>(sum));
  }
  EXPECT_EQ(
      RoundInput(x.data(), cols, kI4, Layout::kOutIn, scratch.storage()).sums,
      nullptr);
}

// Interleaved rows read the same integers in the order of x, and one sum per
// block.
TEST(RoundedInputTest, InterleavedRowsTakeInputsInOrder) {
  const size_t cols = 200;
  const std::vector<float> x = RandomVector(cols, 8);
  for (const WeightType type : {kI8, kI4, kI4m}) {
    InputScratch by_nibble(cols), in_order(cols);
    const RoundedInput expected =
        RoundInput(x.data(), cols, type, Layout::kOutIn, by_nibble.storage());
    const RoundedInput rounded =
        RoundInput(x.data(), cols, type, Layout::kRows16, in_order.storage());
    for (size_t block = 0; block < RoundedBlocks(cols); ++block) {
      int sum = 0;
      for (size_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
        EXPECT_EQ(rounded.integers[i],
                  expected.integers[type == kI8 ? RoundedPosition<kI8>(i)
                                                : RoundedPosition<kI4>(i)]);
        sum += rounded.integers[i];
      }
      EXPECT_EQ(rounded.scales[block], expected.scales[block]);
      if (type == kI4) {
        EXPECT_EQ(rounded.zeros[block], -kNibbleZero * sum);
      }
      if (type == kI4m) {
        EXPECT_EQ(rounded.sums[block], expected.sums[block]);
      }
    }
    EXPECT_EQ(rounded.zeros == nullptr, type != kI4);
    EXPECT_EQ(rounded.sums == nullptr, type != kI4m);
  }
}

TEST(RoundedInputTest, BlocksWithoutAScale) {
  const size_t cols = 4 * kBlock;
  std::vector<float> x(cols, 0.0f);
  x[kBlock + 5] = 1e-38f;
  x[2 * kBlock + 3] = std::numeric_limits<float>::infinity();
  x[3 * kBlock + 31] = std::numeric_limits<float>::quiet_NaN();
  InputScratch scratch(cols);
  const RoundedInput rounded =
      RoundInput(x.data(), cols, kI8, Layout::kOutIn, scratch.storage());
  EXPECT_EQ(rounded.scales[0], 0);
  EXPECT_EQ(rounded.scales[1], 0);
  EXPECT_TRUE(std::isnan(rounded.scales[2]));
  EXPECT_TRUE(std::isnan(rounded.scales[3]));
  for (size_t i = 0; i < cols; ++i) {
    EXPECT_EQ(IntegerAt<kI8>(rounded, i), i < 2 * kBlock ? 0 : 1) << i;
  }
}

// Inputs are in the places of bf16 weights, rounded as those are.
TEST(RoundedInputTest, PairsAreStoredAsWeightsAre) {
  for (const size_t cols : {1, 31, 32, 33, 64, 127, 300, 4096}) {
    std::vector<float> x = RandomVector(cols, 5);
    const float special[] = {std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             std::numeric_limits<float>::max(),
                             1 + 0x1p-8f,
                             1 + 0x3p-8f,
                             -0x1p-140f,
                             -0.0f};
    std::copy_n(special, std::min(std::size(special), cols), x.begin());
    InputScratch scratch(cols);
    const RoundedInput rounded = RoundInput(x.data(), cols, WeightType::kBf16,
                                            Layout::kOutIn, scratch.storage());
    EXPECT_EQ(rounded.integers, nullptr);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(rounded.pairs) % kCacheLine, 0u);
    for (size_t i = 0; i < RoundedBlocks(cols) * kBlock; ++i) {
      const uint32_t word =
          rounded.pairs[i / kBlock * (kBlock / 2) + i % (kBlock / 2)];
      const auto value =
          static_cast<uint16_t>(i % kBlock < kBlock / 2 ? word : word >> 16);
      EXPECT_EQ(value, i < cols ? ToBf16(x[i]) : 0) << cols << " " << i;
    }
  }
}

// What kernels multiply, in f32: prefill multiplies these.
TEST(RoundValuesTest, AreTheIntegersTimesTheirScales) {
  for (const size_t cols : {1, 31, 32, 211, 512}) {
    std::vector<float> x = RandomVector(cols, 5);
    if (cols > 100) x[40] = std::numeric_limits<float>::quiet_NaN();
    InputScratch scratch(cols);
    const RoundedInput rounded =
        RoundInput(x.data(), cols, kI8, Layout::kOutIn, scratch.storage());
    std::vector<float> values(cols + 1, -7.0f);
    RoundValues(x.data(), cols, Activations::kI8, values.data());
    for (size_t i = 0; i < cols; ++i) {
      const float expected = static_cast<float>(IntegerAt<kI8>(rounded, i)) *
                             rounded.scales[i / kBlock];
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(values[i])) << i;
      } else {
        EXPECT_EQ(values[i], expected) << i;
      }
    }
    EXPECT_EQ(values[cols], -7.0f);
    // In place: the same.
    RoundValues(x.data(), cols, Activations::kI8, x.data());
    for (size_t i = 0; i < cols; ++i) {
      EXPECT_EQ(std::isnan(x[i]), std::isnan(values[i]));
      if (!std::isnan(x[i])) {
        EXPECT_EQ(x[i], values[i]);
      }
    }
  }
}

TEST(RoundValuesTest, AreTheNearestBf16) {
  std::vector<float> x = RandomVector(45, 6);
  x[3] = std::numeric_limits<float>::infinity();
  std::vector<float> values(x.size());
  RoundValues(x.data(), x.size(), Activations::kBf16, values.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(values[i], FromBf16(ToBf16(x[i])));
  }
}

}  // namespace
}  // namespace rankforge
