// Cursors: which rows or columns a kernel visits, and in which order. Each mask
// form has a small cursor that hands out the next few; the loops over what they
// hand out follow. Plain C++ for all backends.
#ifndef RANKFORGE_KERNELS_GEMV_CURSOR_H_
#define RANKFORGE_KERNELS_GEMV_CURSOR_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/kernel_args.h"
#include "meta/packing.h"
#include "meta/variant.h"

// Always inlined. Each caller is compiled for one instruction set. Of copies
// that are not inlined the linker keeps one, with the instructions of one
// caller, for all.
#define RANKFORGE_INLINE inline __attribute__((always_inline))

namespace rankforge {

// Up to `capacity` selected positions, ascending, each with its input value
// (column mask, dense on columns) or none (row mask).
template <size_t capacity>
struct Batch {
  size_t size = 0;
  size_t position[capacity];
  float value[capacity];
};

// Every position of [begin, end), with values from `x`.
class AllCursor {
 public:
  RANKFORGE_INLINE AllCursor(size_t begin, size_t end, const float* x)
      : next_(begin), end_(end), x_(x) {}
  template <size_t capacity>
  RANKFORGE_INLINE void Next(Batch<capacity>& batch) {
    batch.size = std::min(capacity, end_ - next_);
    for (size_t i = 0; i < batch.size; ++i) {
      batch.position[i] = next_ + i;
      batch.value[i] = x_ == nullptr ? 0.0f : x_[next_ + i];
    }
    next_ += batch.size;
  }

 private:
  size_t next_;
  size_t end_;
  const float* x_;
};

// Entries [first, kept) of the compacted list, each of `granularity` positions,
// with their values if the mask has them (column mask). No batch crosses a
// group: batch divides granularity or the reverse.
template <size_t granularity, bool with_values>
class ListCursor {
 public:
  RANKFORGE_INLINE ListCursor(const MaskView& mask, size_t first)
      : mask_(mask), entry_(first) {}
  template <size_t capacity>
  RANKFORGE_INLINE void Next(Batch<capacity>& batch) {
    if constexpr (granularity == 1) {
      batch.size = std::min(capacity, mask_.kept - entry_);
      for (size_t i = 0; i < batch.size; ++i) {
        batch.position[i] = mask_.index[entry_ + i];
        if constexpr (with_values) batch.value[i] = mask_.value[entry_ + i];
      }
      entry_ += batch.size;
    } else {
      static_assert(granularity % capacity == 0);
      batch.size = entry_ < mask_.kept ? capacity : 0;
      if (batch.size == 0) return;
      const size_t base = mask_.index[entry_] * granularity + inside_;
      for (size_t i = 0; i < capacity; ++i) {
        batch.position[i] = base + i;
        if constexpr (with_values) {
          batch.value[i] = mask_.value[entry_ * granularity + inside_ + i];
        }
      }
      inside_ += capacity;
      if (inside_ == granularity) {
        inside_ = 0;
        ++entry_;
      }
    }
  }

 private:
  const MaskView& mask_;
  size_t entry_;
  size_t inside_ = 0;
};

// Set bits of the bitset among positions [begin, end), with values from `x`.
class BitCursor {
 public:
  RANKFORGE_INLINE BitCursor(const uint64_t* bits, size_t begin, size_t end,
                             const float* x)
      : bits_(bits), end_(end), x_(x), word_(begin / 64) {
    rest_ = Word(word_) & (~uint64_t{0} << (begin % 64));
    if (begin >= end) rest_ = 0;
  }
  template <size_t capacity>
  RANKFORGE_INLINE void Next(Batch<capacity>& batch) {
    batch.size = 0;
    while (batch.size < capacity) {
      while (rest_ == 0) {
        if ((word_ + 1) * 64 >= end_) return;
        rest_ = Word(++word_);
      }
      const size_t position =
          word_ * 64 + static_cast<size_t>(std::countr_zero(rest_));
      rest_ &= rest_ - 1;
      batch.position[batch.size] = position;
      batch.value[batch.size] = x_ == nullptr ? 0.0f : x_[position];
      ++batch.size;
    }
  }

 private:
  RANKFORGE_INLINE uint64_t Word(size_t word) const {
    if (word * 64 >= end_) return 0;
    const size_t valid = end_ - word * 64;
    return valid >= 64 ? bits_[word]
                       : bits_[word] & ((uint64_t{1} << valid) - 1);
  }

  const uint64_t* bits_;
  size_t end_;
  const float* x_;
  size_t word_;
  uint64_t rest_ = 0;
};

// The dense prefix, then the rest of the list. No batch mixes the two: the last
// one of the prefix may be short.
class PrefixCursor {
 public:
  RANKFORGE_INLINE explicit PrefixCursor(const MaskView& mask)
      : head_(0, mask.prefix, mask.zeroed), tail_(mask, mask.prefix_kept) {}
  template <size_t capacity>
  RANKFORGE_INLINE void Next(Batch<capacity>& batch) {
    head_.Next(batch);
    if (batch.size == 0) tail_.Next(batch);
  }

 private:
  AllCursor head_;
  ListCursor<1, true> tail_;
};

// Sets [row_begin, row_end) of y to what the sums start from.
RANKFORGE_INLINE void StartSums(const KernelArgs& args) {
  if (args.accumulate) return;
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    args.y[i] = args.bias == nullptr ? 0.0f : args.bias[i];
  }
}

// y of the interleaved rows from `row` on; sums (RowsTogether,) are without the
// scales of runs.
template <WeightType type>
RANKFORGE_INLINE void StoreInterleavedSums(const KernelArgs& args, size_t row,
                                           const float* sums) {
  const size_t count =
      std::min(RowsTogether(Layout::kRows16), args.row_end - row);
  for (size_t i = 0; i < count; ++i) {
    const float start = args.accumulate        ? args.y[row + i]
                        : args.bias != nullptr ? args.bias[row + i]
                                               : 0.0f;
    const float scale = FormatOf(type).scaling == Scaling::kRun
                            ? args.run_scales[row + i]
                            : 1.0f;
    args.y[row + i] = start + sums[i] * scale;
  }
}

// The columns that a call visits.
template <VariantSpec spec>
RANKFORGE_INLINE auto ColumnCursor(const KernelArgs& args, size_t cols) {
  if constexpr (spec.form == MaskForm::kNone) {
    return AllCursor(0, cols, args.x);
  } else if constexpr (spec.form == MaskForm::kIndexList) {
    return ListCursor<spec.granularity, true>(args.mask, 0);
  } else if constexpr (spec.form == MaskForm::kBitset) {
    return BitCursor(args.mask.bits, 0, cols, args.mask.zeroed);
  } else if constexpr (spec.form == MaskForm::kZeroed) {
    return AllCursor(0, cols, args.mask.zeroed);
  } else {
    return PrefixCursor(args.mask);
  }
}

// The rows of [row_begin, row_end) that a call computes.
template <VariantSpec spec>
RANKFORGE_INLINE auto RowCursor(const KernelArgs& args) {
  if constexpr (spec.form == MaskForm::kIndexList) {
    return ListCursor<spec.granularity, false>(args.mask, 0);
  } else if constexpr (spec.form == MaskForm::kBitset) {
    return BitCursor(args.mask.bits, args.row_begin, args.row_end, nullptr);
  } else {
    return AllCursor(args.row_begin, args.row_end, nullptr);
  }
}

// The outputs of a pass over columns.
struct ColumnRange {
  size_t begin;
  size_t size;
  GroupOffsets groups;  // of a column's first weight
  float* group_sums;  // 4-bit types: scale * value of each group, or minimum *
                      // value, summed over the columns; others: null
  size_t ahead;       // KernelArgs::ahead
};

// y (size,) += sum over c < count of column[c] * value[c], in that order.
// `next` are the columns of the next batch.
using ColumnPassesFn = void (*)(const std::byte* const* column,
                                const std::byte* const* next,
                                const float* value, size_t count,
                                const ColumnRange& range, float* y);

// Runs `passes` over the columns of `cursor`. `first` is where the outputs
// begin in column 0.
//
// Walking y in tiles of 6144 outputs, which stay in L1, is 4 to 12 % slower on
// one Zen 3 core (bf16, 11008 x 3072 and 16384 x 2048, densities 0.25 to 1):
// shorter runs cost more than reading y from L2.
template <size_t batch, class Cursor>
RANKFORGE_INLINE void ForEachColumnBatch(const KernelArgs& args,
                                         const std::byte* first, size_t stride,
                                         const ColumnRange& range,
                                         Cursor cursor, ColumnPassesFn passes) {
  float* y = args.y + range.begin;
  Batch<batch> current, next;
  cursor.Next(current);
  while (current.size > 0) {
    cursor.Next(next);
    const std::byte* column[batch];
    const std::byte* column_ahead[batch];
    for (size_t i = 0; i < batch; ++i) {
      const size_t position = current.position[i < current.size ? i : 0];
      column[i] = first + position * stride;
      column_ahead[i] =
          i < next.size ? first + next.position[i] * stride : column[i];
    }
    if (args.run_scales != nullptr) {
      for (size_t i = 0; i < current.size; ++i) {
        current.value[i] *= args.run_scales[current.position[i]];
      }
    }
    passes(column, column_ahead, current.value, current.size, range, y);
    current = next;
  }
}

// What a pass over rows reads besides the rows.
struct RowInput {
  const float* x;
  size_t blocks;        // whole blocks of x
  const float* tail;    // one more block, padded with zeros; null: none
  GroupOffsets groups;  // of a row's first weight
  RoundedInput rounded;
  size_t ahead;  // KernelArgs::ahead
};

// sums (count,) = row[i] . x. `next` are the rows of the next batch.
using RowPassesFn = void (*)(const std::byte* const* row,
                             const std::byte* const* next, size_t count,
                             const RowInput& input, float* sums);

// Whether a row that the cursor hands out is an output of this call.
template <VariantSpec spec>
RANKFORGE_INLINE bool KeepsRow(const KernelArgs& args, size_t position) {
  if constexpr (spec.form == MaskForm::kZeroed) {
    const size_t group = position / args.mask.granularity;
    return (args.mask.bits[group / 64] >> (group % 64) & 1) != 0;
  } else {
    // The last group may reach beyond the matrix.
    return position < args.row_end;
  }
}

// Runs `passes` over the rows that `spec` visits.
template <VariantSpec spec, class Shape>
RANKFORGE_INLINE void ForEachRowBatch(const KernelArgs& args,
                                      RowPassesFn passes) {
  const size_t cols = Shape::kCols != 0 ? Shape::kCols : args.cols;
  const size_t stride =
      Shape::kCols != 0
          ? PackedStride(Layout::kOutIn, spec.type, Shape::kRows, Shape::kCols)
          : args.stride;
  const size_t scale_bytes = ScaleBytes(spec.type, cols);
  const std::byte* w = static_cast<const std::byte*>(args.w) + scale_bytes;

  // x need not be padded: its last, partial block is copied.
  const size_t blocks = cols / kBlock;
  alignas(kCacheLine) float tail[kBlock] = {};
  for (size_t i = blocks * kBlock; i < cols; ++i) {
    tail[i - blocks * kBlock] = args.x[i];
  }
  const RowInput input = {args.x,
                          blocks,
                          cols % kBlock == 0 ? nullptr : tail,
                          GroupOffsetsOf(spec.type, cols, 0),
                          args.rounded,
                          args.ahead};

  if constexpr (spec.operation == Operation::kRowMask) {
    if (!args.accumulate && spec.form != MaskForm::kZeroed) {
      for (size_t i = args.row_begin; i < args.row_end; ++i) args.y[i] = 0.0f;
    }
  }
  auto cursor = RowCursor<spec>(args);
  Batch<spec.per_pass> current, next;
  cursor.Next(current);
  while (current.size > 0) {
    cursor.Next(next);
    const std::byte* row[spec.per_pass];
    const std::byte* row_ahead[spec.per_pass];
    for (size_t i = 0; i < spec.per_pass; ++i) {
      const size_t position = current.position[i < current.size ? i : 0];
      row[i] = w + position * stride;
      row_ahead[i] = i < next.size ? w + next.position[i] * stride : row[i];
    }
    float sums[spec.per_pass];
    passes(row, row_ahead, current.size, input, sums);
    for (size_t i = 0; i < current.size; ++i) {
      const size_t position = current.position[i];
      if (KeepsRow<spec>(args, position)) {
        const float start = args.accumulate        ? args.y[position]
                            : args.bias != nullptr ? args.bias[position]
                                                   : 0.0f;
        if constexpr (FormatOf(spec.type).scaling == Scaling::kRun) {
          sums[i] *= args.run_scales[position];
        }
        args.y[position] = start + sums[i];
      } else if (spec.form == MaskForm::kZeroed && !args.accumulate) {
        args.y[position] = 0.0f;
      }
    }
    current = next;
  }
}

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_GEMV_CURSOR_H_
