// What a kernel variant is: a structural type, so that it can be a template
// parameter, and the name that is computed from it. Names are never typed by
// hand; they are what a dispatch table stores.
#ifndef RANKFORGE_META_VARIANT_H_
#define RANKFORGE_META_VARIANT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "meta/types.h"

namespace rankforge {

// kRowDot       dot products of several rows at once, layout [out][in]
// kColumnBatch  several columns per pass over y, layout [in][out]
// kPanel        a panel of y stays in registers over all columns
// kRoundedDot, kRoundedColumns
//               as kRowDot and kColumnBatch, with inputs rounded to 8 bits:
//               integer weights are multiplied and added as integers. Row dots
//               also of bf16 weights with inputs rounded to bf16.
// kRowTokens, kColumnTokens
//               as kRowDot and kColumnBatch for several inputs, which share
//               each weight
// kInterleaved  16 interleaved rows at once, an output per lane
// kRoundedInterleaved
//               the same with inputs rounded to 8 bits
enum class Algorithm : uint8_t {
  kRowDot,
  kColumnBatch,
  kPanel,
  kRoundedDot,
  kRoundedColumns,
  kRowTokens,
  kColumnTokens,
  kInterleaved,
  kRoundedInterleaved
};

struct AlgorithmFormat {
  Algorithm value;
  std::string_view name;         // in names of variants
  std::optional<Layout> layout;  // none: panels of VariantSpec::panel outputs
  bool rounds_input;
  bool takes_tokens;
};

// THE list of algorithms. Token kernels are for batches of the C ABI and for
// Model::Decode, where a plan of one token has one (GemvPlan::ForSeveral).
inline constexpr std::array<AlgorithmFormat, 9> kAlgorithmFormats = {{
    // clang-format off
  //                          name               layout        rounds tokens
  {Algorithm::kRowDot,         "rows",            Layout::kOutIn, false, false},
  {Algorithm::kColumnBatch,    "columns",         Layout::kInOut, false, false},
  {Algorithm::kPanel,          "panel",           std::nullopt,   false, false},
  {Algorithm::kRoundedDot,     "rounded_rows",    Layout::kOutIn, true,  false},
  {Algorithm::kRoundedColumns, "rounded_columns", Layout::kInOut, true,  false},
  {Algorithm::kRowTokens,      "token_rows",      Layout::kOutIn, false, true},
  {Algorithm::kColumnTokens,   "token_columns",   Layout::kInOut, false, true},
  {Algorithm::kInterleaved,    "interleaved",     Layout::kRows16, false, false},
  {Algorithm::kRoundedInterleaved,
                               "rounded_interleaved",
                                                  Layout::kRows16, true, false},
    // clang-format on
}};
static_assert(internal::InOrder(kAlgorithmFormats));

constexpr const AlgorithmFormat& FormatOf(Algorithm algorithm) {
  return kAlgorithmFormats[static_cast<size_t>(algorithm)];
}

// Tokens that one call takes at most.
inline constexpr size_t kMostTokens = 16;

// How the kernel learns which rows or columns take part.
//   kNone         dense: all of them
//   kIndexList    the compacted (index, value) list
//   kBitset       walks the set bits of a bitset
//   kZeroed       reads everything; dropped inputs are zero, dropped outputs
//                 are overwritten with zero
//   kPrefix       reads the first `MaskView::prefix` columns densely (dropped
//                 ones zeroed) and the rest by list
enum class MaskForm : uint8_t { kNone, kIndexList, kBitset, kZeroed, kPrefix };

inline constexpr std::array kMaskForms = {
    Named{MaskForm::kNone, "dense"},    Named{MaskForm::kIndexList, "list"},
    Named{MaskForm::kBitset, "bitset"}, Named{MaskForm::kZeroed, "zeroed"},
    Named{MaskForm::kPrefix, "prefix"},
};
static_assert(internal::InOrder(kMaskForms));

// What is fetched ahead of its use.
//   kNextL2, kNextL1  the same offset of the rows or columns of the next pass
//   kHeads            the first cache lines of those
//   kAhead            into L1: the same rows or columns a few lines further on,
//                     and near their end the first lines of the next pass
//   kFar              the code of kAhead, told a longer distance
enum class Prefetch : uint8_t { kNone, kNextL2, kNextL1, kHeads, kAhead, kFar };

inline constexpr std::array kPrefetches = {
    Named{Prefetch::kNone, "none"},   Named{Prefetch::kNextL2, "l2"},
    Named{Prefetch::kNextL1, "l1"},   Named{Prefetch::kHeads, "heads"},
    Named{Prefetch::kAhead, "ahead"}, Named{Prefetch::kFar, "far"},
};
static_assert(internal::InOrder(kPrefetches));

// Bytes between the use of weights and their fetch, which calls of such a
// variant hand over (KernelArgs::ahead).
//
// One shared Zen 3 core, 8 columns per pass, share of the read bandwidth:
//   lines ahead        1     4     6     8     whole next pass (kNextL2)
//   density 0.52       0.89  0.93  0.90  0.91  0.82
//   density 0.32       0.74  0.90  0.91  0.82  0.69   (11008 outputs)
// Two cores of a Xeon with AVX-512 and 480 MiB of L3, whose memory answers
// later: 16 lines are 1.04 to 1.14 times as fast as 6 in rows of bf16 and i8,
// 1.06 to 1.17 times in rows of i4; 32 lines gain less. In columns, of which
// eight are read at once, 16 lines gain nothing (0.94 to 1.05): columns have no
// variant of kFar.
constexpr size_t AheadBytes(Prefetch prefetch) {
  constexpr size_t kLine = 64;
  return (prefetch == Prefetch::kFar ? 16 : 6) * kLine;
}

struct VariantSpec {
  Operation operation;
  WeightType type;
  Algorithm algorithm;
  MaskForm form;
  uint8_t granularity;  // rows or columns covered by one mask bit
  uint8_t per_pass;     // rows or columns that one pass reads together
  uint8_t panel;        // outputs a panel holds (kPanel), else 0
  Prefetch prefetch;

  constexpr bool operator==(const VariantSpec&) const = default;
};

// Whether calls bring several tokens (KernelArgs::tokens).
constexpr bool TakesTokens(const VariantSpec& spec) {
  return FormatOf(spec.algorithm).takes_tokens;
}

// What an entry of this spec does to its inputs.
constexpr Activations ActivationsOf(const VariantSpec& spec) {
  if (!FormatOf(spec.algorithm).rounds_input) return Activations::kF32;
  return IsQuantized(spec.type) ? Activations::kI8 : Activations::kBf16;
}
constexpr bool RoundsInput(const VariantSpec& spec) {
  return ActivationsOf(spec) != Activations::kF32;
}

// Whether an entry of this spec can run on this layout. Of masked columns in
// several sums it computes one at a time, which is a part of the list.
constexpr bool Accepts(const VariantSpec& spec, Layout layout) {
  const std::optional<Layout> own = FormatOf(spec.algorithm).layout;
  if (SumsOf(layout) > 1) {
    return own == Layout::kInOut && spec.operation == Operation::kColumnMask &&
           spec.form == MaskForm::kIndexList && !TakesTokens(spec);
  }
  return own.has_value() ? layout == *own : PanelWidth(layout) == spec.panel;
}

// A string that can be built at compile time and kept in a constexpr array.
struct VariantName {
  std::array<char, 72> chars{};
  size_t size = 0;

  constexpr void Append(std::string_view text) {
    for (const char c : text) chars[size++] = c;
  }
  constexpr void AppendNumber(size_t number) {
    if (number >= 10) AppendNumber(number / 10);
    chars[size++] = static_cast<char>('0' + number % 10);
  }
  constexpr std::string_view view() const { return {chars.data(), size}; }
  constexpr const char* c_str() const { return chars.data(); }
};

constexpr std::string_view Name(MaskForm form) {
  return kMaskForms[static_cast<size_t>(form)].name;
}

constexpr std::string_view Name(Prefetch prefetch) {
  return kPrefetches[static_cast<size_t>(prefetch)].name;
}

// For example "column_mask_bf16_columns8_list_g1_l2",
// "dense_f32_panel64_4_none".
constexpr VariantName NameOf(const VariantSpec& spec) {
  VariantName name;
  name.Append(Name(spec.operation));
  name.Append("_");
  name.Append(Name(spec.type));
  name.Append("_");
  name.Append(FormatOf(spec.algorithm).name);
  if (spec.panel != 0) {
    name.AppendNumber(spec.panel);
    name.Append("_");
  }
  name.AppendNumber(spec.per_pass);
  if (spec.form != MaskForm::kNone) {
    name.Append("_");
    name.Append(Name(spec.form));
    name.Append("_g");
    name.AppendNumber(spec.granularity);
  }
  name.Append("_");
  name.Append(Name(spec.prefetch));
  return name;
}

// FNV-1a over a string. It identifies a spec, a registry or a header; it does
// not protect against an adversary.
constexpr uint64_t HashOf(std::string_view text,
                          uint64_t hash = 0xcbf29ce484222325u) {
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace rankforge

#endif  // RANKFORGE_META_VARIANT_H_
