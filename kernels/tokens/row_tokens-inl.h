// Dot products of several rows with the inputs of several tokens, layout
// [out][in]. Compiled once per target.
//
// A dot has the virtual shape of row_dot-inl.h, so each token's outputs equal
// those of a call with that token alone, bit for bit. Rows are walked in tiles,
// whose weights and inputs stay in L1 while every token uses them.
#if defined(RANKFORGE_KERNELS_TOKENS_ROW_TOKENS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_TOKENS_ROW_TOKENS_INL_H_
#undef RANKFORGE_KERNELS_TOKENS_ROW_TOKENS_INL_H_
#else
#define RANKFORGE_KERNELS_TOKENS_ROW_TOKENS_INL_H_
#endif

#include <algorithm>

#include "kernels/numbers/reduce-inl.h"
#include "kernels/tokens/column_tokens-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Blocks of a tile: 1 KiB of a row of bf16, 2 KiB of each input.
inline constexpr size_t kTileBlocks = 16;

// Rows whose sums are in registers at the same time, for so many tokens
// (NextHeld). With four tokens it is one row: g++ 12 reads inputs again for
// each row as operands of multiply-adds. For eight multiply-adds two rows and
// two tokens take 12 loads, one row and four tokens 9.
constexpr size_t HeldRows(size_t tokens) { return tokens <= 2 ? 2 : 1; }

// A pair of vectors (column_tokens-inl.h) of a block of one row times the same
// pair of one input: a part of BlockDot (row_dot-inl.h).
template <WeightType type, size_t low>
class PairDot {
 public:
  static constexpr size_t kSums = 2;

  explicit HWY_INLINE PairDot(const float* x)
      : x_{hn::LoadU(FloatTag(), x + low * LanesOf()),
           hn::LoadU(FloatTag(), x + (low + kPairDistance) * LanesOf())} {}
  HWY_INLINE void Add(const Vec (&w)[2], Vec /*scale*/, Vec /*minimum*/,
                      Vec* HWY_RESTRICT sum) const {
    sum[0] = hn::MulAdd(w[0], x_[0], sum[0]);
    sum[1] = hn::MulAdd(w[1], x_[1], sum[1]);
  }

 private:
  Vec x_[2];
};

template <WeightType type, size_t low>
requires(kNibbles<type>) class PairDot<type, low> {
 public:
  static constexpr size_t kSums = 1;

  explicit HWY_INLINE PairDot(const float* x) {
    const FloatTag d;
    const Vec first = hn::LoadU(d, x + low * LanesOf());
    const Vec second = hn::LoadU(d, x + (low + kPairDistance) * LanesOf());
    x_[0] = Rescale<type, low, -1>(first);
    x_[1] = Rescale<type, low + kPairDistance, -1>(second);
    both_ = hn::Add(first, second);
    if constexpr (!kMinimums<type>) {
      both_ = hn::Mul(hn::Set(d, -float{kNibbleZero}), both_);
    }
  }
  HWY_INLINE void Add(const Vec (&w)[2], Vec scale, Vec minimum,
                      Vec* HWY_RESTRICT sum) const {
    const Vec one =
        kMinimums<type> ? hn::Mul(w[0], x_[0]) : hn::MulAdd(w[0], x_[0], both_);
    sum[0] = hn::MulAdd(hn::MulAdd(w[1], x_[1], one), scale, sum[0]);
    if constexpr (kMinimums<type>) {
      sum[0] = hn::MulAdd(both_, minimum, sum[0]);
    }
  }

 private:
  Vec x_[2], both_;  // as in BlockDot
};

// The pair of weights of a block as PairDot takes them.
template <WeightType type, size_t low>
HWY_INLINE void LoadPair(const std::byte* block, Vec scale, Vec (&w)[2]) {
  w[0] = Weights<type>::template Load<low>(block);
  w[1] = Weights<type>::template Load<low + kPairDistance>(block);
  // Exact, as in BlockDot.
  if constexpr (FormatOf(type).scaling == Scaling::kGroup && !kNibbles<type>) {
    w[0] = hn::Mul(w[0], scale);
    w[1] = hn::Mul(w[1], scale);
  }
}

// The vectors of partial sums of one dot.
template <WeightType type>
inline constexpr size_t kDotVectors = kPairDistance* PairDot<type, 0>::kSums;

// Blocks of a pass, and where their inputs lie.
struct RowTile {
  size_t begin;
  size_t end;
  const float* x;  // x_t of block `begin` is at x + t * x_stride
  size_t x_stride;
};

// The rows of a pass and all inputs.
template <size_t rows>
struct TokenRows {
  const std::byte* row[rows];
  const std::byte* next[rows];
  size_t count;
  size_t tokens;
  const float* x;
  size_t x_stride;
  size_t blocks;        // whole blocks of an input
  const float* tail;    // (tokens, kBlock): one more block; null: none
  GroupOffsets groups;  // of a row's first weight

  // The tile at block `begin`. No tile mixes whole blocks and the last one,
  // whose inputs lie elsewhere.
  HWY_INLINE RowTile TileFrom(size_t begin) const {
    if (begin == blocks) return {begin, begin + 1, tail, kBlock};
    return {begin, std::min(begin + kTileBlocks, blocks), x + begin * kBlock,
            x_stride};
  }
};

// Multiplies the pair from `low` on of each block of held rows by held inputs
// and adds the products to their partial sums. Sums of neighbouring dots of a
// row lie `dot_stride` apart, those of neighbouring rows `row_stride`.
// `fetched[r]` is fetched while row[r] is read.
template <WeightType type, size_t tokens, size_t low, Prefetch prefetch,
          class Scale, class Minimum>
HWY_INLINE void AddTile(const std::byte* const* row,
                        const std::byte* const* fetched, const RowTile& tile,
                        Scale scale, Minimum minimum, Vec* HWY_RESTRICT partial,
                        size_t dot_stride, size_t row_stride) {
  constexpr size_t kBytes = BlockBytes(type);
  constexpr size_t kSums = PairDot<type, low>::kSums;
  // Of a dot, sum s belongs to vector low + s * kPairDistance.
  const auto at = [&](size_t r, size_t t, size_t s) RANKFORGE_LAMBDA -> Vec& {
    return partial[r * row_stride + t * dot_stride + low + s * kPairDistance];
  };
  constexpr size_t kHeldRows = HeldRows(tokens);
  Vec sum[kHeldRows][tokens][kSums];
  Unroll<kHeldRows>([&](auto r) RANKFORGE_LAMBDA {
    Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
      Unroll<kSums>([&](auto s)
                        RANKFORGE_LAMBDA { sum[r][t][s] = at(r, t, s); });
    });
  });
  const float* x = tile.x;
  for (size_t block = tile.begin; block < tile.end; ++block, x += kBlock) {
    Vec w[kHeldRows][2];
    Unroll<kHeldRows>([&](auto r) RANKFORGE_LAMBDA {
      // Once for all pairs of the block.
      if constexpr (low == 0) {
        FetchBlock<prefetch, kBytes>(fetched[r] + block * kBytes);
      }
      LoadPair<type, low>(row[r] + block * kBytes, scale(r, block), w[r]);
    });
    Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
      const PairDot<type, low> dot(x + t * tile.x_stride);
      Unroll<kHeldRows>([&](auto r) RANKFORGE_LAMBDA {
        dot.Add(w[r], scale(r, block), minimum(r, block), sum[r][t]);
      });
    });
  }
  Unroll<kHeldRows>([&](auto r) RANKFORGE_LAMBDA {
    Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
      Unroll<kSums>([&](auto s)
                        RANKFORGE_LAMBDA { at(r, t, s) = sum[r][t][s]; });
    });
  });
}

// sums (rows, kMostTokens): row[r] . x_t. The scale of a row is the caller's.
template <WeightType type, size_t rows, Prefetch prefetch>
HWY_NOINLINE void RowTokensPass(const TokenRows<rows>& in,
                                float* HWY_RESTRICT sums) {
  static_assert(rows % HeldRows(1) == 0);
  constexpr size_t kBytes = BlockBytes(type);
  constexpr size_t kVectors = kDotVectors<type>;
  GroupScales<type, rows> scales;
  const size_t all_blocks = in.blocks + (in.tail != nullptr);
  Vec partial[rows][kMostTokens][kVectors];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t t = 0; t < in.tokens; ++t) {
      for (Vec& vector : partial[r][t]) vector = hn::Zero(FloatTag());
    }
  }
  for (size_t begin = 0; begin < all_blocks;) {
    const RowTile tile = in.TileFrom(begin);
    scales.Advance(begin, all_blocks, in.row, in.next, in.groups, nullptr,
                   nullptr);
    // While a tile is used, the next one is fetched.
    const std::byte* fetched[rows];
    for (size_t r = 0; r < rows; ++r) {
      fetched[r] = begin + kTileBlocks < in.blocks
                       ? in.row[r] + kTileBlocks * kBytes
                       : in.next[r] - begin * kBytes;
    }
    const auto add_tokens = [&](auto tokens, size_t t) RANKFORGE_LAMBDA {
      const RowTile inputs = {begin, tile.end, tile.x + t * tile.x_stride,
                              tile.x_stride};
      for (size_t r = 0; r < in.count; r += HeldRows(tokens)) {
        const auto scale = [&](size_t held, size_t block) RANKFORGE_LAMBDA {
          return scales.Of(r + held, block);
        };
        const auto minimum = [&](size_t held, size_t block) RANKFORGE_LAMBDA {
          return scales.MinimumOf(r + held, block);
        };
        Unroll<kPairDistance>([&](auto low) RANKFORGE_LAMBDA {
          AddTile<type, tokens, low, prefetch>(
              in.row + r, fetched + r, inputs, scale, minimum, partial[r][t],
              kVectors, kMostTokens * kVectors);
        });
      }
    };
    for (size_t t = 0; t < in.tokens;) {
      const size_t held = NextHeld(in.tokens - t);
      Unroll<kHeldTokens>([&](auto i) RANKFORGE_LAMBDA {
        constexpr size_t kTokens = i + 1;
        if (held == kTokens) {
          add_tokens(std::integral_constant<size_t, kTokens>(), t);
        }
      });
      t += held;
    }
    begin = tile.end;
  }
  for (size_t r = 0; r < in.count; ++r) {
    for (size_t t = 0; t < in.tokens; ++t) {
      sums[r * kMostTokens + t] = ReduceBlock(partial[r][t]);
    }
  }
}

// Whether token `t` keeps channel `i` of the union.
inline bool TokenKeeps(const MaskView& mask, size_t t, size_t i) {
  return (mask.bits[t * mask.bits_stride + i / 64] >> (i % 64) & 1) != 0;
}

template <size_t rows>
using RowTokensPassFn = void (*)(const TokenRows<rows>& in, float* sums);

// Runs `pass` over the rows of a call; `groups` is of a row's first weight.
// Independent of the type, so that it is compiled once.
template <size_t rows>
HWY_NOINLINE void ForEachTokenRows(const KernelArgs& args, bool is_dense,
                                   const GroupOffsets& groups,
                                   RowTokensPassFn<rows> pass) {
  const std::byte* const w =
      static_cast<const std::byte*>(args.w) - groups.scale;
  // Inputs need not be padded: their last, partial blocks are copied.
  HWY_ALIGN float tail[kMostTokens][kBlock] = {};
  const size_t blocks = args.cols / kBlock;
  const size_t rest = args.cols % kBlock;
  CopyOutputs(args.x + blocks * kBlock, args.x_stride, args.tokens, rest,
              tail[0], kBlock);
  if (!is_dense && !args.accumulate) {
    for (size_t t = 0; t < args.tokens; ++t) {
      float* const y = args.y + t * args.y_stride;
      std::fill(y + args.row_begin, y + args.row_end, 0.0f);
    }
  }
  TokenRows<rows> in;
  in.tokens = args.tokens;
  in.x = args.x;
  in.x_stride = args.x_stride;
  in.blocks = blocks;
  in.tail = rest == 0 ? nullptr : tail[0];
  in.groups = groups;
  const size_t entries =
      is_dense ? args.row_end - args.row_begin : args.mask.kept;
  const auto position = [&](size_t entry) {
    return is_dense ? args.row_begin + entry : args.mask.index[entry];
  };
  for (size_t begin = 0; begin < entries; begin += rows) {
    in.count = std::min(rows, entries - begin);
    for (size_t r = 0; r < rows; ++r) {
      const size_t here = begin + (r < in.count ? r : 0);
      const size_t ahead = begin + rows + r;
      in.row[r] = w + position(here) * args.stride;
      in.next[r] =
          ahead < entries ? w + position(ahead) * args.stride : in.row[r];
    }
    float sums[rows * kMostTokens];
    pass(in, sums);
    for (size_t r = 0; r < in.count; ++r) {
      const size_t row = position(begin + r);
      const float scale =
          args.run_scales == nullptr ? 1.0f : args.run_scales[row];
      for (size_t t = 0; t < args.tokens; ++t) {
        // With one token, the list is its mask.
        if (!is_dense && args.tokens > 1 && !TokenKeeps(args.mask, t, row)) {
          continue;
        }
        float& y = args.y[t * args.y_stride + row];
        const float start = args.accumulate        ? y
                            : args.bias != nullptr ? args.bias[row]
                                                   : 0.0f;
        y = start + sums[r * kMostTokens + t] * scale;
      }
    }
  }
}

template <VariantSpec spec>
void RowTokens(const KernelArgs& args) {
  ForEachTokenRows<spec.per_pass>(
      args, spec.form == MaskForm::kNone,
      GroupOffsetsOf(spec.type, args.cols, 0),
      &RowTokensPass<spec.type, spec.per_pass, spec.prefetch>);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_TOKENS_ROW_TOKENS_INL_H_
