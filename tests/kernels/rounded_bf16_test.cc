// The arithmetic of vdpbf16ps (Intel's manual,
// kernels/rounded/rounded_bf16.cc): of the scalar reference everywhere, of the
// kernels on CPUs that have it.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "meta/rules.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "tests/kernels/packed_args.h"

namespace rankforge {
namespace {

constexpr WeightType kBf16 = WeightType::kBf16;

// y = w (rows, cols) @ x (cols,).
std::vector<float> Product(const KernelEntry& entry,
                           const std::vector<float>& w,
                           const std::vector<float>& x) {
  const size_t rows = w.size() / x.size();
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, x.size(),
                            false};
  const PackedMatrix packed =
      PackedMatrix::Pack({&source, 1}, kBf16, Layout::kOutIn).value();
  InputScratch scratch(x.size());
  std::vector<float> y(rows);
  KernelArgs args = ArgsOn(packed);
  args.x = x.data();
  args.rounded =
      RoundInput(x.data(), x.size(), kBf16, Layout::kOutIn, scratch.storage());
  args.y = y.data();
  args.ahead = AheadBytes(entry.spec.prefetch);
  entry.fn(args);
  return y;
}

// The dense entries with inputs rounded to bf16.
std::vector<const KernelEntry*> Entries() {
  std::vector<const KernelEntry*> entries;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    if (NeedsNativeBf16(entry.spec) &&
        entry.spec.operation == Operation::kDense) {
      entries.push_back(&entry);
    }
  }
  return entries;
}

// Elements that are added to one partial sum: kFirst, then kUpper, then kLower,
// two blocks later. kUpper is in the upper half of the word of kLower.
constexpr size_t kFirst = 0, kLower = 2 * kBlock, kUpper = kLower + kBlock / 2;

struct Term {
  size_t element;
  float w;
  float x;
};
void ExpectSum(const std::vector<Term>& terms, float expected) {
  std::vector<float> w(3 * kBlock), x(3 * kBlock);
  for (const Term& term : terms) {
    w[term.element] = term.w;
    x[term.element] = term.x;
  }
  for (const KernelEntry* entry : Entries()) {
    const float sum = Product(*entry, w, x)[0];
    EXPECT_EQ(std::bit_cast<uint32_t>(sum), std::bit_cast<uint32_t>(expected))
        << entry->FullName() << ": " << sum << ", expected " << expected;
  }
}

TEST(RoundedBf16Test, TheUpperElementIsAddedFirst) {
  // A half of the last place, then three quarters. In the other order the sum
  // would be 1 + 2^-22, with both at once 1 + 2^-23 * 5/4.
  ExpectSum({{kFirst, 1, 1}, {kLower, 0x3p-25f, 1}, {kUpper, 0x1p-24f, 1}},
            1 + 0x1p-23f);
}

TEST(RoundedBf16Test, ProductsAreExact) {
  // 1 - (1 + 2^-7) (1 - 2^-7) = 2^-14; the product rounded to eight digits
  // is 1.
  ExpectSum({{kFirst, 1, 1}, {kLower, -0x1.02p0f, 0x1.fcp-1f}}, 0x1p-14f);
}

TEST(RoundedBf16Test, DenormalNumbersAreZeros) {
  const float tiny = 0x1p-130f, smallest = 0x1p-126f;
  ExpectSum({{kFirst, tiny, 0x1p100f}}, 0);
  ExpectSum({{kFirst, 0x1p100f, tiny}}, 0);
  ExpectSum({{kFirst, 0x1p-70f, 0x1p-70f}}, 0);
  ExpectSum({{kFirst, smallest, 1}}, smallest);
  ExpectSum({{kFirst, 1.5f * smallest, 1}, {kLower, -smallest, 1}}, 0);
  // Sums, not products.
  ExpectSum({{kFirst, smallest, 1}, {kLower, smallest, 0.5f}}, 1.5f * smallest);
  ExpectSum({{kFirst, smallest, 0.5f}, {kLower, smallest, 0.5f}}, 0);
  // 24 digits can hold 2^-126 - 2^-150; half of that difference rounds up.
  ExpectSum({{kFirst, smallest, 1}, {kLower, -0x1p-75f, 0x1p-75f}}, 0);
  ExpectSum({{kFirst, smallest, 1}, {kLower, -0x1p-75f, 0x1p-76f}}, smallest);
}

TEST(RoundedBf16Test, InputsAreRoundedToNearestEven) {
  ExpectSum({{kFirst, 1, 1 + 0x1p-8f}}, 1);
  ExpectSum({{kFirst, 1, 1 + 0x3p-8f}}, 1 + 0x1p-6f);
  ExpectSum({{kFirst, 1, 1 + 0x1.1p-8f}}, 1 + 0x1p-7f);
  ExpectSum({{kFirst, 1, 0x1.ffp127f}}, INFINITY);
  ExpectSum({{kFirst, 2, -INFINITY}}, -INFINITY);
}

// Products and sums on either side of the smallest normal number.
TEST(RoundedBf16Test, TinySumsAgreeWithTheReference) {
  const size_t rows = 300, cols = 211;
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-66, -60);
  std::vector<float> w(rows * cols), x(cols);
  const auto draw = [&](float& value) {
    value = std::ldexp(normal(random), exponent(random));
  };
  for (float& value : w) draw(value);
  for (float& value : x) draw(value);
  const std::vector<const KernelEntry*> entries = Entries();
  ASSERT_FALSE(entries.empty());
  ASSERT_TRUE(entries.back()->is_reference());
  const std::vector<float> expected = Product(*entries.back(), w, x);
  for (const KernelEntry* entry : entries) {
    EXPECT_EQ(Product(*entry, w, x), expected) << entry->FullName();
  }
}

}  // namespace
}  // namespace rankforge
