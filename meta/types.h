// The vocabulary of a problem: operation, weight type, memory layout, mask
// kind. Everything here is constexpr and knows no SIMD library and no I/O.
#ifndef RANKFORGE_META_TYPES_H_
#define RANKFORGE_META_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace rankforge {

// y (rows,) = w (rows, cols) @ x (cols,) with nothing, outputs or inputs
// skipped.
enum class Operation : uint8_t { kDense, kRowMask, kColumnMask };

// How a weight is stored; activations and sums are always f32.
enum class WeightType : uint8_t { kF32, kBf16 };

// How a weight matrix (rows, cols) lies in memory. See runtime/packed_matrix.h
// for strides and padding.
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
inline constexpr std::array kWeightTypes = {WeightType::kF32,
                                            WeightType::kBf16};
inline constexpr std::array kLayouts = {Layout::kOutIn, Layout::kInOut,
                                        Layout::kPanel64, Layout::kPanel128};

constexpr std::string_view Name(Operation operation) {
  constexpr std::array<std::string_view, 3> kNames = {"dense", "row_mask",
                                                      "column_mask"};
  return kNames[static_cast<size_t>(operation)];
}

constexpr std::string_view Name(WeightType type) {
  constexpr std::array<std::string_view, 2> kNames = {"f32", "bf16"};
  return kNames[static_cast<size_t>(type)];
}

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

constexpr size_t BytesPerWeight(WeightType type) {
  return type == WeightType::kF32 ? 4 : 2;
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
