// How far apart the pieces of a packed matrix lie. Kernels compiled for a
// static shape and the code that packs share these formulas.
#ifndef RANKFORGE_META_PACKING_H_
#define RANKFORGE_META_PACKING_H_

#include <cstddef>

#include "meta/types.h"

namespace rankforge {

inline constexpr size_t kCacheLine = 64;

inline constexpr size_t kSmallPage = 4096;

// Elements between runs of `elements` contiguous weights. Runs of whole pages
// stay as they are: prefetchers of the hardware stop at a page, and a run that
// straddles one page more starts one stream more (column mask 4096 x 11008 on
// Zen 3 with lines fetched ahead: .83 to .87 of the read bandwidth on pages,
// .77 to .87 beside them). All others are rounded up to an odd number of cache
// lines: a power of two would put the heads of all columns of a batch into the
// same few cache sets.
constexpr size_t RunStride(size_t elements, WeightType type) {
  const size_t line = kCacheLine / BytesPerWeight(type);
  const size_t lines = (elements + line - 1) / line;
  return (lines * kCacheLine % kSmallPage == 0 ? lines : lines | 1) * line;
}

// Elements between neighbouring rows ([out][in]), columns ([in][out]) or
// panels.
constexpr size_t PackedStride(Layout layout, WeightType type, size_t rows,
                              size_t cols) {
  switch (layout) {
    case Layout::kOutIn:
      return RunStride(RoundUp(cols, kBlock), type);
    case Layout::kInOut:
      return RunStride(RoundUp(rows, kBlock), type);
    case Layout::kPanel64:
    case Layout::kPanel128:
      return PanelWidth(layout) * RoundUp(cols, kMaxGranularity);
  }
  return 0;
}

// Rows, columns or panels including padding: how many strides are stored.
constexpr size_t PackedStrides(Layout layout, size_t rows, size_t cols) {
  switch (layout) {
    case Layout::kOutIn:
      return RoundUp(rows, kMaxGranularity);
    case Layout::kInOut:
      return RoundUp(cols, kMaxGranularity);
    case Layout::kPanel64:
    case Layout::kPanel128:
      return RoundUp(rows, PanelWidth(layout)) / PanelWidth(layout);
  }
  return 0;
}

// Where element i of a block of kBlock bf16 weights is stored. Word j of 16
// holds element j in its low and element 16 + j in its high half, so that one
// shift or one mask widens a vector of any width with its lanes in order.
constexpr size_t SplitPosition(size_t i) {
  return i < kBlock / 2 ? 2 * i : 2 * (i - kBlock / 2) + 1;
}

// Offset in elements of weight (row, col).
constexpr size_t PackedOffset(Layout layout, WeightType type, size_t stride,
                              size_t row, size_t col) {
  const size_t contiguous = layout == Layout::kOutIn ? col : row;
  size_t in_block = contiguous % kBlock;
  if (type == WeightType::kBf16) in_block = SplitPosition(in_block);
  const size_t position = contiguous / kBlock * kBlock + in_block;
  if (layout == Layout::kOutIn) return row * stride + position;
  if (layout == Layout::kInOut) return col * stride + position;
  const size_t width = PanelWidth(layout);
  return row / width * stride + col * width + position % width;
}

}  // namespace rankforge

#endif  // RANKFORGE_META_PACKING_H_
