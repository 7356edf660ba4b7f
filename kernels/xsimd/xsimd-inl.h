// The kernels of the xsimd backend: dense, row mask and column mask in f32,
// bf16 and i8. Each instruction set has a translation unit that includes this
// file after it has defined what differs:
//
//   Arch                    the architecture of xsimd
//   kTarget                 its name, as Highway calls it
//   kSums                   vectors of sums that registers have room for
//   kHeldBlocks             blocks of outputs that a pass over columns holds
//   MulAdd(a, b, c)         a * b + c, rounded once
//   WidenBytes(integers)    a vector of i8 as f32
//
// They differ from Highway's kernels in what is held in registers. Results are
// equal bit for bit.
//
// The whole unit is compiled with the flags of its instruction set, so it must
// not define anything that the linker could choose for other units. Everything
// here has internal linkage. Functions of shared headers are constexpr and
// evaluated at compile time, or always inlined (RANKFORGE_INLINE). Templates of
// xsimd carry the architecture in their names. The test
// scripts/check_exports.sh reads the symbols of the objects.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "kernels/entries.h"
#include "kernels/gemv/cursor.h"
#include "meta/build.h"
#include "meta/rules.h"
#include "meta/shape.h"
#include "meta/variants.h"

namespace rankforge {
namespace {

// With other flags xsimd would compile as well, and emulate.
static_assert(Arch::supported());

constexpr size_t kLanes = Vec::size;
constexpr size_t kBlockVectors = kBlock / kLanes;
// Vectors come in pairs, kPairs apart, as bf16 is stored (SplitPosition).
constexpr size_t kPairs = kBlockVectors / 2;

struct VecPair {
  Vec low;   // lanes are elements i * kLanes + lane of a block
  Vec high;  // elements kBlock / 2 further on
};

// Pair i of the block of kBlock weights at `block`, without their scale.
template <WeightType type>
RANKFORGE_INLINE VecPair LoadPair(const std::byte* block, size_t i) {
  constexpr size_t kHalf = BlockBytes(type, kBlock / 2);
  if constexpr (type == WeightType::kF32) {
    const auto* floats = reinterpret_cast<const float*>(block) + i * kLanes;
    return {Vec::load_aligned(floats), Vec::load_aligned(floats + kBlock / 2)};
  } else if constexpr (type == WeightType::kBf16) {
    using Words = xsimd::batch<uint32_t, Arch>;
    const Words words = Words::load_aligned(
        reinterpret_cast<const uint32_t*>(block) + i * kLanes);
    return {xsimd::bitwise_cast<Vec>(words << 16),
            xsimd::bitwise_cast<Vec>(words & Words(0xffff0000u))};
  } else {
    static_assert(type == WeightType::kI8);
    const std::byte* integers = block + i * kLanes;
    return {WidenBytes(integers), WidenBytes(integers + kHalf)};
  }
}

// Calls body(std::integral_constant<size_t, i>()) for i < n, unrolled.
template <size_t n, class Body>
RANKFORGE_INLINE void Repeat(Body body) {
  [&]<size_t... i>(std::index_sequence<i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

// What to fetch into L1 while the bytes from `at` on of each row or column are
// used: the bytes AheadBytes further on or, near the `end` of the pass, the
// first ones of the next pass. One stream at a time, before its arithmetic.
// Fetching all streams at the beginning of a step takes f32 columns in L3 on
// Zen 3 from 1.0 to 0.9 times the speed of Highway's.
template <Prefetch prefetch>
class Ahead {
 public:
  RANKFORGE_INLINE Ahead(const std::byte* const* current,
                         const std::byte* const* next, size_t at, size_t end)
      : at_(at + AheadBytes(Prefetch::kAhead)), streams_(current) {
    if (at_ < end) return;
    at_ -= end;
    streams_ = next;
  }
  template <size_t bytes>
  RANKFORGE_INLINE void Fetch(size_t stream) const {
    static_assert(prefetch == Prefetch::kNone || prefetch == Prefetch::kAhead);
    if constexpr (prefetch == Prefetch::kAhead) {
      for (size_t line = 0; line < bytes; line += kCacheLine) {
        __builtin_prefetch(streams_[stream] + at_ + line, 0, 3);
      }
    }
  }

 private:
  size_t at_;
  const std::byte* const* streams_;
};

// ys (blocks * kBlock,) += sum over c of weights[c] * factor[c], the weights at
// `at` bytes of each column.
template <WeightType type, size_t columns, size_t blocks, Prefetch prefetch>
RANKFORGE_INLINE void AddColumns(const std::byte* const* column, size_t at,
                                 const Ahead<prefetch>& ahead,
                                 const Vec* factor, float* ys) {
  Vec sum[blocks * kBlockVectors];
  Repeat<blocks * kBlockVectors>([&](auto v) __attribute__((always_inline)) {
    sum[v] = Vec::load_unaligned(ys + v * kLanes);
  });
  Repeat<columns>([&](auto c) __attribute__((always_inline)) {
    ahead.template Fetch<blocks * BlockBytes(type)>(c);
    Repeat<blocks * kPairs>([&](auto p) __attribute__((always_inline)) {
      constexpr size_t kFirst = p / kPairs * kBlockVectors + p % kPairs;
      const VecPair w = LoadPair<type>(
          column[c] + at + p / kPairs * BlockBytes(type), p % kPairs);
      sum[kFirst] = MulAdd(w.low, factor[c], sum[kFirst]);
      sum[kFirst + kPairs] = MulAdd(w.high, factor[c], sum[kFirst + kPairs]);
    });
  });
  Repeat<blocks * kBlockVectors>([&](auto v) __attribute__((always_inline)) {
    sum[v].store_unaligned(ys + v * kLanes);
  });
}

// y (size,) += sum over c of column[c] * value[c], in that order. `next` are
// the columns of the next pass.
//
// The values stay in registers over all outputs, which leaves room for the sums
// of kHeldBlocks blocks. Highway's pass broadcasts the values again for each
// step of 64 outputs. Speed against that on Zen 3, within the noise of the
// host: 0.83 to 1.11 times cached, 0.93 to 1.12 in bf16 from memory.
template <WeightType type, size_t columns, Prefetch prefetch>
__attribute__((noinline)) void ColumnPass(const std::byte* const* column,
                                          const std::byte* const* next,
                                          const float* value, size_t size,
                                          float* y) {
  constexpr size_t kBytes = BlockBytes(type);
  // A step is whole cache lines.
  constexpr size_t kStep = std::max(kHeldBlocks, kCacheLine / kBytes);
  Vec factor[columns];
  Repeat<columns>([&](auto c) __attribute__((always_inline)) {
    factor[c] = Vec(value[c]);
  });
  const size_t whole = size / kBlock;
  const size_t stepped = whole / kStep * kStep;
  size_t block = 0;
  for (; block < stepped; block += kStep) {
    const Ahead<prefetch> ahead(column, next, block * kBytes, stepped * kBytes);
    AddColumns<type, columns, kStep>(column, block * kBytes, ahead, factor,
                                     y + block * kBlock);
  }
  const auto add_block = [&](float* ys) __attribute__((always_inline)) {
    const Ahead<Prefetch::kNone> nothing(column, next, 0, 0);
    AddColumns<type, columns, 1>(column, block * kBytes, nothing, factor, ys);
  };
  for (; block < whole; ++block) add_block(y + block * kBlock);
  if (size % kBlock != 0) {
    // Weights are padded to a block, y is not.
    alignas(kCacheLine) float tail[kBlock] = {};
    for (size_t i = block * kBlock; i < size; ++i) tail[i % kBlock] = y[i];
    add_block(tail);
    for (size_t i = block * kBlock; i < size; ++i) y[i] = tail[i % kBlock];
  }
}

// Adds `count` <= columns columns through passes of that many, ..., 4, 2, 1.
template <WeightType type, size_t columns, Prefetch prefetch>
void ColumnPasses(const std::byte* const* column, const std::byte* const* next,
                  const float* value, size_t count, const ColumnRange& range,
                  float* y) {
  size_t done = 0;
  if (count >= columns) {
    ColumnPass<type, columns, prefetch>(column, next, value, range.size, y);
    done = columns;
  }
  if constexpr (columns > 1) {
    if (done < count) {
      ColumnPasses<type, std::bit_floor(columns - 1), prefetch>(
          column + done, next + done, value + done, count - done, range, y);
    }
  }
}

// Sum of kBlock partial sums: p_i + p_(i + 16), then + p_(i + 8), ... + p_1.
RANKFORGE_INLINE float ReduceBlock(Vec* partial) {
  for (size_t half = kPairs; half > 0; half /= 2) {
    for (size_t v = 0; v < half; ++v) partial[v] += partial[v + half];
  }
  alignas(kCacheLine) float lanes[kLanes];
  partial[0].store_aligned(lanes);
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// partial[r] += row[r] * x over blocks [begin, end), for the `pairs` pairs of
// partial sums from `first` on.
template <WeightType type, size_t rows, Prefetch prefetch, size_t pairs>
RANKFORGE_INLINE void AddRows(const std::byte* const* row,
                              const std::byte* const* next, const float* x,
                              size_t begin, size_t end, size_t blocks,
                              size_t first, Vec (*partial)[kBlockVectors]) {
  constexpr size_t kBytes = BlockBytes(type);
  Vec low[rows][pairs], high[rows][pairs];
  const auto for_each_pair = [&](auto body) __attribute__((always_inline)) {
    Repeat<rows>([&](auto r) __attribute__((always_inline)) {
      Repeat<pairs>([&](auto p) __attribute__((always_inline)) { body(r, p); });
    });
  };
  for_each_pair([&](auto r, auto p) __attribute__((always_inline)) {
    low[r][p] = partial[r][first + p];
    high[r][p] = partial[r][first + p + kPairs];
  });
  for (size_t block = begin; block < end; ++block) {
    const Ahead<prefetch> ahead(row, next, block * kBytes, blocks * kBytes);
    const float* xb = x + block * kBlock + first * kLanes;
    for_each_pair([&](auto r, auto p) __attribute__((always_inline)) {
      if constexpr (p == 0) ahead.template Fetch<kBytes>(r);
      const VecPair w = LoadPair<type>(row[r] + block * kBytes, first + p);
      low[r][p] =
          MulAdd(w.low, Vec::load_unaligned(xb + p * kLanes), low[r][p]);
      high[r][p] =
          MulAdd(w.high, Vec::load_unaligned(xb + p * kLanes + kBlock / 2),
                 high[r][p]);
    });
  }
  for_each_pair([&](auto r, auto p) __attribute__((always_inline)) {
    partial[r][first + p] = low[r][p];
    partial[r][first + p + kPairs] = high[r][p];
  });
}

// sums (rows,) = row[i] . x. `next` are the rows of the next pass.
//
// Where the sums of all rows do not fit the registers, a tile of blocks is read
// twice, the second time from L1, for every other pair of vectors each time.
// Highway's pass of four rows spills instead. Speed against it on Zen 3,
// medians by product (gemv_bench, 512 x 512 and 1024 x 1024 cached): 0.95
// to 1.3 times in bf16, 0.9 to 1.2 in f32, 0.85 to 1.4 in i8, mostly above 1 in
// bf16 and f32. From memory, bf16 at 4096 x 4096: 0.86 to 1.06, because nothing
// is fetched while a tile is read again. Fetching at half the pace, a tile
// ahead, loses the gain in cache (0.94 to 0.97 in bf16) and gains nothing from
// memory.
template <WeightType type, size_t rows, Prefetch prefetch>
__attribute__((noinline)) void RowPass(const std::byte* const* row,
                                       const std::byte* const* next,
                                       const RowInput& input, float* sums) {
  constexpr bool kSliced = rows * kBlockVectors > kSums;
  constexpr size_t kSlicePairs = kSliced ? 1 : kPairs;
  constexpr size_t kTile = 16;
  Vec partial[rows][kBlockVectors];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t v = 0; v < kBlockVectors; ++v) partial[r][v] = Vec(0.0f);
  }
  for (size_t begin = 0, end; begin < input.blocks; begin = end) {
    end = kSliced ? std::min(begin + kTile, input.blocks) : input.blocks;
    AddRows<type, rows, prefetch, kSlicePairs>(row, next, input.x, begin, end,
                                               input.blocks, 0, partial);
    for (size_t first = kSlicePairs; first < kPairs; first += kSlicePairs) {
      AddRows<type, rows, Prefetch::kNone, kSlicePairs>(
          row, next, input.x, begin, end, input.blocks, first, partial);
    }
  }
  if (input.tail != nullptr) {
    const float* x = input.tail - input.blocks * kBlock;
    for (size_t first = 0; first < kPairs; first += kSlicePairs) {
      AddRows<type, rows, Prefetch::kNone, kSlicePairs>(
          row, next, x, input.blocks, input.blocks + 1, input.blocks, first,
          partial);
    }
  }
  for (size_t r = 0; r < rows; ++r) sums[r] = ReduceBlock(partial[r]);
}

// Runs `count` <= rows rows through passes of rows, rows / 2, ..., 1.
template <WeightType type, size_t rows, Prefetch prefetch>
void RowPasses(const std::byte* const* row, const std::byte* const* next,
               size_t count, const RowInput& input, float* sums) {
  size_t done = 0;
  if (count >= rows) {
    RowPass<type, rows, prefetch>(row, next, input, sums);
    done = rows;
  }
  if constexpr (rows > 1) {
    if (done < count) {
      RowPasses<type, rows / 2, prefetch>(row + done, next + done, count - done,
                                          input, sums + done);
    }
  }
}

template <VariantSpec spec>
void Run(const KernelArgs& args) {
  if constexpr (spec.algorithm == Algorithm::kRowDot) {
    ForEachRowBatch<spec, DynamicShape>(
        args, &RowPasses<spec.type, spec.per_pass, spec.prefetch>);
  } else {
    StartSums(args);
    ForEachColumnBatch<spec.per_pass>(
        args,
        static_cast<const std::byte*>(args.w) +
            BlockBytes(spec.type, args.row_begin),
        args.stride,
        {args.row_begin,
         args.row_end - args.row_begin,
         {},
         nullptr,
         args.ahead},
        ColumnCursor<spec>(args, args.cols),
        &ColumnPasses<spec.type, spec.per_pass, spec.prefetch>);
  }
}

// The declared default of each operation, layout and granularity, and row dots
// without prefetch for matrices in cache.
constexpr bool CompiledHere(const VariantSpec& spec) {
  if (!InXsimd(spec)) return false;
  if (kFewVariants) {
    // Instrumented, all of them take three minutes to compile.
    return IsDefault(spec) && spec.type == WeightType::kBf16 &&
           spec.granularity == 1;
  }
  return IsDefault(spec) ||
         (spec.algorithm == Algorithm::kRowDot && spec.per_pass == 4 &&
          spec.granularity == 1 && spec.prefetch == Prefetch::kNone);
}

constexpr auto kSpecs = Selected<&CompiledHere>();

template <VariantSpec spec>
constexpr VariantName kNameOf = NameOf(spec);

constexpr auto kEntries = []<size_t... i>(std::index_sequence<i...>) {
  return std::array<KernelEntry, sizeof...(i)>{KernelEntry{
      kSpecs[i], "xsimd", kTarget, kNameOf<kSpecs[i]>.c_str(),
      SpecHash(kNameOf<kSpecs[i]>.view()), &Run<kSpecs[i]>, 0, 0, false}...};
}
(std::make_index_sequence<kSpecs.size()>());

}  // namespace
}  // namespace rankforge
