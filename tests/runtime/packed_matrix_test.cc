// Packing keeps every weight, pads with zeros and widens back.
#include "runtime/plan/packed_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "kernels/numbers/stored_weight.h"
#include "meta/packing.h"
#include "runtime/plan/source_weight.h"
#include "tests/random_vector.h"

namespace rankforge {
namespace {

float Rounded(float value, WeightType type) {
  if (type == WeightType::kBf16) return FromBf16(ToBf16(value));
  if (type == WeightType::kF16) return FromF16(ToF16(value));
  return value;
}

// Layouts that hold this type.
std::vector<Layout> LayoutsOf(WeightType type) {
  std::vector<Layout> layouts;
  for (const Layout layout : kLayouts) {
    if (Offers(layout, type)) layouts.push_back(layout);
  }
  return layouts;
}

// Largest magnitude among those that share a scale with weight (row, col).
float LargestOfGroup(const std::vector<float>& w, size_t rows, size_t cols,
                     const PackedMatrix& packed, size_t row, size_t col) {
  const bool by_row = RunsAreRows(packed.layout());
  const size_t length = by_row ? cols : rows;
  const size_t element = by_row ? col : row;
  const size_t format_group = FormatOf(packed.type()).group;
  const size_t group = format_group == 0 ? length : format_group;
  const size_t begin = element / group * group;
  float largest = 0;
  for (size_t i = begin; i < std::min(begin + group, length); ++i) {
    const float value = by_row ? w[row * cols + i] : w[i * cols + col];
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

void ExpectZero(const std::byte* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(begin[i], std::byte{0});
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
      for (const Layout layout : LayoutsOf(type)) {
        const PackedMatrix packed =
            PackedMatrix::Pack({&source, 1}, type, layout).value();
        double squared_error = 0, squares = 0;
        for (size_t i = 0; i < rows; ++i) {
          for (size_t j = 0; j < cols; ++j) {
            const float value = w[i * cols + j];
            const float stored = packed.At(i, j);
            squared_error += std::pow(double{stored} - value, 2);
            squares += double{value} * value;
            if (!IsQuantized(type)) {
              ASSERT_EQ(stored, Rounded(value, type));
              continue;
            }
            // Half a step, and of 4 bits a whole one where 8 is cut to 7; the
            // f16 scale is off by up to 2^-11 of the steps.
            const bool nibble = FormatOf(type).bits == 4;
            const float step = LargestOfGroup(w, rows, cols, packed, i, j) /
                               (nibble ? 7.0f : 127.0f);
            ASSERT_LE(std::abs(stored - value), step * (nibble ? 1.01f : 0.57f))
                << Name(type) << " " << Name(layout) << " " << i << " " << j;
          }
        }
        if (IsQuantized(type)) {
          EXPECT_NEAR(packed.quantization_error().Relative(),
                      std::sqrt(squared_error / squares), 1e-5);
        } else {
          EXPECT_EQ(packed.quantization_error().Relative(), 0);
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(packed.data()) % kCacheLine, 0u);
        EXPECT_EQ(packed.useful_bytes(),
                  WeightBytes(type, static_cast<double>(rows * cols)));

        // Padding: the rest of the last block of each run, and whole runs.
        const size_t block = BlockBytes(type);
        const bool by_row = RunsAreRows(layout);
        const size_t length = packed.run_length();
        for (size_t run = 0; run < packed.runs(); ++run) {
          // Integers with a minimum need not be zero in the last group.
          const size_t padding =
              FormatOf(type).has_minimum ? RoundUp(length, kBlock) : length;
          for (size_t i = padding; i < RoundUp(length, kBlock); ++i) {
            const size_t row = by_row ? run : i, col = by_row ? i : run;
            const PackedPosition at = PackedPositionOf(
                layout, type, packed.stride(), rows, cols, row, col);
            WithType(type, [&](auto constant) {
              ASSERT_EQ(WeightIn<constant>(layout, packed.data(), at), 0);
            });
          }
        }
        if (RowsTogether(layout) > 1) {
          const size_t used =
              RoundUp(rows, RowsTogether(layout)) / RowsTogether(layout);
          ExpectZero(
              packed.data() + used * packed.stride(),
              (PackedStrides(layout, rows, cols) - used) * packed.stride());
        } else if (PanelWidth(layout) == 0) {
          const size_t strides = PackedStrides(layout, rows, cols);
          ExpectZero(packed.data() + packed.runs() * packed.stride(),
                     (strides - packed.runs()) * packed.stride());
        } else {
          const size_t width = PanelWidth(layout) / kBlock * block;
          ExpectZero(packed.data() + cols * width,
                     packed.stride() - cols * width);
        }
      }
    }
  }
}

TEST(PackedMatrix, GroupWithNanIsNan) {
  const size_t rows = 2, cols = 128;
  std::vector<float> w(rows * cols, 0.5f);
  w[70] = std::numeric_limits<float>::infinity();
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  for (const WeightType type : kWeightTypes) {
    if (!IsQuantized(type)) continue;
    const PackedMatrix packed =
        PackedMatrix::Pack({&source, 1}, type, Layout::kOutIn).value();
    EXPECT_TRUE(std::isnan(packed.At(0, 70)));
    EXPECT_NEAR(packed.At(1, 70), 0.5f, 1e-3f);
    if (FormatOf(type).group == 0) continue;
    EXPECT_NEAR(packed.At(0, 0), 0.5f, 1e-3f);
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

// Blocks of integers times a scale, as ggml writes them, of scales that do not
// bring the largest magnitude to the end of the range.
std::vector<std::byte> GgmlBlocks(GgmlType type, size_t blocks, unsigned seed) {
  std::mt19937 random(seed);
  const size_t size = FormatOf(type).bytes;
  std::vector<std::byte> bytes(blocks * size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0x77);
  for (size_t i = 0; i < blocks; ++i) {
    const uint16_t scale = ToF16(0.01f + 0.001f * static_cast<float>(i % 7));
    std::memcpy(&bytes[i * size], &scale, sizeof(scale));
    if (FormatOf(type).has_minimum) {
      const uint16_t minimum =
          ToF16(0.002f * static_cast<float>(i % 11) - 0.1f);
      std::memcpy(&bytes[i * size + 2], &minimum, sizeof(minimum));
    }
  }
  return bytes;
}

// A type of blocks, a type whose groups hold their integers, and half a step of
// the largest scale when they are rounded again (of 4 bits a whole one, beyond
// -8).
struct KeptBlocks {
  GgmlType source;
  WeightType type;
  float bound;
};

TEST(PackedMatrix, KeepsBlocksOfGgmlWhereGroupsRunAlongTheLayout) {
  const size_t rows = 64, cols = 96;
  for (const auto& [source_type, type, bound] :
       {KeptBlocks{GgmlType::kQ8_0, WeightType::kI8Group32, 0.009f},
        KeptBlocks{GgmlType::kQ5_0, WeightType::kI8Group32, 0.009f},
        KeptBlocks{GgmlType::kIq4Nl, WeightType::kI8Group32, 0.009f},
        KeptBlocks{GgmlType::kQ4_0, WeightType::kI8Group32, 0.009f},
        KeptBlocks{GgmlType::kQ4_0, WeightType::kI4Group32, 0.017f},
        KeptBlocks{GgmlType::kQ4_1, WeightType::kI4mGroup32, 0.01f}}) {
    const auto first = GgmlBlocks(source_type, rows * cols / 32, 1);
    const auto second = GgmlBlocks(source_type, rows * cols / 32, 2);
    for (const bool transposed : {false, true}) {
      SourceMatrix parts[] = {
          {first.data(), source_type, rows, cols, transposed},
          {second.data(), source_type, rows, cols, transposed}};
      parts[1].order = {2, 4, 2};
      for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
        const PackedMatrix packed =
            PackedMatrix::Pack(parts, type, layout).value();
        const bool keeps = (layout == Layout::kInOut) == transposed;
        for (size_t i = 0; i < 2 * rows; ++i) {
          for (size_t j = 0; j < cols; ++j) {
            const float weight = SourceAt(parts[i / rows], i % rows, j);
            ASSERT_NEAR(packed.At(i, j), weight, keeps ? 0 : bound)
                << FormatOf(source_type).name << " " << Name(type) << " "
                << Name(layout) << " " << i << " " << j;
          }
        }
        const double error = packed.quantization_error().Relative();
        if (keeps) {
          EXPECT_EQ(error, 0);
        } else {
          EXPECT_GT(error, 0);
          EXPECT_LT(error, FormatOf(type).bits == 4 ? 0.12 : 0.01);
        }
      }
    }
  }
}

// Its scales and minimums are products that an f16 may not hold; the integers
// are kept all the same.
TEST(PackedMatrix, KeepsQ4KButForTheRoundingOfItsScales) {
  const size_t rows = 32, cols = 512;
  const auto blocks = GgmlBlocks(GgmlType::kQ4K, rows * cols / 256, 1);
  const SourceMatrix source{blocks.data(), GgmlType::kQ4K, rows, cols, false};
  const auto error = [&](Layout layout) {
    return PackedMatrix::Pack({&source, 1}, WeightType::kI4mGroup32, layout)
        .value()
        .quantization_error()
        .Relative();
  };
  EXPECT_GT(error(Layout::kOutIn), 0);
  EXPECT_LT(error(Layout::kOutIn), 0x1p-11);
  EXPECT_GT(error(Layout::kInOut), 0.01);
}

// Scales of smaller groups, and integers of more bits, are no groups of ours.
TEST(PackedMatrix, RoundsOtherBlocksOfGgmlAgain) {
  for (const GgmlType source_type :
       {GgmlType::kQ5_0, GgmlType::kQ8_0, GgmlType::kQ4_1, GgmlType::kQ5_1}) {
    const auto blocks = GgmlBlocks(source_type, 32 * 3, 1);
    const SourceMatrix source{blocks.data(), source_type, 32, 96, false};
    for (const WeightType type :
         {WeightType::kI4Group32, WeightType::kI4mGroup32}) {
      if (KeepsBlocks(source_type, type)) continue;
      const PackedMatrix packed =
          PackedMatrix::Pack({&source, 1}, type, Layout::kOutIn).value();
      EXPECT_GT(packed.quantization_error().Relative(), 0)
          << FormatOf(source_type).name << " " << Name(type);
    }
  }
}

TEST(PackedMatrix, OtherTypesWidenBlocksOfGgml) {
  const auto blocks = GgmlBlocks(GgmlType::kQ4_0, 6, 3);
  const SourceMatrix source{blocks.data(), GgmlType::kQ4_0, 3, 64, false};
  const PackedMatrix packed =
      PackedMatrix::Pack({&source, 1}, WeightType::kF32, Layout::kInOut)
          .value();
  // Row 1 begins with the third block; its element 20 is the high half of the
  // byte with element 4.
  float scale = 0.01f + 0.002f;
  scale = FromF16(ToF16(scale));
  const std::byte* integers = blocks.data() + 2 * 18 + 2;
  EXPECT_EQ(packed.At(1, 4), scale * (static_cast<float>(std::to_integer<int>(
                                          integers[4] & std::byte{15})) -
                                      8));
  EXPECT_EQ(
      packed.At(1, 20),
      scale * (static_cast<float>(std::to_integer<int>(integers[4] >> 4)) - 8));
}

// Every type of blocks in every layout, against WidenLine of whole lines: tiles
// begin and end inside blocks.
TEST(PackedMatrix, TilesOfBlocksAreThoseOfLines) {
  const size_t rows = 6, cols = 768;
  for (const GgmlFormat& format : GgmlFormats()) {
    const size_t count = rows * cols / format.weights;
    std::mt19937 random(5);
    std::vector<std::byte> bytes(count * format.bytes);
    for (std::byte& byte : bytes)
      byte = static_cast<std::byte>(random() & 0x37);
    SourceMatrix source{bytes.data(), format.type, rows, cols, false};
    source.order = {3, 2, 1};
    source.added = 0.5f;
    for (const Layout layout : LayoutsOf(WeightType::kF32)) {
      const PackedMatrix packed =
          PackedMatrix::Pack({&source, 1}, WeightType::kF32, layout).value();
      for (size_t row = 0; row < rows; ++row) {
        // (3, 2) rows of the matrix are (2, 3) of the file.
        const size_t stored = row % 2 * 3 + row / 2;
        std::vector<float> line(cols);
        for (size_t i = 0; i < cols; i += format.weights) {
          format.widen(
              &bytes[(stored * cols + i) / format.weights * format.bytes],
              &line[i]);
        }
        for (size_t col = 0; col < cols; ++col) {
          ASSERT_EQ(packed.At(row, col), line[col] + 0.5f)
              << format.name << " " << Name(layout) << " " << row << " " << col;
        }
      }
    }
  }
}

TEST(PackedMatrix, LinesOfGgmlAreWholeBlocks) {
  const auto blocks = GgmlBlocks(GgmlType::kQ8_0, 4, 4);
  const SourceMatrix source{blocks.data(), GgmlType::kQ8_0, 2, 40, false};
  const auto packed =
      PackedMatrix::Pack({&source, 1}, WeightType::kF32, Layout::kOutIn);
  ASSERT_FALSE(packed.ok());
  EXPECT_NE(packed.status().message().find("lines of 40"), std::string::npos);
}

TEST(PackedMatrix, WidensTilesOfEveryLayout) {
  const size_t rows = 300, cols = 45;
  const std::vector<float> w = RandomVector(rows * cols, 4);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  for (const WeightType type : kWeightTypes) {
    for (const Layout layout : LayoutsOf(type)) {
      const PackedMatrix packed =
          PackedMatrix::Pack({&source, 1}, type, layout).value();
      for (const auto& [begin, count] : {std::pair<size_t, size_t>{0, 64},
                                         {64, 96},
                                         {128, 172},
                                         {256, 44}}) {
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

// Files of packed weights say which revision of packing made them. Weights with
// zeros of both signs, halves between two integers and a run of zeros. A type
// or a layout that is added at the end of its list changes the hash alone.
TEST(PackedMatrix, BytesOfARevisionNeverChange) {
  const size_t rows = 131, cols = 77;
  std::vector<float> w(rows * cols);
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<float>(i * 2654435761u % 509) / 64 - 4;
    if (i / cols == 3 || i % cols == 5) w[i] = i % 2 == 0 ? 0.0f : -0.0f;
  }
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const WeightType type : kWeightTypes) {
    for (const Layout layout : LayoutsOf(type)) {
      const PackedMatrix packed =
          PackedMatrix::Pack({&source, 1}, type, layout).value();
      for (size_t i = 0; i < packed.bytes(); ++i) {
        hash ^= std::to_integer<uint64_t>(packed.data()[i]);
        hash *= 0x100000001b3u;
      }
    }
  }
  EXPECT_EQ(kPackingRevision, 1u);
  EXPECT_EQ(hash, 11821525387700383694u)
      << "raise kPackingRevision and put the new values here";
}

TEST(PackedMatrix, AdoptsOnlyWhatFits) {
  const std::vector<float> w = RandomVector(6, 5);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, 2, 3, false};
  const auto packed = std::make_shared<const PackedMatrix>(
      PackedMatrix::Pack({&source, 1}, WeightType::kI8, Layout::kInOut)
          .value());
  const std::span<const std::byte> bytes(packed->data(), packed->bytes());
  const auto adopt = [&](size_t rows, WeightType type, Layout layout,
                         std::span<const std::byte> from) {
    return PackedMatrix::Adopt(rows, 3, type, layout, from, packed,
                               packed->quantization_error());
  };
  const auto adopted = adopt(2, WeightType::kI8, Layout::kInOut, bytes);
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  EXPECT_EQ(adopted->data(), packed->data());
  EXPECT_EQ(adopted->run_scales(), packed->run_scales());
  EXPECT_EQ(adopted->At(1, 2), packed->At(1, 2));
  EXPECT_EQ(adopted->quantization_error().Relative(),
            packed->quantization_error().Relative());
  EXPECT_FALSE(adopt(0, WeightType::kI8, Layout::kInOut, bytes).ok());
  EXPECT_FALSE(adopt(2, WeightType::kF32, Layout::kInOut, bytes).ok());
  EXPECT_FALSE(adopt(2, WeightType::kI8, Layout::kPanel64, bytes).ok());
  EXPECT_FALSE(adopt(2, WeightType::kI8, Layout::kInOut, bytes.first(8)).ok());
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
  const auto panels =
      PackedMatrix::Pack({parts, 1}, WeightType::kI8, Layout::kPanel64);
  ASSERT_FALSE(panels.ok());
  EXPECT_NE(panels.status().message().find("panel64"), std::string::npos);
}

// The heads of neighbouring rows or columns must not share a cache set, unless
// each is whole pages.
TEST(Packing, StridesAreWholePagesOrOddLines) {
  for (const WeightType type : kWeightTypes) {
    for (const Layout layout : {Layout::kOutIn, Layout::kInOut}) {
      for (const size_t n : {1, 64, 512, 2048, 4096, 11008}) {
        const size_t bytes = PackedStride(layout, type, n, n);
        const size_t needed =
            ScaleBytes(type, n) + BlockBytes(type, RunWeights(n));
        EXPECT_EQ(bytes % kCacheLine, 0u);
        if (needed % kSmallPage == 0) {
          EXPECT_EQ(bytes, needed);
        } else {
          EXPECT_EQ(bytes / kCacheLine % 2, 1u);
        }
      }
    }
  }
}

}  // namespace
}  // namespace rankforge
