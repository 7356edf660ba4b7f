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
// symmetric: weight = integer * scale. kI8 has one f32 scale per run (row or
// column; see Layout), kI<bits>Group<n> one f16 scale per n neighbours of a
// run. kI4mGroup32 also has an f16 minimum per group, and integers from 0 on:
// weight = integer * scale + minimum. Groups of 32 are also those of ggml's
// blocks (Q8_0, Q4_0, Q4_1).
enum class WeightType : uint8_t {
  kF32,
  kBf16,
  kF16,
  kI8,
  kI8Group32,
  kI4Group32,
  kI4Group64,
  kI4mGroup32
};

// What products do to their inputs before they multiply. Sums are f32 in any
// case. This is part of a problem, and stated by the user: tuning chooses among
// kernels that all do the same.
//   kF32   nothing
//   kBf16  each is rounded to bf16
//   kI8    rounded to integers of 8 bits (kernels/rounded/rounded_input.h)
enum class Activations : uint8_t { kF32, kBf16, kI8 };

// How a weight matrix (rows, cols) lies in memory. See
// runtime/plan/packed_matrix.h for strides and padding.
//   kOutIn   [row][col]            one row is contiguous: rows can be skipped
//   kInOut   [col][row]            one column is contiguous: columns can
//   kPanelN  [row / N][col][N]     N outputs of one column are contiguous and
//                                  stay in registers over all kept columns
//   kRows16  [row / 16][col / 4][16][4]
//                                  four neighbours of each of 16 rows (eight of
//                                  4 bits), after the scales of the next
//                                  groups: a sum per lane. For integers
//   kInOut2  as kInOut, for column masks: an output is the sum of two, each
//            over half of the kept columns, which two threads may compute
enum class Layout : uint8_t {
  kOutIn,
  kInOut,
  kPanel64,
  kPanel128,
  kRows16,
  kInOut2
};

// Every row or column of a packed matrix is padded with zeros to a multiple of
// this many elements. A row dot has as many partial sums, so that every target,
// whatever its vector width, adds in the same order.
inline constexpr size_t kBlock = 32;

// Largest number of neighbouring rows or columns that one mask bit may cover.
inline constexpr size_t kMaxGranularity = 32;

// A value of an enum and its name in tables, options and names of variants.
// One array of these lists the values of an enum, in their order; the arrays of
// values and Name follow from it.
template <class Enum>
struct Named {
  Enum value;
  std::string_view name;
};
// clang 14 does not deduce it for aggregates.
template <class Enum>
Named(Enum, std::string_view) -> Named<Enum>;

namespace internal {

// Whether row i of `rows` is of value i of the enum, so that a value finds its
// row.
template <class Row, size_t n>
constexpr bool InOrder(const std::array<Row, n>& rows) {
  for (size_t i = 0; i < n; ++i) {
    if (static_cast<size_t>(rows[i].value) != i) return false;
  }
  return true;
}

template <class Row, size_t n>
constexpr auto ValuesOf(const std::array<Row, n>& rows) {
  std::array<decltype(Row::value), n> values{};
  for (size_t i = 0; i < n; ++i) values[i] = rows[i].value;
  return values;
}

}  // namespace internal

inline constexpr std::array kOperationNames = {
    Named{Operation::kDense, "dense"},
    Named{Operation::kRowMask, "row_mask"},
    Named{Operation::kColumnMask, "column_mask"},
};
static_assert(internal::InOrder(kOperationNames));
inline constexpr auto kOperations = internal::ValuesOf(kOperationNames);

constexpr std::string_view Name(Operation operation) {
  return kOperationNames[static_cast<size_t>(operation)].name;
}

// Which weights share a scale: none have one, each run has one (f32), each
// group of neighbours has one (f16).
enum class Scaling : uint8_t { kNone, kRun, kGroup };

// What a weight type is, beside its weights.
struct WeightFormat {
  WeightType value;
  std::string_view name;
  size_t bits;   // of one weight
  size_t group;  // neighbours that share an f16 scale; 0: none do
  Scaling scaling;
  bool has_minimum = false;  // beside each scale of a group
};

// THE list of weight types.
inline constexpr std::array<WeightFormat, 8> kWeightFormats = {{
    {WeightType::kF32, "f32", 32, 0, Scaling::kNone},
    {WeightType::kBf16, "bf16", 16, 0, Scaling::kNone},
    {WeightType::kF16, "f16", 16, 0, Scaling::kNone},
    {WeightType::kI8, "i8", 8, 0, Scaling::kRun},
    {WeightType::kI8Group32, "i8_group32", 8, 32, Scaling::kGroup},
    {WeightType::kI4Group32, "i4_group32", 4, 32, Scaling::kGroup},
    {WeightType::kI4Group64, "i4_group64", 4, 64, Scaling::kGroup},
    {WeightType::kI4mGroup32, "i4m_group32", 4, 32, Scaling::kGroup, true},
}};
static_assert(internal::InOrder(kWeightFormats));
inline constexpr auto kWeightTypes = internal::ValuesOf(kWeightFormats);

constexpr const WeightFormat& FormatOf(WeightType type) {
  return kWeightFormats[static_cast<size_t>(type)];
}

constexpr std::string_view Name(WeightType type) { return FormatOf(type).name; }

inline constexpr std::array kActivationNames = {
    Named{Activations::kF32, "f32"},
    Named{Activations::kBf16, "bf16"},
    Named{Activations::kI8, "i8"},
};
static_assert(internal::InOrder(kActivationNames));
inline constexpr auto kActivations = internal::ValuesOf(kActivationNames);

constexpr std::string_view Name(Activations activations) {
  return kActivationNames[static_cast<size_t>(activations)].name;
}

struct LayoutFormat {
  Layout value;
  std::string_view name;
  size_t panel_width;    // outputs a panel holds; 0: no panels
  size_t rows_together;  // rows whose weights are interleaved
  bool by_row;           // whether a run, which has scales, is a row
  size_t sums;           // that masked columns are added up in
};

// THE list of layouts, and so of panel widths.
inline constexpr std::array<LayoutFormat, 6> kLayoutFormats = {{
    {Layout::kOutIn, "out_in", 0, 1, true, 1},
    {Layout::kInOut, "in_out", 0, 1, false, 1},
    {Layout::kPanel64, "panel64", 64, 1, false, 1},
    {Layout::kPanel128, "panel128", 128, 1, false, 1},
    {Layout::kRows16, "rows16", 0, 16, true, 1},
    {Layout::kInOut2, "in_out_2", 0, 1, false, 2},
}};
static_assert(internal::InOrder(kLayoutFormats));
inline constexpr auto kLayouts = internal::ValuesOf(kLayoutFormats);

constexpr const LayoutFormat& FormatOf(Layout layout) {
  return kLayoutFormats[static_cast<size_t>(layout)];
}

constexpr std::string_view Name(Layout layout) { return FormatOf(layout).name; }

// Outputs a panel holds; 0 for the layouts without panels.
constexpr size_t PanelWidth(Layout layout) {
  return FormatOf(layout).panel_width;
}

// Whether a run is a row, so that groups lie along the inputs; else a column.
constexpr bool RunsAreRows(Layout layout) { return FormatOf(layout).by_row; }

// Whether a column is contiguous.
constexpr bool ColumnsAreContiguous(Layout layout) {
  return !RunsAreRows(layout) && PanelWidth(layout) == 0;
}

// How many sums masked columns are added up in, before these are added. This is
// of the layout, not of the threads, so that results do not depend on those.
constexpr size_t SumsOf(Layout layout) { return FormatOf(layout).sums; }

// Rows whose weights are interleaved; 1 where a row is contiguous or cut into
// panels.
constexpr size_t RowsTogether(Layout layout) {
  return FormatOf(layout).rows_together;
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

// Calls body(std::integral_constant<WeightType, type>()) if `types` has the
// type: from a value to a template parameter.
template <const auto& types = kWeightTypes, class Body>
constexpr void WithType(WeightType type, Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    (void)((type == types[i] &&
            (body(std::integral_constant<WeightType, types[i]>()), true)) ||
           ...);
  }
  (std::make_index_sequence<types.size()>());
}

// Whether weights are integers, which have a scale.
constexpr bool IsQuantized(WeightType type) {
  return FormatOf(type).scaling != Scaling::kNone;
}

// Whether products of this type can have such activations. Weights as integers
// are multiplied by integers, and bf16 by bf16.
constexpr bool Takes(WeightType type, Activations activations) {
  switch (activations) {
    case Activations::kF32:
      break;
    case Activations::kBf16:
      return type == WeightType::kBf16;
    case Activations::kI8:
      return IsQuantized(type);
  }
  return true;
}

// What products of this type do where nobody says. Beside weights of 8 bits or
// less, rounding inputs costs up to 0.4 % of perplexity (docs/performance.md);
// other types stay exact.
constexpr Activations DefaultActivations(WeightType type) {
  return IsQuantized(type) ? Activations::kI8 : Activations::kF32;
}

// Whether a byte holds two weights (meta/packing.h).
template <WeightType type>
inline constexpr bool kNibbles = FormatOf(type).bits == 4;

// Whether each group has a minimum beside its scale.
template <WeightType type>
inline constexpr bool kMinimums = FormatOf(type).has_minimum;

// Useful bytes of `count` weights and the scales and minimums of their groups.
// The scale of a run, 4 bytes for thousands of weights, is left out.
constexpr double WeightBytes(WeightType type, double count) {
  const WeightFormat& format = FormatOf(type);
  const double scales =
      format.group == 0
          ? 0
          : (format.has_minimum ? 4 : 2) / static_cast<double>(format.group);
  return count * (static_cast<double>(format.bits) / 8 + scales);
}

constexpr size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace rankforge

#endif  // RANKFORGE_META_TYPES_H_
