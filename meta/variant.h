// What a kernel variant is: a structural type, so that it can be a template
// parameter, and the name that is computed from it. Names are never typed by
// hand; they are what a dispatch table stores.
#ifndef RANKFORGE_META_VARIANT_H_
#define RANKFORGE_META_VARIANT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "meta/types.h"

namespace rankforge {

// kRowDot       dot products of `rows` rows at once, layout [out][in].
// kColumnBatch  `columns` columns a pass over y, layout [in][out].
// kPanel        a panel of y stays in registers over all columns.
// kRoundedDot, kRoundedColumns
//               as kRowDot and kColumnBatch, of integer weights with inputs
//               rounded to 8 bits: multiplied and added as integers. Row dots
//               also of bf16 weights with inputs rounded to bf16.
// kRowTokens, kColumnTokens  the first two for several inputs, which share
//               each weight; `rows` and `columns` come from memory together.
enum class Algorithm : uint8_t {
  kRowDot,
  kColumnBatch,
  kPanel,
  kRoundedDot,
  kRoundedColumns,
  kRowTokens,
  kColumnTokens
};

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

// What is fetched ahead of its use.
//   kNextL2, kNextL1  the same offset of the rows or columns of the next pass
//   kHeads            the first cache lines of those
//   kAhead            into L1: the same rows or columns a few lines further on,
//                     and near their end the first lines of the next pass
//   kFar              the same, further on: the code of kAhead, told another
//                     distance
enum class Prefetch : uint8_t { kNone, kNextL2, kNextL1, kHeads, kAhead, kFar };

// Bytes between use and fetch that calls of such a variant bring
// (KernelArgs::ahead). In lines: on a shared Zen 3 core with 8 columns a pass,
// density .52, 1 line .89 of the read bandwidth, 4 .93, 6 .90, 8 .91, the whole
// next pass (kNextL2) .82; density .32 on 11008 outputs .74, .90, .91, .82,
// .69. On two cores of a Xeon with AVX-512 and 480 MiB of L3, whose memory
// answers later, 16 lines did 1.04 to 1.14 times as much as 6 in rows of bf16
// and i8 and 1.06 to 1.17 times in rows of i4, 32 less again; in columns, which
// are eight at once, 1.00 (.94 to 1.05): those have no variant of it.
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
  uint8_t per_pass;     // rows (kRowDot) or columns (others) per pass
  uint8_t panel;        // outputs a panel holds (kPanel), else 0
  Prefetch prefetch;

  constexpr bool operator==(const VariantSpec&) const = default;
};

// Whether calls bring several tokens (KernelArgs::tokens).
constexpr bool TakesTokens(const VariantSpec& spec) {
  return spec.algorithm == Algorithm::kRowTokens ||
         spec.algorithm == Algorithm::kColumnTokens;
}

// Whether an entry of this spec can run on this layout.
constexpr bool Accepts(const VariantSpec& spec, Layout layout) {
  switch (spec.algorithm) {
    case Algorithm::kRowDot:
    case Algorithm::kRoundedDot:
    case Algorithm::kRowTokens:
      return layout == Layout::kOutIn;
    case Algorithm::kColumnBatch:
    case Algorithm::kRoundedColumns:
    case Algorithm::kColumnTokens:
      return layout == Layout::kInOut;
    case Algorithm::kPanel:
      return PanelWidth(layout) == spec.panel;
  }
  return false;
}

// Whether an entry of this spec computes with inputs rounded to 8 bits or to
// bf16: other results than those of the weights' type alone.
constexpr bool RoundsInput(const VariantSpec& spec) {
  return spec.algorithm == Algorithm::kRoundedDot ||
         spec.algorithm == Algorithm::kRoundedColumns;
}

// A string that can be built at compile time and kept in a constexpr array.
struct VariantName {
  std::array<char, 64> chars{};
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
  constexpr std::array<std::string_view, 5> kNames = {"dense", "list", "bitset",
                                                      "zeroed", "prefix"};
  return kNames[static_cast<size_t>(form)];
}

constexpr std::string_view Name(Prefetch prefetch) {
  constexpr std::array<std::string_view, 6> kNames = {"none",  "l2",    "l1",
                                                      "heads", "ahead", "far"};
  return kNames[static_cast<size_t>(prefetch)];
}

// For example "column_mask_bf16_columns8_list_g1_l2",
// "dense_f32_panel64_4_none".
constexpr VariantName NameOf(const VariantSpec& spec) {
  VariantName name;
  name.Append(Name(spec.operation));
  name.Append("_");
  name.Append(Name(spec.type));
  switch (spec.algorithm) {
    case Algorithm::kRowDot:
      name.Append("_rows");
      break;
    case Algorithm::kRoundedDot:
      name.Append("_rounded_rows");
      break;
    case Algorithm::kColumnBatch:
      name.Append("_columns");
      break;
    case Algorithm::kRoundedColumns:
      name.Append("_rounded_columns");
      break;
    case Algorithm::kPanel:
      name.Append("_panel");
      name.AppendNumber(spec.panel);
      name.Append("_");
      break;
    case Algorithm::kRowTokens:
      name.Append("_token_rows");
      break;
    case Algorithm::kColumnTokens:
      name.Append("_token_columns");
      break;
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

// FNV-1a over a string; identifies a spec, a registry or a header, and is no
// protection against an adversary.
constexpr uint64_t HashOf(std::string_view text,
                          uint64_t hash = 0xcbf29ce484222325u) {
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace rankforge

#endif  // RANKFORGE_META_VARIANT_H_
