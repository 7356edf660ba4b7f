// The vocabulary of a problem: operation, weight type, memory layout, mask
// kind. Everything here is constexpr and knows no SIMD library and no I/O.
#ifndef RANKFORGE_META_TYPES_H_
#define RANKFORGE_META_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

namespace rankforge {

// y (rows,) = w (rows, cols) @ x (cols,) with nothing, outputs or inputs
// skipped.
enum class Operation : uint8_t { kDense, kRowMask, kColumnMask };

// How a weight is stored; activations and sums are always f32. Integers are
// symmetric (weight = integer * scale): kI8 has one f32 scale a run (row,
// column; see Layout), kI<bits>Group<n> one f16 scale for n neighbours of it.
enum class WeightType : uint8_t {
  kF32,
  kBf16,
  kF16,
  kI8,
  kI8Group32,
  kI4Group32,
  kI4Group64
};

// How a weight matrix (rows, cols) lies in memory. See
// runtime/plan/packed_matrix.h for strides and padding.
//   kOutIn   [row][col]            one row is contiguous: rows can be skipped
//   kInOut   [col][row]            one column is contiguous: columns can
//   kPanelN  [row / N][col][N]     N outputs of one column are contiguous and
//                                  stay in registers over all kept columns
enum class Layout : uint8_t { kOutIn, kInOut, kPanel64, kPanel128 };

// Every row or column of a packed matrix is padded with zeros to a multiple of
// this many elements. It is also the number of partial sums of a row dot, so
// that every target, whatever its vector width, adds in the same order.
inline constexpr size_t kBlock = 32;

// Largest number of neighbouring rows or columns that one mask bit may cover.
inline constexpr size_t kMaxGranularity = 32;

inline constexpr std::array kOperations = {
    Operation::kDense, Operation::kRowMask, Operation::kColumnMask};
inline constexpr std::array kWeightTypes = {
    WeightType::kF32,       WeightType::kBf16,      WeightType::kF16,
    WeightType::kI8,        WeightType::kI8Group32, WeightType::kI4Group32,
    WeightType::kI4Group64,
};
inline constexpr std::array kLayouts = {Layout::kOutIn, Layout::kInOut,
                                        Layout::kPanel64, Layout::kPanel128};

constexpr std::string_view Name(Operation operation) {
  constexpr std::array<std::string_view, 3> kNames = {"dense", "row_mask",
                                                      "column_mask"};
  return kNames[static_cast<size_t>(operation)];
}

// What a weight type is, beside its values.
enum class Scaling : uint8_t { kNone, kRun, kGroup };

struct WeightFormat {
  std::string_view name;
  size_t bits;   // of one weight
  size_t group;  // neighbours that share an f16 scale; 0: none do
  Scaling scaling;
};

// clang-format off
inline constexpr std::array<WeightFormat, kWeightTypes.size()> kWeightFormats =
    {{{"f32", 32, 0, Scaling::kNone},
      {"bf16", 16, 0, Scaling::kNone},
      {"f16", 16, 0, Scaling::kNone},
      {"i8", 8, 0, Scaling::kRun},
      {"i8_group32", 8, 32, Scaling::kGroup},
      {"i4_group32", 4, 32, Scaling::kGroup},
      {"i4_group64", 4, 64, Scaling::kGroup}}};
// clang-format on

constexpr const WeightFormat& FormatOf(WeightType type) {
  return kWeightFormats[static_cast<size_t>(type)];
}

constexpr std::string_view Name(WeightType type) { return FormatOf(type).name; }

constexpr std::string_view Name(Layout layout) {
  constexpr std::array<std::string_view, 4> kNames = {"out_in", "in_out",
                                                      "panel64", "panel128"};
  return kNames[static_cast<size_t>(layout)];
}

// The inverse of Name: the value of `values` with this name, if any.
template <class Enum, size_t N>
constexpr std::optional<Enum> FromName(const std::array<Enum, N>& values,
                                       std::string_view name) {
  for (const Enum value : values) {
    if (Name(value) == name) return value;
  }
  return std::nullopt;
}

// body(std::integral_constant<WeightType, type>()) for a type of `types`: from
// a value to a template parameter.
template <const auto& types = kWeightTypes, class Body>
constexpr void WithType(WeightType type, Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    (void)((type == types[i] &&
            (body(std::integral_constant<WeightType, types[i]>()), true)) ||
           ...);
  }
  (std::make_index_sequence<types.size()>());
}

// Integer weights, which a scale belongs to.
constexpr bool IsQuantized(WeightType type) {
  return FormatOf(type).scaling != Scaling::kNone;
}

// Two weights a byte (meta/packing.h).
template <WeightType type>
inline constexpr bool kNibbles = FormatOf(type).bits == 4;

// Useful bytes: `count` weights and the scales of their groups. The one scale
// of a run, 4 bytes for thousands of weights, is left out.
constexpr double WeightBytes(WeightType type, double count) {
  const WeightFormat& format = FormatOf(type);
  const double scales =
      format.group == 0 ? 0 : 2 / static_cast<double>(format.group);
  return count * (static_cast<double>(format.bits) / 8 + scales);
}

// Outputs a panel holds; 0 for the layouts without panels.
constexpr size_t PanelWidth(Layout layout) {
  if (layout == Layout::kPanel64) return 64;
  return layout == Layout::kPanel128 ? 128 : 0;
}

constexpr size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace rankforge

#endif  // RANKFORGE_META_TYPES_H_
