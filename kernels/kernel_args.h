// The one signature of all matrix-vector kernels. A kernel runs on a sub-range
// of the outputs; threads are the plan's business. It does not allocate, throw,
// print or touch globals.
#ifndef RANKFORGE_KERNELS_KERNEL_ARGS_H_
#define RANKFORGE_KERNELS_KERNEL_ARGS_H_

#include <cstddef>
#include <cstdint>

#include "meta/variant.h"

namespace rankforge {

// Which inputs (column mask) or outputs (row mask) take part, in every form
// that a kernel may ask for. With granularity g, one entry of `index` and one
// bit of `bits` stand for the g neighbours [g * i, g * i + g).
//
// For several tokens (kernels/tokens/token_mask.h) the granularity is 1 and
// `index` is the union of their masks. `value` has x_t at `index` for each
// token t, and 0 where t dropped it; `bits` is what each token keeps.
// Neighbouring tokens lie `value_stride` and `bits_stride` elements apart.
struct MaskView {
  const uint32_t* index = nullptr;  // (kept,) ascending
  const float* value = nullptr;     // (kept * g,) column mask: x at `index`
  const uint64_t* bits = nullptr;   // (groups,) one bit each
  const float* zeroed = nullptr;    // (cols,) column mask: x, dropped ones 0
  size_t granularity = 1;           // g
  size_t kept = 0;                  // entries of `index`
  size_t groups = 0;                // all groups, kept or not
  size_t prefix = 0;       // groups at the front that kPrefix reads densely
  size_t prefix_kept = 0;  // entries of `index` that lie in the prefix
  size_t value_stride = 0;
  size_t bits_stride = 0;
};

// x (cols,) rounded for weights of some type (kernels/rounded/rounded_input.h).
struct RoundedInput {
  // Integer types: x ~ integer * scale, of 8 bits, with a scale for each block
  // of kBlock.
  const int8_t* integers = nullptr;
  const float* scales = nullptr;
  // What the zero of stored nibbles adds to sums; for symmetric 4-bit types
  // only.
  const int32_t* zeros = nullptr;
  // Of each block, the sum of its integers times its scale; for types with
  // minimums only.
  const float* sums = nullptr;
  // bf16: x in the order of stored weights. Word i of a block holds its input i
  // in the lower half and its input kBlock / 2 + i in the upper half.
  const uint32_t* pairs = nullptr;
};

inline constexpr size_t kDefaultAhead = AheadBytes(Prefetch::kAhead);

struct KernelArgs {
  // Packed weights of the whole layer, 64-byte aligned.
  const void* w = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  // Bytes between neighbouring rows ([out][in]), columns ([in][out]), panels or
  // groups of interleaved rows.
  size_t stride = 0;
  // One scale per row or column of weights with Scaling::kRun, else null.
  const float* run_scales = nullptr;
  // (cols,) the input of dense and row mask. Need not be padded or aligned.
  const float* x = nullptr;
  RoundedInput rounded;  // x for kernels that round it
  // Row mask: only groups in [row_begin, row_end) are listed.
  MaskView mask;
  // (rows,) the output; only [row_begin, row_end) is written. Each sum starts
  // at y_i (accumulate), else at bias_i, else at 0. Where a row mask drops an
  // output it writes 0 (accumulate: leaves y_i).
  float* y = nullptr;
  const float* bias = nullptr;  // (rows,) or null; ignored when accumulating
  // Column layouts: multiples of PartQuantum (meta/packing.h), or rows.
  size_t row_begin = 0;
  size_t row_end = 0;
  bool accumulate = false;
  // Bytes between the use of weights and their fetch: AheadBytes of the spec.
  // Entries with Prefetch::kAhead or kFar read it.
  size_t ahead = kDefaultAhead;
  // How many inputs x, and as many outputs y, the call has. Neighbours lie
  // x_stride and y_stride elements apart. For entries whose spec TakesTokens,
  // and for the scalar reference.
  size_t tokens = 1;
  size_t x_stride = 0;
  size_t y_stride = 0;
};

using KernelFn = void (*)(const KernelArgs&);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_KERNEL_ARGS_H_
