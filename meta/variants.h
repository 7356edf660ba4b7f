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

inline constexpr std::array<uint8_t, 3> kPanels = {0, 64, 128};

// A family is the product of its axes; Allowed (meta/rules.h) filters it.
struct Family {
  Operation operation;
  Algorithm algorithm;
  MaskForm form;
  std::span<const WeightType> types;
  std::array<uint8_t, 4> granularities{};  // 0: unused place
  std::array<uint8_t, 8> per_passes{};
  std::array<Prefetch, 5> prefetches{};
  size_t prefetch_count = 0;

  // Panels are an axis of their algorithm alone; 0 stands for none.
  constexpr std::span<const uint8_t> panels() const {
    const std::span<const uint8_t> all(kPanels);
    return algorithm == Algorithm::kPanel ? all.subspan(1) : all.first(1);
  }
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

// Types whose kernels differ in the loads of weights alone share what was
// learnt: all axes are walked for bf16, the others have the combinations that
// won there, and one of each mask form.
inline constexpr std::span<const WeightType> kAll = kWeightTypes;
inline constexpr std::array kBf16 = {WeightType::kBf16};
inline constexpr std::array kFloats = {WeightType::kF32, WeightType::kBf16,
                                       WeightType::kF16};
inline constexpr std::array kIntegers = {
    WeightType::kI8, WeightType::kI8Group32, WeightType::kI4Group32,
    WeightType::kI4Group64};
inline constexpr std::array kRoundedDots = {
    WeightType::kI8, WeightType::kI8Group32, WeightType::kI4Group32,
    WeightType::kI4Group64, WeightType::kBf16};

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
    MakeFamily(Operation::kDense, Algorithm::kRoundedColumns, MaskForm::kNone,
               kIntegers, {1}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kRoundedColumns,
               MaskForm::kIndexList, kIntegers, {1, 8, 32}, {8}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kRoundedColumns,
               MaskForm::kBitset, kIntegers, {1}, {8}, {kAhead}),

    // Several tokens: one of each operation and layout.
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

// Calls visit(spec) for every combination of every family, in declared order.
template <class Visit>
constexpr void ForEachVariant(Visit visit) {
  for (const Family& family : kFamilies) {
    for (const WeightType type : family.types) {
      for (const uint8_t granularity : family.granularities) {
        for (const uint8_t panel : family.panels()) {
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
        }
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

// The first variant of its operation, type and layout is what runs untuned.
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

// The first variant of each mask form: with these, all code that is not a
// matter of a number has run.
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

// Every variant but those that NeedsNativeBf16 and, running the code of others,
// kFar is compiled for every target from AVX2 on; more would not pay for their
// build time and library size (docs/architecture.md).
inline constexpr size_t kMaxVariants = 390;
static_assert(kVariants.size() <= kMaxVariants);

constexpr bool AllNamesUnique(std::span<const VariantSpec> list) {
  for (size_t i = 0; i < list.size(); ++i) {
    for (size_t j = i + 1; j < list.size(); ++j) {
      if (list[i] == list[j]) return false;
    }
  }
  return true;
}
static_assert(AllNamesUnique(kVariants));

}  // namespace rankforge

#endif  // RANKFORGE_META_VARIANTS_H_
