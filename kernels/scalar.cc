// The scalar reference: the definition of every operation, and the oracle of
// the tests and of the tuner. It follows the arithmetic that all vector
// kernels promise (one FMA chain an output in column layouts, kBlock partial
// sums and one tree for row dots), so the comparison is exact.
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/entries.h"
#include "kernels/stored_weight.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

// A weight is value * scale, the scale being that of its group; 1 for types
// without groups.
struct ScaledWeight {
  float value;
  float scale;
};

template <WeightType type>
ScaledWeight WeightAt(const KernelArgs& args, Layout layout, size_t row,
                      size_t col) {
  const PackedPosition at = PackedPositionOf(layout, type, args.stride,
                                             args.rows, args.cols, row, col);
  const auto* w = static_cast<const std::byte*>(args.w);
  ScaledWeight weight = {StoredWeight<type>(w + at.block, at.in_block), 1};
  if constexpr (FormatOf(type).scaling == Scaling::kGroup) {
    uint16_t half;
    std::memcpy(&half, w + at.scales + at.element / FormatOf(type).group * 2,
                sizeof(half));
    weight.scale = FromF16(half);
  }
  return weight;
}

// The scale of a row or column.
float RunScale(const KernelArgs& args, size_t run) {
  return args.run_scales == nullptr ? 1 : args.run_scales[run];
}

float StartOf(const KernelArgs& args, size_t row) {
  if (args.accumulate) return args.y[row];
  return args.bias == nullptr ? 0.0f : args.bias[row];
}

// The sum of partial sums: halves onto halves.
template <size_t n>
float Reduce(std::array<float, n> partial) {
  for (size_t half = n / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

template <WeightType type>
float RowSum(const KernelArgs& args, size_t row) {
  std::array<float, kBlock> partial{};
  for (size_t j = 0; j < args.cols; ++j) {
    float& sum = partial[j % kBlock];
    const ScaledWeight w = WeightAt<type>(args, Layout::kOutIn, row, j);
    sum = std::fma(w.value * w.scale, args.x[j], sum);
  }
  return Reduce(partial) * RunScale(args, row);
}

// Elements p and p + 16 of a block share a partial sum, and their inputs pay
// for the zero that stored nibbles have. The padding of a row is read.
template <WeightType type>
requires(kNibbles<type>) float RowSum(const KernelArgs& args, size_t row) {
  constexpr size_t kHalf = kBlock / 2;
  std::array<float, kHalf> partial{};
  const auto input = [&](size_t j) { return j < args.cols ? args.x[j] : 0.0f; };
  const auto stored = [&](size_t j) {
    return WeightAt<type>(args, Layout::kOutIn, row, j).value + kNibbleZero;
  };
  for (size_t block = 0; block < args.cols; block += kBlock) {
    const float scale = WeightAt<type>(args, Layout::kOutIn, row, block).scale;
    for (size_t p = 0; p < kHalf; ++p) {
      const size_t low = block + p;
      const size_t high = low + kHalf;
      float sum = -kNibbleZero * (input(low) + input(high));
      sum = std::fma(stored(low), input(low), sum);
      sum = std::fma(stored(high), input(high), sum);
      partial[p] = std::fma(sum, scale, partial[p]);
    }
  }
  return Reduce(partial);
}

// An output as columns are added to it. A column's input takes the scale first;
// of stored nibbles the sums of their factors pay for the zero in the end.
template <WeightType type>
class ColumnSum {
 public:
  explicit ColumnSum(float start) : sum_(start) {}
  void Add(const KernelArgs& args, Layout layout, size_t row, size_t col,
           float x) {
    constexpr float kZero = kNibbles<type> ? kNibbleZero : 0;
    const ScaledWeight w = WeightAt<type>(args, layout, row, col);
    const float factor = w.scale * (RunScale(args, col) * x);
    sum_ = std::fma(w.value + kZero, factor, sum_);
    factors_ += factor;
  }
  float value() const {
    return kNibbles<type> ? std::fma(-kNibbleZero, factors_, sum_) : sum_;
  }

 private:
  float sum_;
  float factors_ = 0;
};

bool KeepsGroup(const MaskView& mask, size_t group) {
  return (mask.bits[group / 64] >> (group % 64) & 1) != 0;
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
    const size_t group = args.mask.index[k];
    // Another token may have kept it.
    if (args.tokens > 1 && !KeepsGroup(args.mask, group)) continue;
    const size_t first = group * args.mask.granularity;
    for (size_t i = first;
         i < first + args.mask.granularity && i < args.row_end; ++i) {
      args.y[i] = StartOf(args, i) + RowSum<type>(args, i);
    }
  }
}

template <WeightType type, Layout layout>
void DenseColumns(const KernelArgs& args) {
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    ColumnSum<type> sum(StartOf(args, i));
    for (size_t j = 0; j < args.cols; ++j) {
      sum.Add(args, layout, i, j, args.x[j]);
    }
    args.y[i] = sum.value();
  }
}

template <WeightType type, Layout layout>
void MaskedColumns(const KernelArgs& args) {
  const size_t granularity = args.mask.granularity;
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    ColumnSum<type> sum(StartOf(args, i));
    for (size_t k = 0; k < args.mask.kept; ++k) {
      for (size_t g = 0; g < granularity; ++g) {
        const size_t j = args.mask.index[k] * granularity + g;
        if (j >= args.cols) break;
        sum.Add(args, layout, i, j, args.mask.value[k * granularity + g]);
      }
    }
    args.y[i] = sum.value();
  }
}

template <KernelFn one_token>
void EachToken(const KernelArgs& args) {
  KernelArgs token = args;
  for (size_t t = 0; t < args.tokens; ++t) {
    one_token(token);
    token.x += args.x_stride;
    token.y += args.y_stride;
    token.mask.value += args.mask.value_stride;
    token.mask.bits += args.mask.bits_stride;
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

template <Operation operation, WeightType type, Layout layout,
          KernelFn one_token>
constexpr KernelEntry MakeEntry() {
  return {SpecOf(operation, type, layout),
          "scalar",
          "NONE",
          kName<operation, type, layout>.c_str(),
          SpecHash(kName<operation, type, layout>.view()),
          &EachToken<one_token>,
          0,
          0,
          false};
}

template <WeightType type, Layout layout>
constexpr std::array<KernelEntry, 2> ColumnEntries() {
  return {
      MakeEntry<Operation::kDense, type, layout, &DenseColumns<type, layout>>(),
      MakeEntry<Operation::kColumnMask, type, layout,
                &MaskedColumns<type, layout>>()};
}

template <WeightType type>
constexpr void AddEntries(std::span<KernelEntry> entries, size_t& size) {
  const auto add = [&](const KernelEntry& entry) { entries[size++] = entry; };
  const auto add_columns = [&](const std::array<KernelEntry, 2>& pair) {
    for (const KernelEntry& entry : pair) add(entry);
  };
  add(MakeEntry<Operation::kDense, type, Layout::kOutIn, &DenseRows<type>>());
  add(MakeEntry<Operation::kRowMask, type, Layout::kOutIn,
                &MaskedRows<type>>());
  add_columns(ColumnEntries<type, Layout::kInOut>());
  if constexpr (Offers(Layout::kPanel64, type)) {
    add_columns(ColumnEntries<type, Layout::kPanel64>());
    add_columns(ColumnEntries<type, Layout::kPanel128>());
  }
}

struct EntryList {
  std::array<KernelEntry, 8 * kWeightTypes.size()> entries{};
  size_t size = 0;
};

}  // namespace

std::span<const KernelEntry> ScalarEntries() {
  static constexpr EntryList kList =
      []<size_t... i>(std::index_sequence<i...>) {
    EntryList list;
    (AddEntries<kWeightTypes[i]>(list.entries, list.size), ...);
    return list;
  }
  (std::make_index_sequence<kWeightTypes.size()>());
  return std::span(kList.entries).first(kList.size);
}

}  // namespace rankforge
