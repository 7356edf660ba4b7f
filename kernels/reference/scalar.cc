// The scalar reference: the definition of every operation, and the oracle of
// the tests and of the tuner. It follows the arithmetic that all vector
// kernels promise (one FMA chain per output in column layouts, kBlock partial
// sums and one tree for row dots), so the comparison is exact.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/entries.h"
#include "kernels/numbers/stored_weight.h"
#include "kernels/rounded/rounded_input.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

// A weight is value * scale + minimum, both of its group; 1 and 0 for types
// without them.
struct ScaledWeight {
  float value;
  float scale;
  float minimum;
};

float HalfAt(const std::byte* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof(half));
  return FromF16(half);
}

template <WeightType type>
ScaledWeight WeightAt(const KernelArgs& args, Layout layout, size_t row,
                      size_t col) {
  const PackedPosition at = PackedPositionOf(layout, type, args.stride,
                                             args.rows, args.cols, row, col);
  const auto* w = static_cast<const std::byte*>(args.w);
  ScaledWeight weight = {WeightIn<type>(layout, w, at), 1, 0};
  if constexpr (FormatOf(type).scaling == Scaling::kGroup) {
    weight.scale = HalfAt(w + at.scale);
    if constexpr (kMinimums<type>) weight.minimum = HalfAt(w + at.minimum);
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

// Elements p and p + 16 of a block share a partial sum. Their inputs times
// kNibbleZero are subtracted first, or times the minimum added last. The
// padding of a row is read.
template <WeightType type>
float NibbleRowSum(const KernelArgs& args, size_t row) {
  constexpr size_t kHalf = kBlock / 2;
  std::array<float, kHalf> partial{};
  const auto input = [&](size_t j) { return j < args.cols ? args.x[j] : 0.0f; };
  const auto stored = [&](size_t j) {
    return WeightAt<type>(args, Layout::kOutIn, row, j).value +
           NibbleZero(type);
  };
  for (size_t block = 0; block < args.cols; block += kBlock) {
    const ScaledWeight first = WeightAt<type>(args, Layout::kOutIn, row, block);
    for (size_t p = 0; p < kHalf; ++p) {
      const size_t low = block + p;
      const size_t high = low + kHalf;
      const float both = input(low) + input(high);
      float sum = kMinimums<type>
                      ? stored(low) * input(low)
                      : std::fma(stored(low), input(low), -kNibbleZero * both);
      sum = std::fma(stored(high), input(high), sum);
      partial[p] = std::fma(sum, first.scale, partial[p]);
      if (kMinimums<type>) {
        partial[p] = std::fma(both, first.minimum, partial[p]);
      }
    }
  }
  return Reduce(partial);
}

// A block of inputs of a row dot that rounds them. Rounds independently of
// RoundInput, which it is compared with.
struct RoundedBlock {
  std::array<int, kBlock> integers;
  float scale;
};
RoundedBlock RoundBlock(const KernelArgs& args, size_t begin) {
  std::array<float, kBlock> x{};
  float largest = 0;
  bool finite = true;
  for (size_t i = 0; i < kBlock && begin + i < args.cols; ++i) {
    x[i] = args.x[begin + i];
    largest = std::fmax(largest, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  RoundedBlock block{{}, 0};
  const float inverse = 127 / largest;
  if (!finite) {
    block.integers.fill(1);
    block.scale = std::numeric_limits<float>::quiet_NaN();
  } else if (!std::isinf(inverse)) {
    for (size_t i = 0; i < kBlock; ++i) {
      block.integers[i] = static_cast<int>(std::nearbyint(x[i] * inverse));
    }
    block.scale = largest / 127;
  }
  return block;
}

// Which sum of a line of weights element i of a block adds to.
template <WeightType type>
constexpr size_t SumOf(size_t i) {
  return kNibbles<type> ? NibblePositionOf(i).byte / 4 : i / 4;
}

// The minimums of the next kMinimumBlocks blocks of a row times the sums of the
// inputs, which are added before the products of these blocks.
inline constexpr size_t kMinimumBlocks = 64;
template <WeightType type>
void AddMinimums(const KernelArgs& args, size_t row, size_t begin,
                 std::array<float, kLineSums>& partial) {
  const size_t end = std::min(args.cols, begin + kMinimumBlocks * kBlock);
  for (; begin < end; begin += kBlock) {
    const RoundedBlock x = RoundBlock(args, begin);
    const int integers =
        std::accumulate(x.integers.begin(), x.integers.end(), 0);
    float& sum = partial[begin / kBlock % kLineSums];
    sum = std::fma(WeightAt<type>(args, Layout::kOutIn, row, begin).minimum,
                   x.scale * static_cast<float>(integers), sum);
  }
}

template <WeightType type>
float RoundedRowSum(const KernelArgs& args, size_t row) {
  constexpr size_t kBlockSums = kLineSums / kLineBlocks<type>;
  std::array<float, kLineSums> partial{};
  for (size_t begin = 0; begin < args.cols; begin += kBlock) {
    if (kMinimums<type> && begin % (kMinimumBlocks * kBlock) == 0) {
      AddMinimums<type>(args, row, begin, partial);
    }
    const RoundedBlock x = RoundBlock(args, begin);
    std::array<int, kBlockSums> sums{};
    for (size_t i = 0; i < kBlock && begin + i < args.cols; ++i) {
      const float w =
          WeightAt<type>(args, Layout::kOutIn, row, begin + i).value;
      sums[SumOf<type>(i)] += static_cast<int>(w) * x.integers[i];
    }
    const float scale =
        WeightAt<type>(args, Layout::kOutIn, row, begin).scale * x.scale;
    const size_t first = begin / kBlock % kLineBlocks<type> * kBlockSums;
    for (size_t s = 0; s < kBlockSums; ++s) {
      float& sum = partial[first + s];
      sum = std::fma(static_cast<float>(sums[s]), scale, sum);
    }
  }
  return Reduce(partial) * RunScale(args, row);
}

// Interleaved rows: one FMA chain over the blocks of a row, that of a minimum
// after that of its block. The padding of the last block is read; its inputs
// are zero.
template <WeightType type>
float InterleavedSum(const KernelArgs& args, size_t row) {
  float sum = 0;
  for (size_t begin = 0; begin < args.cols; begin += kBlock) {
    float products = 0;
    std::array<float, kBlock> inputs{};
    for (size_t i = 0; i < kBlock; ++i) {
      if (begin + i < args.cols) inputs[i] = args.x[begin + i];
      const ScaledWeight w =
          WeightAt<type>(args, Layout::kRows16, row, begin + i);
      products = std::fma(w.value, inputs[i], products);
    }
    const ScaledWeight first =
        WeightAt<type>(args, Layout::kRows16, row, begin);
    sum = std::fma(products, first.scale, sum);
    if (kMinimums<type>) {
      sum = std::fma(first.minimum, Reduce(inputs), sum);
    }
  }
  return sum * RunScale(args, row);
}

// The same with rounded inputs, up to a whole step of columns.
template <WeightType type>
float RoundedInterleavedSum(const KernelArgs& args, size_t row) {
  float sum = 0;
  const size_t end = RoundUp(args.cols, InterleavedColumns(type));
  for (size_t begin = 0; begin < end; begin += kBlock) {
    const RoundedBlock x = RoundBlock(args, begin);
    int products = 0, inputs = 0;
    for (size_t i = 0; i < kBlock && begin + i < args.cols; ++i) {
      const float w =
          WeightAt<type>(args, Layout::kRows16, row, begin + i).value;
      products += static_cast<int>(w) * x.integers[i];
      inputs += x.integers[i];
    }
    const ScaledWeight first =
        WeightAt<type>(args, Layout::kRows16, row, begin);
    sum = std::fma(static_cast<float>(products), first.scale * x.scale, sum);
    if (kMinimums<type>) {
      sum = std::fma(first.minimum, x.scale * static_cast<float>(inputs), sum);
    }
  }
  return sum * RunScale(args, row);
}

constexpr float kSmallestNormal = std::numeric_limits<float>::min();

// vdpbf16ps reads denormal numbers as zeros.
float Flushed(float value) {
  return std::fabs(value) < kSmallestNormal ? std::copysign(0.0f, value)
                                            : value;
}

// It also turns denormal sums into zeros. Whether a sum is denormal is decided
// before the sum loses digits to the lowest exponent; scaled sums lose none.
float FlushedFma(float w, float x, float sum) {
  constexpr float kScale = 0x1p24f;
  const float scaled = std::fma(w * kScale, x, sum * kScale);
  return std::fabs(scaled) < kSmallestNormal * kScale
             ? std::copysign(0.0f, scaled)
             : std::fma(w, x, sum);
}

// One partial sum per word of two blocks; the element in the upper half of the
// word is added first. The padding of a row is read.
template <WeightType type>
float PairedRowSum(const KernelArgs& args, size_t row) {
  constexpr size_t kHalf = kBlock / 2;
  std::array<float, kColumnStep / 2> partial{};
  const auto add = [&](size_t j, float& sum) {
    const float x = j < args.cols ? FromBf16(ToBf16(args.x[j])) : 0.0f;
    const float w = WeightAt<type>(args, Layout::kOutIn, row, j).value;
    sum = FlushedFma(Flushed(w), Flushed(x), sum);
  };
  for (size_t block = 0; block < RunWeights(args.cols); block += kBlock) {
    for (size_t p = 0; p < kHalf; ++p) {
      float& sum = partial[block / 2 % partial.size() + p];
      add(block + kHalf + p, sum);
      add(block + p, sum);
    }
  }
  return Reduce(partial);
}

// An output while columns are added to it. A column's input is multiplied by
// the scale first. For stored nibbles the sum of these factors times
// kNibbleZero is subtracted at the end, or that of the inputs times minimums
// added.
template <WeightType type>
class ColumnSum {
 public:
  explicit ColumnSum(float start) : sum_(start) {}
  void Add(const KernelArgs& args, Layout layout, size_t row, size_t col,
           float x) {
    constexpr float kZero = kNibbles<type> ? NibbleZero(type) : 0;
    const ScaledWeight w = WeightAt<type>(args, layout, row, col);
    const float factor = w.scale * (RunScale(args, col) * x);
    sum_ = std::fma(w.value + kZero, factor, sum_);
    group_sum_ += kMinimums<type> ? w.minimum * x : factor;
  }
  float value() const {
    if (!kNibbles<type>) return sum_;
    return std::fma(kMinimums<type> ? 1.0f : -float{kNibbleZero}, group_sum_,
                    sum_);
  }

 private:
  float sum_;
  float group_sum_ = 0;
};

bool KeepsGroup(const MaskView& mask, size_t group) {
  return (mask.bits[group / 64] >> (group % 64) & 1) != 0;
}

// The same, with the factors of kRoundedBatch columns at a time rounded
// together. Weights with minimums are scale * (value - kNibbleZero) + a centre,
// whose products with the inputs are added at the end.
template <WeightType type>
class RoundedColumnSum {
 public:
  explicit RoundedColumnSum(float start) : sum_(start) {}
  void Add(const KernelArgs& args, Layout layout, size_t row, size_t col,
           float x) {
    const ScaledWeight w = WeightAt<type>(args, layout, row, col);
    weights_[size_] =
        static_cast<int>(w.value) - (kMinimums<type> ? kNibbleZero : 0);
    factors_[size_] = w.scale * (RunScale(args, col) * x);
    if (kMinimums<type>) {
      centres_ = std::fma(std::fma(float{kNibbleZero}, w.scale, w.minimum), x,
                          centres_);
    }
    if (++size_ == kRoundedBatch) AddBatch();
  }
  float value() {
    if (size_ > 0) AddBatch();
    return kMinimums<type> ? sum_ + centres_ : sum_;
  }

 private:
  void AddBatch() {
    float largest = kSmallestFactor;
    bool finite = true;
    for (size_t i = 0; i < size_; ++i) {
      largest = std::fmax(largest, std::fabs(factors_[i]));
      finite = finite && std::isfinite(factors_[i]);
    }
    const float inverse = 127 / largest;
    int sum = 0;
    for (size_t i = 0; finite && i < size_; ++i) {
      const float q = std::nearbyint(factors_[i] * inverse);
      sum += static_cast<int>(q) * weights_[i];
    }
    const float step =
        finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
    sum_ = std::fma(static_cast<float>(sum), step, sum_);
    size_ = 0;
  }

  float sum_;
  float centres_ = 0;
  size_t size_ = 0;
  std::array<int, kRoundedBatch> weights_{};
  std::array<float, kRoundedBatch> factors_{};
};

using RowSumFn = float (*)(const KernelArgs&, size_t row);

template <WeightType type>
inline constexpr RowSumFn kRowSum =
    kNibbles<type> ? &NibbleRowSum<type> : &RowSum<type>;

// The same with the input rounded.
template <WeightType type>
inline constexpr RowSumFn kRoundedRowSum = &RoundedRowSum<type>;
template <>
inline constexpr RowSumFn kRoundedRowSum<WeightType::kBf16> =
    &PairedRowSum<WeightType::kBf16>;

template <RowSumFn row_sum>
void DenseRows(const KernelArgs& args) {
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    args.y[i] = StartOf(args, i) + row_sum(args, i);
  }
}

template <RowSumFn row_sum>
void MaskedRows(const KernelArgs& args) {
  if (!args.accumulate) {
    for (size_t i = args.row_begin; i < args.row_end; ++i) args.y[i] = 0;
  }
  for (size_t k = 0; k < args.mask.kept; ++k) {
    const size_t group = args.mask.index[k];
    // The index is a union: another token may keep this group.
    if (args.tokens > 1 && !KeepsGroup(args.mask, group)) continue;
    const size_t first = group * args.mask.granularity;
    for (size_t i = first;
         i < first + args.mask.granularity && i < args.row_end; ++i) {
      args.y[i] = StartOf(args, i) + row_sum(args, i);
    }
  }
}

template <class Sum, Layout layout>
void DenseColumns(const KernelArgs& args) {
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    Sum sum(StartOf(args, i));
    for (size_t j = 0; j < args.cols; ++j) {
      sum.Add(args, layout, i, j, args.x[j]);
    }
    args.y[i] = sum.value();
  }
}

template <class Sum, Layout layout>
void MaskedColumns(const KernelArgs& args) {
  const size_t granularity = args.mask.granularity;
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    Sum sum(StartOf(args, i));
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

constexpr Algorithm AlgorithmOf(Layout layout) {
  if (layout == Layout::kOutIn) return Algorithm::kRowDot;
  if (layout == Layout::kRows16) return Algorithm::kInterleaved;
  return layout == Layout::kInOut ? Algorithm::kColumnBatch : Algorithm::kPanel;
}

constexpr VariantSpec SpecOf(Operation operation, WeightType type,
                             Layout layout, Algorithm algorithm) {
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

template <VariantSpec spec>
inline constexpr VariantName kName = NameOf(spec);

template <Operation operation, WeightType type, Layout layout,
          KernelFn one_token, Algorithm algorithm = AlgorithmOf(layout)>
constexpr KernelEntry MakeEntry() {
  constexpr VariantSpec kSpec = SpecOf(operation, type, layout, algorithm);
  return {kSpec,
          "scalar",
          "NONE",
          kName<kSpec>.c_str(),
          SpecHash(kName<kSpec>.view()),
          &EachToken<one_token>,
          0,
          0,
          false};
}

template <WeightType type, Layout layout>
constexpr std::array<KernelEntry, 2> ColumnEntries() {
  return {MakeEntry<Operation::kDense, type, layout,
                    &DenseColumns<ColumnSum<type>, layout>>(),
          MakeEntry<Operation::kColumnMask, type, layout,
                    &MaskedColumns<ColumnSum<type>, layout>>()};
}

template <WeightType type>
constexpr void AddEntries(std::span<KernelEntry> entries, size_t& size) {
  const auto add = [&](const KernelEntry& entry) { entries[size++] = entry; };
  const auto add_columns = [&](const std::array<KernelEntry, 2>& pair) {
    for (const KernelEntry& entry : pair) add(entry);
  };
  add(MakeEntry<Operation::kDense, type, Layout::kOutIn,
                &DenseRows<kRowSum<type>>>());
  add(MakeEntry<Operation::kRowMask, type, Layout::kOutIn,
                &MaskedRows<kRowSum<type>>>());
  if constexpr (IsQuantized(type) || type == WeightType::kBf16) {
    add(MakeEntry<Operation::kDense, type, Layout::kOutIn,
                  &DenseRows<kRoundedRowSum<type>>, Algorithm::kRoundedDot>());
    add(MakeEntry<Operation::kRowMask, type, Layout::kOutIn,
                  &MaskedRows<kRoundedRowSum<type>>, Algorithm::kRoundedDot>());
  }
  add_columns(ColumnEntries<type, Layout::kInOut>());
  if constexpr (IsQuantized(type)) {
    add(MakeEntry<Operation::kDense, type, Layout::kRows16,
                  &DenseRows<&InterleavedSum<type>>>());
    add(MakeEntry<Operation::kDense, type, Layout::kRows16,
                  &DenseRows<&RoundedInterleavedSum<type>>,
                  Algorithm::kRoundedInterleaved>());
    add(MakeEntry<Operation::kColumnMask, type, Layout::kInOut,
                  &MaskedColumns<RoundedColumnSum<type>, Layout::kInOut>,
                  Algorithm::kRoundedColumns>());
  }
  const auto add_panels = [&]<Layout layout>() {
    if constexpr (PanelWidth(layout) != 0 && Offers(layout, type)) {
      add_columns(ColumnEntries<type, layout>());
    }
  };
  [&]<size_t... i>(std::index_sequence<i...>) {
    (add_panels.template operator()<kLayouts[i]>(), ...);
  }
  (std::make_index_sequence<kLayouts.size()>());
}

struct EntryList {
  std::array<KernelEntry, 12 * kWeightTypes.size()> entries{};
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
