// The scalar reference: the definition of every operation, and the oracle of
// the tests and of the tuner. It follows the arithmetic that all vector
// kernels promise (one FMA chain an output in column layouts, kBlock partial
// sums and one tree for row dots), so the comparison is exact.
#include <array>
#include <cmath>

#include "kernels/bfloat16.h"
#include "kernels/entries.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

template <WeightType type>
float WeightAt(const KernelArgs& args, Layout layout, size_t row, size_t col) {
  const size_t offset = PackedOffset(layout, type, args.stride, row, col);
  if constexpr (type == WeightType::kBf16) {
    return FromBf16(static_cast<const uint16_t*>(args.w)[offset]);
  } else {
    return static_cast<const float*>(args.w)[offset];
  }
}

float StartOf(const KernelArgs& args, size_t row) {
  if (args.accumulate) return args.y[row];
  return args.bias == nullptr ? 0.0f : args.bias[row];
}

template <WeightType type>
float RowSum(const KernelArgs& args, size_t row) {
  std::array<float, kBlock> partial{};
  for (size_t j = 0; j < args.cols; ++j) {
    float& sum = partial[j % kBlock];
    sum =
        std::fma(WeightAt<type>(args, Layout::kOutIn, row, j), args.x[j], sum);
  }
  for (size_t half = kBlock / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

template <WeightType type>
void DenseRows(const KernelArgs& args) {
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    args.y[i] = StartOf(args, i) + RowSum<type>(args, i);
  }
}

template <WeightType type>
void MaskedRows(const KernelArgs& args) {
  if (!args.accumulate) {
    for (size_t i = args.row_begin; i < args.row_end; ++i) args.y[i] = 0;
  }
  for (size_t k = 0; k < args.mask.kept; ++k) {
    const size_t first = args.mask.index[k] * args.mask.granularity;
    for (size_t i = first;
         i < first + args.mask.granularity && i < args.row_end; ++i) {
      args.y[i] = StartOf(args, i) + RowSum<type>(args, i);
    }
  }
}

template <WeightType type, Layout layout>
void DenseColumns(const KernelArgs& args) {
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    float sum = StartOf(args, i);
    for (size_t j = 0; j < args.cols; ++j) {
      sum = std::fma(WeightAt<type>(args, layout, i, j), args.x[j], sum);
    }
    args.y[i] = sum;
  }
}

template <WeightType type, Layout layout>
void MaskedColumns(const KernelArgs& args) {
  const size_t granularity = args.mask.granularity;
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    float sum = StartOf(args, i);
    for (size_t k = 0; k < args.mask.kept; ++k) {
      for (size_t g = 0; g < granularity; ++g) {
        const size_t j = args.mask.index[k] * granularity + g;
        if (j >= args.cols) break;
        sum = std::fma(WeightAt<type>(args, layout, i, j),
                       args.mask.value[k * granularity + g], sum);
      }
    }
    args.y[i] = sum;
  }
}

constexpr VariantSpec SpecOf(Operation operation, WeightType type,
                             Layout layout) {
  const Algorithm algorithm = layout == Layout::kOutIn ? Algorithm::kRowDot
                              : layout == Layout::kInOut
                                  ? Algorithm::kColumnBatch
                                  : Algorithm::kPanel;
  // Granularity is read from the mask, so one entry serves all.
  return {
      operation,
      type,
      algorithm,
      operation == Operation::kDense ? MaskForm::kNone : MaskForm::kIndexList,
      1,
      1,
      static_cast<uint8_t>(PanelWidth(layout)),
      Prefetch::kNone};
}

template <Operation operation, WeightType type, Layout layout>
inline constexpr VariantName kName = NameOf(SpecOf(operation, type, layout));

template <Operation operation, WeightType type, Layout layout>
constexpr KernelEntry MakeEntry(KernelFn fn) {
  return {SpecOf(operation, type, layout),
          "scalar",
          "NONE",
          kName<operation, type, layout>.c_str(),
          SpecHash(kName<operation, type, layout>.view()),
          fn,
          0,
          0,
          false};
}

template <WeightType type, Layout layout>
constexpr std::array<KernelEntry, 2> ColumnEntries() {
  return {
      MakeEntry<Operation::kDense, type, layout>(&DenseColumns<type, layout>),
      MakeEntry<Operation::kColumnMask, type, layout>(
          &MaskedColumns<type, layout>)};
}

template <WeightType type>
constexpr std::array<KernelEntry, 8> EntriesOf() {
  constexpr auto in_out = ColumnEntries<type, Layout::kInOut>();
  constexpr auto panel64 = ColumnEntries<type, Layout::kPanel64>();
  constexpr auto panel128 = ColumnEntries<type, Layout::kPanel128>();
  return {
      MakeEntry<Operation::kDense, type, Layout::kOutIn>(&DenseRows<type>),
      MakeEntry<Operation::kRowMask, type, Layout::kOutIn>(&MaskedRows<type>),
      in_out[0],
      in_out[1],
      panel64[0],
      panel64[1],
      panel128[0],
      panel128[1]};
}

}  // namespace

std::span<const KernelEntry> ScalarEntries() {
  static constexpr auto kEntries = [] {
    constexpr auto f32 = EntriesOf<WeightType::kF32>();
    constexpr auto bf16 = EntriesOf<WeightType::kBf16>();
    std::array<KernelEntry, f32.size() + bf16.size()> all{};
    for (size_t i = 0; i < f32.size(); ++i) all[i] = f32[i];
    for (size_t i = 0; i < bf16.size(); ++i) all[f32.size() + i] = bf16[i];
    return all;
  }();
  return kEntries;
}

}  // namespace rankforge
