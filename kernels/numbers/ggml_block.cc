#include "kernels/numbers/ggml_block.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"

namespace rankforge {
namespace {

// The fields of a block, read one after the other.
class Fields {
 public:
  explicit Fields(const std::byte* block) : next_(block) {}

  float Half() { return FromF16(Take<uint16_t>()); }
  template <class T>
  T Take() {
    T value;
    std::memcpy(&value, next_, sizeof(value));
    next_ += sizeof(value);
    return value;
  }
  template <size_t n>
  std::array<uint8_t, n> Bytes() {
    return Take<std::array<uint8_t, n>>();
  }

 private:
  const std::byte* next_;
};

void WidenF32(const std::byte* block, float* out) {
  out[0] = Fields(block).Take<float>();
}
void WidenF16(const std::byte* block, float* out) {
  out[0] = Fields(block).Half();
}
void WidenBf16(const std::byte* block, float* out) {
  out[0] = FromBf16(Fields(block).Take<uint16_t>());
}

// Blocks of 32: weight i < 16 is in the low half of byte i, weight 16 + i in
// the high half.
constexpr size_t kHalf = 16;

// The minimum of blocks that have none: adding it changes no product, -0
// neither.
constexpr float kNone = -0.0f;

// out = scale * (nibble - zero) + minimum.
void WidenNibbles(const std::array<uint8_t, kHalf>& nibbles, float scale,
                  int zero, float minimum, float* out) {
  for (size_t i = 0; i < kHalf; ++i) {
    const float low = scale * static_cast<float>((nibbles[i] & 15) - zero);
    const float high = scale * static_cast<float>((nibbles[i] >> 4) - zero);
    out[i] = low + minimum;
    out[kHalf + i] = high + minimum;
  }
}

void WidenQ4_0(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  WidenNibbles(fields.Bytes<kHalf>(), scale, 8, kNone, out);
}

void WidenQ4_1(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  const float minimum = fields.Half();
  WidenNibbles(fields.Bytes<kHalf>(), scale, 0, minimum, out);
}

// Bit i of `fifths` is the fifth bit of weight i.
void WidenFiveBits(uint32_t fifths, const std::array<uint8_t, kHalf>& nibbles,
                   float scale, int zero, float minimum, float* out) {
  for (size_t i = 0; i < 2 * kHalf; ++i) {
    const int nibble = i < kHalf ? nibbles[i] & 15 : nibbles[i - kHalf] >> 4;
    const int fifth = static_cast<int>(fifths >> i & 1) << 4;
    const float product = scale * static_cast<float>((nibble | fifth) - zero);
    out[i] = product + minimum;
  }
}

void WidenQ5_0(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  const auto fifths = fields.Take<uint32_t>();
  WidenFiveBits(fifths, fields.Bytes<kHalf>(), scale, 16, kNone, out);
}

void WidenQ5_1(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  const float minimum = fields.Half();
  const auto fifths = fields.Take<uint32_t>();
  WidenFiveBits(fifths, fields.Bytes<kHalf>(), scale, 0, minimum, out);
}

void WidenQ8_0(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  for (size_t i = 0; i < 32; ++i) {
    out[i] = scale * static_cast<float>(fields.Take<int8_t>());
  }
}

void WidenIq4Nl(const std::byte* block, float* out) {
  static constexpr std::array<float, 16> kValues = {
      -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  Fields fields(block);
  const float scale = fields.Half();
  const auto nibbles = fields.Bytes<kHalf>();
  for (size_t i = 0; i < kHalf; ++i) {
    out[i] = scale * kValues[nibbles[i] & 15];
    out[kHalf + i] = scale * kValues[nibbles[i] >> 4];
  }
}

// Super-blocks of 256 weights, whose parts have scales of few bits.
constexpr size_t kSuper = 256;

// Two bits of weight i of a super-block: four groups of 32 share 32 bytes.
size_t QuarterByte(size_t i) { return i / 128 * 32 + i % 32; }
size_t QuarterShift(size_t i) { return i % 128 / 32 * 2; }

void WidenQ2K(const std::byte* block, float* out) {
  Fields fields(block);
  const auto scales = fields.Bytes<kSuper / 16>();
  const auto quarters = fields.Bytes<kSuper / 4>();
  const float scale = fields.Half();
  const float minimum = fields.Half();
  for (size_t i = 0; i < kSuper; ++i) {
    const uint8_t both = scales[i / 16];
    const float step = scale * static_cast<float>(both & 15);
    const float below = minimum * static_cast<float>(both >> 4);
    const int two = quarters[QuarterByte(i)] >> QuarterShift(i) & 3;
    const float product = step * static_cast<float>(two);
    out[i] = product - below;
  }
}

// 16 scales of 6 bits: low halves in bytes 0 to 7, high pairs in 8 to 11.
int SixBitScale(const std::array<uint8_t, 12>& scales, size_t i) {
  const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
  return low | high << 4;
}

void WidenQ3K(const std::byte* block, float* out) {
  Fields fields(block);
  const auto thirds = fields.Bytes<kSuper / 8>();
  const auto quarters = fields.Bytes<kSuper / 4>();
  const auto scales = fields.Bytes<12>();
  const float scale = fields.Half();
  for (size_t i = 0; i < kSuper; ++i) {
    const float step =
        scale * static_cast<float>(SixBitScale(scales, i / 16) - 32);
    const int two = quarters[QuarterByte(i)] >> QuarterShift(i) & 3;
    const int third = thirds[i % 32] >> (i / 32) & 1;
    out[i] = step * static_cast<float>(two - (third != 0 ? 0 : 4));
  }
}

// Scale and minimum `i` of 8, of 6 bits each, in 12 bytes.
struct ScaleAndMinimum {
  uint8_t scale;
  uint8_t minimum;
};
ScaleAndMinimum SixBitPair(const std::array<uint8_t, 12>& packed, size_t i) {
  if (i < 4) {
    return {static_cast<uint8_t>(packed[i] & 63),
            static_cast<uint8_t>(packed[i + 4] & 63)};
  }
  return {static_cast<uint8_t>((packed[i + 4] & 15) | packed[i - 4] >> 6 << 4),
          static_cast<uint8_t>(packed[i + 4] >> 4 | packed[i] >> 6 << 4)};
}

// Q4_K, and with `fifths` (bit i / 32 of byte i % 32) Q5_K.
void WidenPairs(float scale, float minimum,
                const std::array<uint8_t, 12>& packed,
                const std::array<uint8_t, 32>* fifths,
                const std::array<uint8_t, kSuper / 2>& nibbles, float* out) {
  for (size_t i = 0; i < kSuper; ++i) {
    const ScaleAndMinimum pair = SixBitPair(packed, i / 32);
    const float step = scale * static_cast<float>(pair.scale);
    const float below = minimum * static_cast<float>(pair.minimum);
    const uint8_t byte = nibbles[i / 64 * 32 + i % 32];
    int value = i % 64 < 32 ? byte & 15 : byte >> 4;
    if (fifths != nullptr) value |= ((*fifths)[i % 32] >> (i / 32) & 1) << 4;
    const float product = step * static_cast<float>(value);
    out[i] = product - below;
  }
}

void WidenQ4K(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  const float minimum = fields.Half();
  const auto packed = fields.Bytes<12>();
  WidenPairs(scale, minimum, packed, nullptr, fields.Bytes<kSuper / 2>(), out);
}

void WidenQ5K(const std::byte* block, float* out) {
  Fields fields(block);
  const float scale = fields.Half();
  const float minimum = fields.Half();
  const auto packed = fields.Bytes<12>();
  const auto fifths = fields.Bytes<32>();
  WidenPairs(scale, minimum, packed, &fifths, fields.Bytes<kSuper / 2>(), out);
}

void WidenQ6K(const std::byte* block, float* out) {
  Fields fields(block);
  const auto nibbles = fields.Bytes<kSuper / 2>();
  const auto pairs = fields.Bytes<kSuper / 4>();
  const auto scales = fields.Take<std::array<int8_t, kSuper / 16>>();
  const float scale = fields.Half();
  for (size_t i = 0; i < kSuper; ++i) {
    const float step = scale * static_cast<float>(scales[i / 16]);
    const uint8_t byte = nibbles[i / 128 * 64 + i % 64];
    const int low = i % 128 < 64 ? byte & 15 : byte >> 4;
    const int high = pairs[QuarterByte(i)] >> QuarterShift(i) & 3;
    out[i] = step * static_cast<float>((low | high << 4) - 32);
  }
}

void ScaleInFront(const std::byte* block, float* scales, float* minimums) {
  scales[0] = Fields(block).Half();
  minimums[0] = 0;
}
void ScaleAndMinimumInFront(const std::byte* block, float* scales,
                            float* minimums) {
  Fields fields(block);
  scales[0] = fields.Half();
  minimums[0] = fields.Half();
}
// Q4_K and Q5_K.
void EightPairs(const std::byte* block, float* scales, float* minimums) {
  Fields fields(block);
  const float scale = fields.Half();
  const float minimum = fields.Half();
  const auto packed = fields.Bytes<12>();
  for (size_t i = 0; i < 8; ++i) {
    const ScaleAndMinimum pair = SixBitPair(packed, i);
    scales[i] = scale * static_cast<float>(pair.scale);
    minimums[i] = -(minimum * static_cast<float>(pair.minimum));
  }
}

constexpr bool kMin = true;

// clang-format off
constexpr GgmlFormat kFormats[] = {
    // type            minimum name    weights bytes bits group groups widen
    {GgmlType::kF32,    !kMin, "F32",    1,      4,   0, 1,  nullptr, WidenF32},
    {GgmlType::kF16,    !kMin, "F16",    1,      2,   0, 1,  nullptr, WidenF16},
    {GgmlType::kBf16,   !kMin, "BF16",   1,      2,   0, 1,  nullptr, WidenBf16},
    {GgmlType::kQ4_0,   !kMin, "Q4_0",   32,     18,  4, 32, ScaleInFront, WidenQ4_0},
    {GgmlType::kQ4_1,   kMin,  "Q4_1",   32,     20,  4, 32, ScaleAndMinimumInFront, WidenQ4_1},
    {GgmlType::kQ5_0,   !kMin, "Q5_0",   32,     22,  5, 32, ScaleInFront, WidenQ5_0},
    {GgmlType::kQ5_1,   kMin,  "Q5_1",   32,     24,  5, 32, ScaleAndMinimumInFront, WidenQ5_1},
    {GgmlType::kQ8_0,   !kMin, "Q8_0",   32,     34,  8, 32, ScaleInFront, WidenQ8_0},
    {GgmlType::kQ2K,    kMin,  "Q2_K",   kSuper, 84,  0, 16, nullptr, WidenQ2K},
    {GgmlType::kQ3K,    !kMin, "Q3_K",   kSuper, 110, 0, 16, nullptr, WidenQ3K},
    {GgmlType::kQ4K,    kMin,  "Q4_K",   kSuper, 144, 4, 32, EightPairs, WidenQ4K},
    {GgmlType::kQ5K,    kMin,  "Q5_K",   kSuper, 176, 5, 32, EightPairs, WidenQ5K},
    {GgmlType::kQ6K,    !kMin, "Q6_K",   kSuper, 210, 0, 16, nullptr, WidenQ6K},
    {GgmlType::kIq4Nl,  !kMin, "IQ4_NL", 32,     18,  8, 32, ScaleInFront, WidenIq4Nl},
};
// clang-format on

static_assert(std::ranges::all_of(kFormats, [](const GgmlFormat& format) {
  return format.weights <= kMaxGgmlWeights;
}));

}  // namespace

std::span<const GgmlFormat> GgmlFormats() { return kFormats; }

const GgmlFormat* FindGgmlFormat(uint32_t type) {
  const auto found =
      std::ranges::find(kFormats, GgmlType{type}, &GgmlFormat::type);
  return found == std::end(kFormats) ? nullptr : found;
}

const GgmlFormat& FormatOf(GgmlType type) {
  const GgmlFormat* const format = FindGgmlFormat(static_cast<uint32_t>(type));
  assert(format != nullptr);
  return *format;
}

}  // namespace rankforge
