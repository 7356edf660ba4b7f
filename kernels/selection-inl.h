// Which rows or columns a kernel visits, and in which order: the mask forms as
// small cursors that hand out the next few. Compiled once per target.
#if defined(RANKFORGE_KERNELS_SELECTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_SELECTION_INL_H_
#undef RANKFORGE_KERNELS_SELECTION_INL_H_
#else
#define RANKFORGE_KERNELS_SELECTION_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/kernel_args.h"
#include "meta/variant.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Up to `capacity` selected positions, ascending, each with its input value
// (column mask, dense on columns) or none (row mask).
template <size_t capacity>
struct Batch {
  size_t size = 0;
  size_t position[capacity];
  float value[capacity];
};

// Every position of [begin, end), values from `x`.
class AllCursor {
 public:
  AllCursor(size_t begin, size_t end, const float* x)
      : next_(begin), end_(end), x_(x) {}
  template <size_t capacity>
  HWY_INLINE void Next(Batch<capacity>& batch) {
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
// with their values if the mask has them (column mask). A batch never crosses a
// group: batch divides granularity or the reverse.
template <size_t granularity, bool with_values>
class ListCursor {
 public:
  ListCursor(const MaskView& mask, size_t first) : mask_(mask), entry_(first) {}
  template <size_t capacity>
  HWY_INLINE void Next(Batch<capacity>& batch) {
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

// Set bits of the bitset among positions [begin, end), values from `x`.
class BitCursor {
 public:
  BitCursor(const uint64_t* bits, size_t begin, size_t end, const float* x)
      : bits_(bits), end_(end), x_(x), word_(begin / 64) {
    rest_ = Word(word_) & (~uint64_t{0} << (begin % 64));
    if (begin >= end) rest_ = 0;
  }
  template <size_t capacity>
  HWY_INLINE void Next(Batch<capacity>& batch) {
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
  HWY_INLINE uint64_t Word(size_t word) const {
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

// The dense prefix, then the rest of the list. Batches do not mix the two, so
// the last one of the prefix may be short.
class PrefixCursor {
 public:
  explicit PrefixCursor(const MaskView& mask)
      : head_(0, mask.prefix, mask.zeroed), tail_(mask, mask.prefix_kept) {}
  template <size_t capacity>
  HWY_INLINE void Next(Batch<capacity>& batch) {
    head_.Next(batch);
    if (batch.size == 0) tail_.Next(batch);
  }

 private:
  AllCursor head_;
  ListCursor<1, true> tail_;
};

// Sets [row_begin, row_end) of y to what the sums start from.
HWY_INLINE void StartSums(const KernelArgs& args) {
  if (args.accumulate) return;
  for (size_t i = args.row_begin; i < args.row_end; ++i) {
    args.y[i] = args.bias == nullptr ? 0.0f : args.bias[i];
  }
}

// The columns that a call visits.
template <VariantSpec spec>
HWY_INLINE auto ColumnCursor(const KernelArgs& args, size_t cols) {
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
HWY_INLINE auto RowCursor(const KernelArgs& args) {
  if constexpr (spec.form == MaskForm::kIndexList) {
    return ListCursor<spec.granularity, false>(args.mask, 0);
  } else if constexpr (spec.form == MaskForm::kBitset) {
    return BitCursor(args.mask.bits, args.row_begin, args.row_end, nullptr);
  } else {
    return AllCursor(args.row_begin, args.row_end, nullptr);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_SELECTION_INL_H_
