// Several columns per pass over the outputs of several tokens, layout
// [in][out]. Compiled once per target.
//
// Every output is the FMA chain of column_batch-inl.h over the union of the
// columns. Where a token dropped a column it adds weight * 0, which leaves a
// sum as it is if the weight is finite (except that a sum of -0 may become +0):
// a token's outputs equal those of its own mask bit for bit. NaN and infinite
// weights of the union can make the outputs of all tokens of the call NaN, as
// in MaskForm::kZeroed. A last pass of fewer columns is filled up with its
// first column times 0.
#if defined(RANKFORGE_KERNELS_TOKENS_COLUMN_TOKENS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_TOKENS_COLUMN_TOKENS_INL_H_
#undef RANKFORGE_KERNELS_TOKENS_COLUMN_TOKENS_INL_H_
#else
#define RANKFORGE_KERNELS_TOKENS_COLUMN_TOKENS_INL_H_
#endif

#include <algorithm>

#include "kernels/gemv/column_batch-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Vectors v and v + kPairDistance of a block make a pair: they share the words
// of bf16 (meta/packing.h).
inline constexpr size_t kPairDistance = kBlockVectors / 2;

// The most tokens whose sums are in registers at the same time.
inline constexpr size_t kHeldTokens = 4;

// How many of the `left` tokens of a call are held next. One token is never
// held alone, unless it is the only one: its sums would wait for each other.
constexpr size_t NextHeld(size_t left) {
  return left == kHeldTokens + 1 ? kHeldTokens - 1
                                 : std::min(left, kHeldTokens);
}

// Pairs of outputs that are held for so many tokens: eight sums (four cycles of
// latency at two multiply-adds per cycle) to twelve, of 16 registers.
constexpr size_t HeldPairs(size_t tokens) {
  return std::min(kPairDistance, tokens < kHeldTokens ? size_t{2} : size_t{1});
}

// The columns of a pass.
template <size_t columns>
struct TokenColumns {
  const std::byte* column[columns];
  const std::byte* next[columns];
  size_t count;
  size_t tokens;
  // [token][column], times the scale of the column.
  float value[kMostTokens][columns];
};

// Copies `size` outputs of each token.
inline void CopyOutputs(const float* from, size_t from_stride, size_t tokens,
                        size_t size, float* to, size_t to_stride) {
  for (size_t t = 0; t < tokens; ++t) {
    std::copy_n(from + t * from_stride, size, to + t * to_stride);
  }
}

// The factors of the weights of each column, for each token.
template <WeightType type, size_t columns>
class TokenFactors {
 public:
  explicit HWY_INLINE TokenFactors(const TokenColumns<columns>& in)
      : value_(in.value[0]) {}
  // Call it for the blocks of a pass in turn.
  HWY_INLINE void Advance(const TokenColumns<columns>& /*in*/,
                          const ColumnRange& /*range*/,
                          size_t /*group_sums_stride*/, size_t /*block*/) {}
  // From a token on: [token][column].
  HWY_INLINE TokenFactors From(size_t first) const {
    TokenFactors factors = *this;
    factors.value_ += first * columns;
    return factors;
  }
  HWY_INLINE Vec Of(size_t token, size_t column, size_t /*block*/) const {
    return hn::Set(FloatTag(), value_[token * columns + column]);
  }

 private:
  const float* value_;
};

template <WeightType type, size_t columns>
requires(FormatOf(type).scaling ==
         Scaling::kGroup) class TokenFactors<type, columns> {
 public:
  explicit HWY_INLINE TokenFactors(const TokenColumns<columns>& /*in*/) {}
  HWY_INLINE void Advance(const TokenColumns<columns>& in,
                          const ColumnRange& range, size_t group_sums_stride,
                          size_t block) {
    const size_t blocks = RunWeights(range.size) / kBlock;
    for (size_t t = 0; t < in.tokens; ++t) {
      scales_[t].Advance(block, blocks, in.column, in.next, range.groups,
                         in.value[t],
                         range.group_sums == nullptr
                             ? nullptr
                             : range.group_sums + t * group_sums_stride);
    }
  }
  struct Rest {
    const GroupScales<type, columns>* scales;
    HWY_INLINE Vec Of(size_t token, size_t column, size_t block) const {
      return scales[token].Of(column, block);
    }
  };
  HWY_INLINE Rest From(size_t first) const { return {scales_ + first}; }

 private:
  GroupScales<type, columns> scales_[kMostTokens];
};

// y_t (kColumnStep,) += sum over c < count of a step of column c * factor, for
// tokens from `first` on, the step being at column[c] + block * BlockBytes.
//
// Not inlined: inlined into the pass, g++ 12 keeps the addresses of y on the
// stack. Unrolled, four tokens take 16 instructions per eight multiply-adds of
// a column; as a loop they take 19. Zen 3 starts six per cycle: in L3 that
// is 2.6 and 3.3 times the time of one token.
template <WeightType type, size_t tokens, size_t columns>
HWY_NOINLINE void AddStep(const std::byte* const* column, size_t block,
                          const TokenFactors<type, columns>& factors,
                          size_t first, float* HWY_RESTRICT y,
                          size_t y_stride) {
  const FloatTag d;
  constexpr size_t kPairs = HeldPairs(tokens);
  y += first * y_stride;
  const auto held = factors.From(first);
  const size_t end = block + kStepBlocks;
  for (; block < end; ++block, y += kBlock) {
    Unroll<kPairDistance / kPairs>([&](auto strip) RANKFORGE_LAMBDA {
      Vec sum[tokens][kPairs * 2];
      // body(index of a held vector, vector of the block)
      const auto each_vector = [&](auto body) RANKFORGE_LAMBDA {
        Unroll<kPairs>([&](auto p) RANKFORGE_LAMBDA {
          constexpr size_t kLow = strip * kPairs + p;
          body(std::integral_constant<size_t, p * 2>(),
               std::integral_constant<size_t, kLow>());
          body(std::integral_constant<size_t, p * 2 + 1>(),
               std::integral_constant<size_t, kLow + kPairDistance>());
        });
      };
      each_vector([&](auto i, auto v) RANKFORGE_LAMBDA {
        Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
          sum[t][i] = Rescale<type, v, 1>(
              hn::LoadU(d, y + t * y_stride + v * LanesOf()));
        });
      });
      UnrollRuns<columns>([&](auto c) RANKFORGE_LAMBDA {
        const std::byte* weights = column[c] + block * BlockBytes(type);
        each_vector([&](auto i, auto v) RANKFORGE_LAMBDA {
          const Vec w = Weights<type>::template Load<v>(weights);
          Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
            sum[t][i] = hn::MulAdd(w, held.Of(t, c, block), sum[t][i]);
          });
        });
      });
      each_vector([&](auto i, auto v) RANKFORGE_LAMBDA {
        Unroll<tokens>([&](auto t) RANKFORGE_LAMBDA {
          hn::StoreU(Rescale<type, v, -1>(sum[t][i]), d,
                     y + t * y_stride + v * LanesOf());
        });
      });
    });
  }
}

// y_t (size,) += sum over c < count of column[c] * value[t][c], in that order.
// `group_sums` (kMostTokens, stride) or null.
template <WeightType type, size_t columns, Prefetch prefetch>
HWY_NOINLINE void ColumnTokensPass(const TokenColumns<columns>& in,
                                   const ColumnRange& range,
                                   size_t group_sums_stride,
                                   float* HWY_RESTRICT y, size_t y_stride) {
  constexpr decltype(&AddStep<type, 1, columns>) kAddStep[kHeldTokens] = {
      AddStep<type, 1, columns>, AddStep<type, 2, columns>,
      AddStep<type, 3, columns>, AddStep<type, 4, columns>};
  constexpr size_t kBytes = BlockBytes(type);
  TokenFactors<type, columns> factors(in);
  size_t block = 0;
  const FetchPlan fetches = PlanFetches<type, prefetch, kStepBlocks>(
      in.column, in.next, RunWeights(range.size) / kBlock, range.ahead);
  for (const auto& stretch : fetches.stretches) {
    for (; block < stretch.end; block += kStepBlocks) {
      for (size_t c = 0; c < columns; ++c) {
        FetchBlock<prefetch, kStepBlocks * kBytes>(
            stretch.streams[c] + block * kBytes + stretch.ahead);
      }
      factors.Advance(in, range, group_sums_stride, block);
      // Weights are padded to a step, y is not.
      HWY_ALIGN float padded[kMostTokens][kColumnStep];
      float* ys = y + block * kBlock;
      size_t stride = y_stride;
      const size_t size = range.size - block * kBlock;
      if (size < kColumnStep) {
        CopyOutputs(ys, y_stride, in.tokens, size, padded[0], kColumnStep);
        ys = padded[0];
        stride = kColumnStep;
      }
      for (size_t t = 0; t < in.tokens;) {
        const size_t held = NextHeld(in.tokens - t);
        kAddStep[held - 1](in.column, block, factors, t, ys, stride);
        t += held;
      }
      if (size < kColumnStep) {
        CopyOutputs(padded[0], kColumnStep, in.tokens, size, y + block * kBlock,
                    y_stride);
      }
    }
  }
}

template <size_t columns>
using ColumnTokensPassFn = void (*)(const TokenColumns<columns>& in,
                                    const ColumnRange& range,
                                    size_t group_sums_stride, float* y,
                                    size_t y_stride);

// Runs `pass` over the columns of a call. `first` is where the outputs begin in
// column 0. Independent of the type, so that it is compiled once.
template <size_t columns>
HWY_NOINLINE void ForEachTokenColumns(const KernelArgs& args, bool is_dense,
                                      const std::byte* first,
                                      const ColumnRange& range,
                                      size_t group_sums_stride,
                                      ColumnTokensPassFn<columns> pass) {
  const size_t kept = is_dense ? args.cols : args.mask.kept;
  const float* const value = is_dense ? args.x : args.mask.value;
  const size_t value_stride = is_dense ? args.x_stride : args.mask.value_stride;
  const auto position = [&](size_t entry) {
    return is_dense ? entry : args.mask.index[entry];
  };
  TokenColumns<columns> in;
  in.tokens = args.tokens;
  for (size_t begin = 0; begin < kept; begin += columns) {
    in.count = std::min(columns, kept - begin);
    for (size_t c = 0; c < columns; ++c) {
      const size_t here = begin + (c < in.count ? c : 0);
      const size_t ahead = begin + columns + c;
      in.column[c] = first + position(here) * args.stride;
      in.next[c] =
          ahead < kept ? first + position(ahead) * args.stride : in.column[c];
      const float scale =
          args.run_scales == nullptr ? 1.0f : args.run_scales[position(here)];
      for (size_t t = 0; t < args.tokens; ++t) {
        in.value[t][c] =
            c < in.count ? value[t * value_stride + here] * scale : 0.0f;
      }
    }
    pass(in, range, group_sums_stride, args.y + range.begin, args.y_stride);
  }
}

template <VariantSpec spec>
void ColumnTokens(const KernelArgs& args) {
  constexpr size_t kGroup = FormatOf(spec.type).group;
  // Outputs are walked in tiles, so that the sums of the groups of 4-bit types
  // fit into 34 KiB. A tile has room for all outputs of most layers.
  constexpr size_t kTile = kNibbles<spec.type> ? size_t{1} << 14 : ~size_t{0};
  KernelArgs token = args;
  for (size_t t = 0; t < args.tokens; ++t) {
    StartSums(token);
    token.y += args.y_stride;
  }
  for (size_t begin = args.row_begin; begin < args.row_end;) {
    const size_t size = std::min(kTile, args.row_end - begin);
    const size_t weights =
        ScaleBytes(spec.type, args.rows) + BlockBytes(spec.type, begin);
    ColumnRange range = {begin, size,
                         GroupOffsetsOf(spec.type, args.rows, begin), nullptr,
                         args.ahead};
    const auto add_columns = [&](size_t group_sums_stride) {
      ForEachTokenColumns<spec.per_pass>(
          args, spec.form == MaskForm::kNone,
          static_cast<const std::byte*>(args.w) + weights, range,
          group_sums_stride,
          &ColumnTokensPass<spec.type, spec.per_pass, spec.prefetch>);
    };
    if constexpr (kNibbles<spec.type>) {
      // Whole vectors of sums are written.
      constexpr size_t kSums = kTile / kGroup + kBlock;
      HWY_ALIGN float group_sums[kMostTokens][kSums];
      std::fill_n(group_sums[0], args.tokens * kSums, 0.0f);
      range.group_sums = group_sums[0];
      add_columns(kSums);
      for (size_t t = 0; t < args.tokens; ++t) {
        AddGroupSums<spec.type>(group_sums[t], size,
                                args.y + t * args.y_stride + begin);
      }
    } else {
      add_columns(0);
    }
    begin += size;
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_TOKENS_COLUMN_TOKENS_INL_H_
