// How far apart the pieces of a packed matrix lie. Kernels compiled for a
// static shape and the code that packs share these formulas.
#ifndef RANKFORGE_META_PACKING_H_
#define RANKFORGE_META_PACKING_H_

#include <algorithm>
#include <cstddef>

#include "meta/types.h"

namespace rankforge {

inline constexpr size_t kCacheLine = 64;

inline constexpr size_t kSmallPage = 4096;

// Bytes of `count` weights, a multiple of kBlock.
constexpr size_t BlockBytes(WeightType type, size_t count = kBlock) {
  return count / 8 * FormatOf(type).bits;
}

// Outputs that a pass over columns holds at once: two blocks, so that a step is
// a whole number of groups of any type, and a step of i8 is one cache line of
// each column. Speed against steps of one block on Zen 3, medians by product:
// 0.94 to 1.14 times in L2, 0.91 to 1.03 in L3, 0.84 to 1.15 from memory, all
// within the noise of that host. A bare loop over weights in L2 gained 1.2.
inline constexpr size_t kColumnStep = 2 * kBlock;

// Weights of a run (a row, a column) including padding: whole steps.
constexpr size_t RunWeights(size_t count) {
  return RoundUp(count, kColumnStep);
}

// Bytes of one f16 per group of a run of `count` weights.
constexpr size_t GroupBytes(WeightType type, size_t count) {
  const size_t group = FormatOf(type).group;
  return group == 0 ? 0 : RunWeights(count) / group * 2;
}

// Bytes from the first scale of a run to its first minimum. Kernels read up to
// 16 halves at a time, so as many scales are a multiple of that.
constexpr size_t MinimumsAt(WeightType type, size_t count) {
  constexpr size_t kMostLanes = 16;
  return RoundUp(GroupBytes(type, count), kMostLanes * 2);
}

// Bytes of the f16 scales of a run of `count` weights, and of the minimums that
// follow them. They lie in front of the weights, on cache lines of their own;
// padding is zero.
constexpr size_t ScaleBytes(WeightType type, size_t count) {
  return FormatOf(type).has_minimum
             ? RoundUp(2 * MinimumsAt(type, count), kCacheLine)
             : RoundUp(GroupBytes(type, count), kCacheLine);
}

// Bytes between runs of `count` contiguous weights. Runs of whole pages are not
// padded: hardware prefetchers stop at a page, and a run that straddles one
// more page starts one more stream. (Column mask 4096 x 11008 on Zen 3 with
// lines fetched ahead: 0.83 to 0.87 of the read bandwidth where runs begin on
// pages, 0.77 to 0.87 where they do not.) All other runs are padded to an odd
// number of cache lines: with a power of two the heads of all columns of a
// batch would fall into the same few cache sets.
constexpr size_t RunStride(WeightType type, size_t count) {
  const size_t bytes =
      ScaleBytes(type, count) + BlockBytes(type, RunWeights(count));
  const size_t lines = (bytes + kCacheLine - 1) / kCacheLine;
  return (lines * kCacheLine % kSmallPage == 0 ? lines : lines | 1) *
         kCacheLine;
}

// Interleaved rows (kRows16) are cut into steps of columns. A step is the
// scales of all rows, the minimums of all rows, and the weights, each on cache
// lines of their own. The scales of two groups of 16 rows fill a line.
constexpr size_t InterleavedColumns(WeightType type) {
  return std::max(2 * FormatOf(type).group, 2 * kBlock);
}
constexpr size_t InterleavedScaleBytes(WeightType type) {
  const WeightFormat& format = FormatOf(type);
  if (format.group == 0) return 0;
  return kCacheLine * (format.has_minimum ? 2 : 1);
}
constexpr size_t InterleavedStepBytes(WeightType type) {
  return InterleavedScaleBytes(type) +
         BlockBytes(type,
                    RowsTogether(Layout::kRows16) * InterleavedColumns(type));
}

// Bytes between neighbouring rows ([out][in]), columns ([in][out]), panels or
// groups of interleaved rows.
constexpr size_t PackedStride(Layout layout, WeightType type, size_t rows,
                              size_t cols) {
  if (layout == Layout::kOutIn) return RunStride(type, cols);
  if (ColumnsAreContiguous(layout)) return RunStride(type, rows);
  if (layout == Layout::kRows16) {
    const size_t step = InterleavedColumns(type);
    return RoundUp(cols, step) / step * InterleavedStepBytes(type);
  }
  return BlockBytes(type, PanelWidth(layout)) * RoundUp(cols, kMaxGranularity);
}

// Rows, columns, panels or interleaved rows including padding: how many strides
// are stored.
constexpr size_t PackedStrides(Layout layout, size_t rows, size_t cols) {
  if (layout == Layout::kOutIn) return RoundUp(rows, kMaxGranularity);
  if (ColumnsAreContiguous(layout)) return RoundUp(cols, kMaxGranularity);
  if (layout == Layout::kRows16) {
    return RoundUp(rows, kMaxGranularity) / RowsTogether(layout);
  }
  return RoundUp(rows, PanelWidth(layout)) / PanelWidth(layout);
}

// Bytes of a packed matrix. The f32 scales of runs (Scaling::kRun) follow the
// last run.
constexpr size_t PackedBytes(Layout layout, WeightType type, size_t rows,
                             size_t cols) {
  const size_t strides = PackedStrides(layout, rows, cols);
  const size_t scales = FormatOf(type).scaling == Scaling::kRun
                            ? strides * RowsTogether(layout) * sizeof(float)
                            : 0;
  return strides * PackedStride(layout, type, rows, cols) + scales;
}

// The number of outputs of each thread is a multiple of this, so that no panel
// and no step is cut.
constexpr size_t PartQuantum(Layout layout) {
  return ColumnsAreContiguous(layout) ? kColumnStep
                                      : std::max(kBlock, PanelWidth(layout));
}

// Where element i of a block of kBlock bf16 weights is stored. Word j of 16
// holds element j in its low and element 16 + j in its high half, so that one
// shift or one mask widens a vector of any width with its lanes in order.
constexpr size_t SplitPosition(size_t i) {
  return i < kBlock / 2 ? 2 * i : 2 * (i - kBlock / 2) + 1;
}

// Where element i of a block of kBlock 4-bit weights is stored: the byte, and
// whether in its high half. A block has four 32-bit words. Their nibbles 0 to 3
// are lanes 0 to 3 of four vectors of eight. Their nibbles 4 to 7 are the lanes
// above. A vector holds the words twice, one half of it shifted down by 16. One
// mask per vector then leaves its weights, each times a power of sixteen.
// Weights are stored as 0 to 15. In symmetric types kNibbleZero stands for 0;
// types with minimums store their integers as they are.
inline constexpr int kNibbleZero = 8;
constexpr int NibbleZero(WeightType type) {
  return FormatOf(type).has_minimum ? 0 : kNibbleZero;
}
struct NibblePosition {
  size_t byte;
  bool high;
};
constexpr NibblePosition NibblePositionOf(size_t i) {
  const size_t lane = i % 8;
  const size_t nibble = i / 8 + lane / 4 * 4;
  return {lane % 4 * 4 + nibble / 2, nibble % 2 == 1};
}

// From a weight of a run to the scale and to the minimum of its group, in
// bytes.
struct GroupOffsets {
  ptrdiff_t scale = 0;
  ptrdiff_t minimum = 0;
};
// Of weight `element`, the first of its group, of a run of `count` weights.
constexpr GroupOffsets GroupOffsetsOf(WeightType type, size_t count,
                                      size_t element) {
  const size_t group = FormatOf(type).group;
  if (group == 0) return {};
  const auto weight = static_cast<ptrdiff_t>(ScaleBytes(type, count) +
                                             BlockBytes(type, element));
  const auto scale = static_cast<ptrdiff_t>(element / group * 2);
  const auto minimums = static_cast<ptrdiff_t>(MinimumsAt(type, count));
  return {scale - weight, minimums + scale - weight};
}

// Where weight (row, col) lies, in bytes from the first.
struct PackedPosition {
  size_t scale;    // of its group
  size_t minimum;  // of its group
  // Of the block of kBlock weights that holds it. Interleaved rows: of its
  // byte.
  size_t block;
  // Its place in the block. Interleaved rows: whether it is in the high half of
  // its byte.
  size_t in_block;
};

// Interleaved rows: a line of 64 bytes holds four neighbours of each row, or
// eight 4-bit ones, the first four in the low halves.
constexpr PackedPosition InterleavedPositionOf(WeightType type, size_t stride,
                                               size_t row, size_t col) {
  constexpr size_t kRows = RowsTogether(Layout::kRows16);
  constexpr size_t kNeighbours = kCacheLine / kRows;
  const size_t step = InterleavedColumns(type);
  const size_t begin =
      row / kRows * stride + col / step * InterleavedStepBytes(type);
  const size_t in_step = col % step;
  const size_t group = std::max<size_t>(FormatOf(type).group, 1);
  const size_t scale = begin + (in_step / group * kRows + row % kRows) * 2;
  const size_t halves = FormatOf(type).bits == 4 ? 2 : 1;
  const size_t line = in_step / (kNeighbours * halves);
  return {scale, scale + kCacheLine,
          begin + InterleavedScaleBytes(type) + line * kCacheLine +
              row % kRows * kNeighbours + col % kNeighbours,
          in_step / kNeighbours % halves};
}

constexpr PackedPosition PackedPositionOf(Layout layout, WeightType type,
                                          size_t stride, size_t rows,
                                          size_t cols, size_t row, size_t col) {
  if (layout == Layout::kRows16) {
    return InterleavedPositionOf(type, stride, row, col);
  }
  const size_t width = PanelWidth(layout);
  if (width == 0) {
    const bool by_row = RunsAreRows(layout);
    const size_t begin = (by_row ? row : col) * stride;
    const size_t element = by_row ? col : row;
    const size_t length = by_row ? cols : rows;
    const size_t group = std::max<size_t>(FormatOf(type).group, 1);
    const size_t scale = begin + element / group * 2;
    return {
        scale, scale + MinimumsAt(type, length),
        begin + ScaleBytes(type, length) + element / kBlock * BlockBytes(type),
        element % kBlock};
  }
  return {0, 0,
          row / width * stride + col * BlockBytes(type, width) +
              row % width / kBlock * BlockBytes(type),
          row % kBlock};
}

// Whether weights of `type` can be packed in `layout`. Panels have no room for
// scales. Interleaved rows are for integers.
constexpr bool Offers(Layout layout, WeightType type) {
  if (layout == Layout::kRows16) return IsQuantized(type);
  return PanelWidth(layout) == 0 || !IsQuantized(type);
}

}  // namespace rankforge

#endif  // RANKFORGE_META_PACKING_H_
