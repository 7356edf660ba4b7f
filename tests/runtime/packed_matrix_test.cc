// Packing keeps every weight, pads with zeros and widens back.
#include "runtime/packed_matrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/bfloat16.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

std::vector<float> RandomVector(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

float Rounded(float value, WeightType type) {
  return type == WeightType::kBf16 ? FromBf16(ToBf16(value)) : value;
}

TEST(PackedMatrix, KeepsEveryWeightAndPadsWithZeros) {
  for (const auto& [rows, cols] : {std::pair<size_t, size_t>{1, 1},
                                   {5, 33},
                                   {64, 96},
                                   {130, 47},
                                   {200, 129}}) {
    const std::vector<float> w = RandomVector(rows * cols, 1);
    const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                              false};
    for (const WeightType type : kWeightTypes) {
      for (const Layout layout : kLayouts) {
        const PackedMatrix packed =
            PackedMatrix::Pack({&source, 1}, type, layout).value();
        double sum = 0, stored_sum = 0;
        for (size_t i = 0; i < rows; ++i) {
          for (size_t j = 0; j < cols; ++j) {
            const float expected = Rounded(w[i * cols + j], type);
            ASSERT_EQ(packed.At(i, j), expected);
            sum += double{expected} * expected;
          }
        }
        // Nothing else is stored: padding adds nothing to the sum of squares.
        const size_t elements = packed.bytes() / BytesPerWeight(type);
        for (size_t i = 0; i < elements; ++i) {
          float value;
          if (type == WeightType::kF32) {
            value = reinterpret_cast<const float*>(packed.data())[i];
          } else {
            value =
                FromBf16(reinterpret_cast<const uint16_t*>(packed.data())[i]);
          }
          stored_sum += double{value} * value;
        }
        EXPECT_NEAR(stored_sum, sum, 1e-9 * sum);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(packed.data()) % kCacheLine, 0u);
        EXPECT_EQ(packed.useful_bytes(), rows * cols * BytesPerWeight(type));
      }
    }
  }
}

TEST(PackedMatrix, StacksConvertsAndTransposes) {
  const size_t cols = 6;
  // f16: 1, -2, 2^-24, 0.1 rounded; bf16: any.
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x0001,
                                      0x2e66, 0x7c00, 0x8000};
  const std::vector<float> first = RandomVector(2 * cols, 2);
  const std::vector<float> columns = RandomVector(cols * 3, 3);  // (cols, 3)
  const SourceMatrix parts[] = {
      {first.data(), SourceMatrix::Type::kF32, 2, cols, false},
      {half.data(), SourceMatrix::Type::kF16, 1, cols, false},
      {columns.data(), SourceMatrix::Type::kF32, 3, cols, true}};
  const PackedMatrix packed =
      PackedMatrix::Pack(parts, WeightType::kF32, Layout::kInOut).value();
  ASSERT_EQ(packed.rows(), 6u);
  EXPECT_EQ(packed.At(1, 4), first[cols + 4]);
  EXPECT_EQ(packed.At(2, 0), 1.0f);
  EXPECT_EQ(packed.At(2, 1), -2.0f);
  EXPECT_EQ(packed.At(2, 2), 0x1p-24f);
  EXPECT_NEAR(packed.At(2, 3), 0.1f, 1e-4f);
  EXPECT_EQ(packed.At(2, 4), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(packed.At(2, 5)));
  EXPECT_EQ(packed.At(4, 5), columns[5 * 3 + 1]);
}

TEST(PackedMatrix, WidensTilesOfEveryLayout) {
  const size_t rows = 300, cols = 45;
  const std::vector<float> w = RandomVector(rows * cols, 4);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  for (const WeightType type : kWeightTypes) {
    for (const Layout layout : kLayouts) {
      const PackedMatrix packed =
          PackedMatrix::Pack({&source, 1}, type, layout).value();
      for (const auto& [begin, count] :
           {std::pair<size_t, size_t>{0, 32}, {32, 64}, {96, 204}, {288, 12}}) {
        std::vector<float> tile(count * cols);
        packed.WidenTile(begin, count, tile.data());
        for (size_t i = 0; i < count; ++i) {
          for (size_t j = 0; j < cols; ++j) {
            const size_t at =
                packed.TilesAreTransposed() ? j * count + i : i * cols + j;
            ASSERT_EQ(tile[at], packed.At(begin + i, j));
          }
        }
      }
    }
  }
}

TEST(PackedMatrix, RefusesImpossibleShapes) {
  EXPECT_FALSE(PackedMatrix::Zero(0, 4, WeightType::kF32, Layout::kOutIn).ok());
  EXPECT_FALSE(PackedMatrix::Zero(size_t{1} << 40, size_t{1} << 40,
                                  WeightType::kF32, Layout::kOutIn)
                   .ok());
  const float w[6] = {};
  const SourceMatrix parts[] = {{w, SourceMatrix::Type::kF32, 2, 3, false},
                                {w, SourceMatrix::Type::kF32, 3, 2, false}};
  const auto packed =
      PackedMatrix::Pack(parts, WeightType::kF32, Layout::kOutIn);
  ASSERT_FALSE(packed.ok());
  EXPECT_NE(packed.status().message().find("columns"), std::string::npos);
}

// The heads of neighbouring rows or columns must not share a cache set, unless
// each is whole pages.
TEST(Packing, StridesAreWholePagesOrOddLines) {
  for (const WeightType type : kWeightTypes) {
    for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
      for (const size_t n : {1, 64, 512, 2048, 4096, 11008}) {
        const size_t bytes =
            PackedStride(layout, type, n, n) * BytesPerWeight(type);
        EXPECT_EQ(bytes % kCacheLine, 0u);
        if (n * BytesPerWeight(type) % kSmallPage == 0) {
          EXPECT_EQ(bytes, n * BytesPerWeight(type));
        } else {
          EXPECT_EQ(bytes / kCacheLine % 2, 1u);
        }
      }
    }
  }
}

}  // namespace
}  // namespace rankforge
