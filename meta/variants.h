// THE list of variants. The registry, the tests, the benchmarks, the generated
// list and the documentation follow from it; adding a variant is adding a
// number to an axis or a line to a family.
#ifndef RANKFORGE_META_VARIANTS_H_
#define RANKFORGE_META_VARIANTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "meta/rules.h"
#include "meta/types.h"
#include "meta/variant.h"

namespace rankforge {

// A family is the product of its axes; Allowed (meta/rules.h) filters it. Its
// algorithm adds the axis of panel widths, if it has one.
struct Family {
  Operation operation;
  Algorithm algorithm;
  MaskForm form;
  std::span<const WeightType> types;
  std::array<uint8_t, 4> granularities{};  // 0: unused place
  std::array<uint8_t, 8> per_passes{};
  std::array<Prefetch, 5> prefetches{};
  size_t prefetch_count = 0;
};

namespace internal {

constexpr Family MakeFamily(Operation operation, Algorithm algorithm,
                            MaskForm form, std::span<const WeightType> types,
                            std::array<uint8_t, 4> granularities,
                            std::array<uint8_t, 8> per_passes,
                            std::initializer_list<Prefetch> prefetches) {
  Family family{operation, algorithm, form, types, granularities, per_passes};
  for (const Prefetch prefetch : prefetches) {
    family.prefetches[family.prefetch_count++] = prefetch;
  }
  return family;
}

// The types that `select` picks.
template <auto select>
constexpr auto TypesThat() {
  std::array<WeightType,
             std::count_if(kWeightTypes.begin(), kWeightTypes.end(), select)>
      types{};
  std::copy_if(kWeightTypes.begin(), kWeightTypes.end(), types.begin(), select);
  return types;
}

// Kernels of different types differ only in how they load weights, so types
// share what was measured: bf16 has all axes, the others have the combinations
// that won there, and one of each mask form.
inline constexpr std::span<const WeightType> kAll = kWeightTypes;
inline constexpr std::array kBf16 = {WeightType::kBf16};
constexpr bool IsFloat(WeightType type) { return !IsQuantized(type); }
inline constexpr auto kFloats = TypesThat<&IsFloat>();
inline constexpr auto kIntegers = TypesThat<&IsQuantized>();
inline constexpr auto kRoundedDots = [] {
  std::array<WeightType, kIntegers.size() + 1> types{};
  *std::copy(kIntegers.begin(), kIntegers.end(), types.begin()) =
      WeightType::kBf16;
  return types;
}();

inline constexpr Prefetch kNone = Prefetch::kNone, kL2 = Prefetch::kNextL2,
                          kL1 = Prefetch::kNextL1, kHeads = Prefetch::kHeads,
                          kAhead = Prefetch::kAhead, kFar = Prefetch::kFar;

// The first family of an operation and layout begins with its default. A
// combination that two families hold counts once.
inline constexpr std::array kFamilies = {
    // clang-format off
    MakeFamily(Operation::kDense, Algorithm::kRowDot, MaskForm::kNone, kAll,
               {1}, {4, 2}, {kAhead, kNone}),
    MakeFamily(Operation::kDense, Algorithm::kRowDot, MaskForm::kNone, kAll,
               {1}, {4}, {kFar}),
    MakeFamily(Operation::kDense, Algorithm::kRowDot, MaskForm::kNone, kBf16,
               {1}, {2, 4, 8}, {kAhead, kNone, kL2}),
    MakeFamily(Operation::kDense, Algorithm::kColumnBatch, MaskForm::kNone,
               kAll, {1}, {8, 4}, {kAhead, kNone}),
    MakeFamily(Operation::kDense, Algorithm::kColumnBatch, MaskForm::kNone,
               kBf16, {1}, {4, 6, 8, 12}, {kAhead, kL2, kNone}),
    MakeFamily(Operation::kDense, Algorithm::kPanel, MaskForm::kNone, kFloats,
               {1}, {4}, {kNone}),
    MakeFamily(Operation::kDense, Algorithm::kPanel, MaskForm::kNone, kBf16,
               {1}, {16}, {kL2}),

    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kIndexList,
               kAll, {1, 8, 32}, {4}, {kAhead, kNone}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kIndexList,
               kAll, {1}, {2}, {kAhead, kNone}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kIndexList,
               kAll, {1}, {4}, {kFar}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kIndexList,
               kBf16, {1, 8, 32}, {4, 8},
               {kAhead, kL2, kNone, kL1, kHeads}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kBitset,
               kAll, {1}, {4}, {kAhead}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kZeroed,
               kAll, {1}, {4}, {kAhead}),

    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kIndexList, kAll, {1, 8, 32}, {8}, {kAhead, kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kIndexList, kAll, {1}, {4}, {kAhead, kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kIndexList, kBf16,
               {1}, {4, 6, 8, 12, 16},
               {kAhead, kL2, kNone, kL1, kHeads}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kBitset, kAll, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kZeroed, kAll, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kPrefix, kAll, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kIndexList,
               kFloats, {1}, {4}, {kL2, kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kIndexList,
               kBf16, {1}, {16}, {kL2}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kIndexList,
               kBf16, {8, 32}, {4}, {kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kBitset,
               kFloats, {1}, {4}, {kL2}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kZeroed,
               kFloats, {1}, {16}, {kNone}),

    MakeFamily(Operation::kDense, Algorithm::kRoundedDot, MaskForm::kNone,
               kRoundedDots, {1}, {4, 2}, {kAhead, kNone}),
    MakeFamily(Operation::kDense, Algorithm::kRoundedDot, MaskForm::kNone,
               kRoundedDots, {1}, {4}, {kFar}),
    MakeFamily(Operation::kRowMask, Algorithm::kRoundedDot,
               MaskForm::kIndexList, kRoundedDots, {1, 8, 32}, {4}, {kAhead}),
    MakeFamily(Operation::kRowMask, Algorithm::kRoundedDot,
               MaskForm::kIndexList, kRoundedDots, {1}, {4}, {kFar}),
    MakeFamily(Operation::kRowMask, Algorithm::kRoundedDot, MaskForm::kBitset,
               kRoundedDots, {1}, {4}, {kAhead}),
    MakeFamily(Operation::kRowMask, Algorithm::kRoundedDot, MaskForm::kZeroed,
               kRoundedDots, {1}, {4}, {kAhead}),
    // Columns round another thing (rounded_columns-inl.h) than rows, so that
    // dense products, which both could compute, have no rounded columns.
    MakeFamily(Operation::kColumnMask, Algorithm::kRoundedColumns,
               MaskForm::kIndexList, kIntegers, {1, 8, 32}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kRoundedColumns,
               MaskForm::kBitset, kIntegers, {1}, {8}, {kAhead}),

    // `rankforge tune` of SmolLM2, 4 bits, one thread of a Xeon with VNNI: rows
    // of 576, short for row dots, take 0.63 to 0.76 of the time of rounded row
    // dots. It takes kFar for half of the shapes.
    MakeFamily(Operation::kDense, Algorithm::kInterleaved, MaskForm::kNone,
               kIntegers, {1}, {1}, {kAhead}),
    MakeFamily(Operation::kDense, Algorithm::kRoundedInterleaved,
               MaskForm::kNone, kIntegers, {1}, {1}, {kAhead, kFar}),

    // Several tokens: one variant of each operation and layout.
    MakeFamily(Operation::kDense, Algorithm::kRowTokens, MaskForm::kNone, kAll,
               {1}, {8}, {kAhead}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowTokens,
               MaskForm::kIndexList, kAll, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kDense, Algorithm::kColumnTokens, MaskForm::kNone,
               kAll, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnTokens,
               MaskForm::kIndexList, kAll, {1}, {8}, {kAhead}),
    // clang-format on
};

// The widths of panels that `algorithm` has variants for; 0 stands for none.
template <class Visit>
constexpr void ForEachPanel(Algorithm algorithm, Visit visit) {
  for (const LayoutFormat& layout : kLayoutFormats) {
    const bool is_panel = layout.panel_width != 0;
    const bool runs_here = FormatOf(algorithm).layout.has_value()
                               ? layout.value == FormatOf(algorithm).layout
                               : is_panel;
    if (runs_here) visit(static_cast<uint8_t>(layout.panel_width));
  }
}

// Calls visit(spec) for every combination of every family, in declared order.
template <class Visit>
constexpr void ForEachVariant(Visit visit) {
  for (const Family& family : kFamilies) {
    for (const WeightType type : family.types) {
      for (const uint8_t granularity : family.granularities) {
        ForEachPanel(family.algorithm, [&](uint8_t panel) {
          for (const uint8_t per_pass : family.per_passes) {
            for (size_t p = 0; p < family.prefetch_count; ++p) {
              const VariantSpec spec{family.operation,
                                     type,
                                     family.algorithm,
                                     family.form,
                                     granularity,
                                     per_pass,
                                     panel,
                                     family.prefetches[p]};
              if (Allowed(spec)) visit(spec);
            }
          }
        });
      }
    }
  }
}

struct VariantList {
  std::array<VariantSpec, 512> specs{};
  size_t size = 0;

  constexpr std::span<const VariantSpec> listed() const {
    return std::span(specs).first(size);
  }
  constexpr void AddOnce(const VariantSpec& added) {
    for (const VariantSpec& spec : listed()) {
      if (spec == added) return;
    }
    specs[size++] = added;
  }
};

constexpr VariantList ListOnce() {
  VariantList list;
  ForEachVariant([&](const VariantSpec& spec) { list.AddOnce(spec); });
  return list;
}

constexpr auto ListVariants() {
  constexpr VariantList kList = ListOnce();
  std::array<VariantSpec, kList.size> list{};
  std::copy_n(kList.specs.begin(), kList.size, list.begin());
  return list;
}

}  // namespace internal

inline constexpr auto kVariants = internal::ListVariants();

// The variants that `select` picks, in declared order.
template <auto select>
constexpr auto Selected() {
  constexpr auto kCount = static_cast<size_t>(
      std::count_if(kVariants.begin(), kVariants.end(), select));
  std::array<VariantSpec, kCount> selected{};
  std::copy_if(kVariants.begin(), kVariants.end(), selected.begin(), select);
  return selected;
}

// Whether `spec` is the first of its operation, type and layout, which is what
// runs untuned.
constexpr bool IsDefault(const VariantSpec& spec) {
  for (const VariantSpec& other : kVariants) {
    if (other.operation == spec.operation && other.type == spec.type &&
        other.algorithm == spec.algorithm && other.panel == spec.panel &&
        other.granularity == spec.granularity) {
      return other == spec;
    }
  }
  return false;
}

// Whether `spec` is the first of its mask form. These variants together run all
// code that does not depend on a number.
constexpr bool IsFirstOfForm(const VariantSpec& spec) {
  for (const VariantSpec& other : kVariants) {
    if (other.operation == spec.operation && other.type == spec.type &&
        other.algorithm == spec.algorithm && other.panel == spec.panel &&
        other.granularity == spec.granularity && other.form == spec.form) {
      return other == spec;
    }
  }
  return false;
}

// What products of this operation and type do to their inputs where `asked` is
// asked for: that, where there are kernels for it, else nothing. Columns of
// bf16 weights are never multiplied by rounded inputs.
constexpr Activations ActivationsFor(Operation operation, WeightType type,
                                     Activations asked) {
  for (const VariantSpec& spec : kVariants) {
    if (spec.operation == operation && spec.type == type &&
        ActivationsOf(spec) == asked) {
      return asked;
    }
  }
  return Activations::kF32;
}

// What builds with kFewVariants (meta/build.h) hold: one variant of each mask
// form; of types other than bf16 none with groups; for tokens one type of each
// scaling and one with minimums. The whole list takes hours to compile
// instrumented, and all types of the token kernels take three minutes.
constexpr bool InFewVariants(const VariantSpec& spec) {
  if (TakesTokens(spec) && spec.type != WeightType::kBf16 &&
      spec.type != WeightType::kI8 && spec.type != WeightType::kI4Group32 &&
      spec.type != WeightType::kI4mGroup32) {
    return false;
  }
  return IsFirstOfForm(spec) &&
         (spec.type == WeightType::kBf16 || spec.granularity == 1);
}

// Every target from AVX2 on compiles all variants, except that those that
// NeedsNativeBf16 are compiled in one unit of their own and those of kFar run
// the code of others. More would not pay for their build time and library size
// (docs/architecture.md).
inline constexpr size_t kMaxVariants = 440;
static_assert(kVariants.size() <= kMaxVariants);

// Whether no two variants have the same name. Hashes of the names are compared:
// tables know variants by them, so two equal hashes would be an error as well.
constexpr bool AllNamesUnique(std::span<const VariantSpec> list) {
  std::array<uint64_t, kMaxVariants> room{};
  const auto hashes = std::span(room).first(list.size());
  std::transform(
      list.begin(), list.end(), hashes.begin(),
      [](const VariantSpec& spec) { return HashOf(NameOf(spec).view()); });
  std::sort(hashes.begin(), hashes.end());
  return std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end();
}
static_assert(AllNamesUnique(kVariants));

}  // namespace rankforge

#endif  // RANKFORGE_META_VARIANTS_H_
