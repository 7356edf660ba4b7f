// THE list of variants. The registry, the tests, the benchmarks, the generated
// list and the documentation follow from it; adding a variant is adding a
// number to an axis or a line to a family.
#ifndef RANKFORGE_META_VARIANTS_H_
#define RANKFORGE_META_VARIANTS_H_

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
  std::array<uint8_t, 4> granularities{};  // 0: unused place
  std::array<uint8_t, 8> batches{};
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
                            MaskForm form, std::array<uint8_t, 4> granularities,
                            std::array<uint8_t, 8> batches,
                            std::initializer_list<Prefetch> prefetches) {
  Family family{operation, algorithm, form, granularities, batches};
  for (const Prefetch prefetch : prefetches) {
    family.prefetches[family.prefetch_count++] = prefetch;
  }
  return family;
}

inline constexpr Prefetch kNone = Prefetch::kNone, kL2 = Prefetch::kNextL2,
                          kL1 = Prefetch::kNextL1, kHeads = Prefetch::kHeads,
                          kAhead = Prefetch::kAhead;

// The first family of an operation and layout begins with its default.
inline constexpr std::array kFamilies = {
    // clang-format off
    MakeFamily(Operation::kDense, Algorithm::kRowDot, MaskForm::kNone,
               {1}, {4, 1, 2, 8}, {kAhead, kNone, kL2}),
    MakeFamily(Operation::kDense, Algorithm::kColumnBatch, MaskForm::kNone,
               {1}, {8, 1, 2, 4, 12, 16}, {kAhead, kL2, kNone}),
    MakeFamily(Operation::kDense, Algorithm::kPanel, MaskForm::kNone,
               {1}, {4, 16}, {kNone, kL2}),

    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kIndexList,
               {1, 8, 32}, {4, 1, 2, 8}, {kAhead, kL2, kNone, kL1, kHeads}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kBitset,
               {1}, {2, 4}, {kAhead, kNone}),
    MakeFamily(Operation::kRowMask, Algorithm::kRowDot, MaskForm::kZeroed,
               {1}, {2, 4}, {kAhead, kNone}),

    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kIndexList,
               {1, 8, 32}, {8, 1, 2, 4, 12, 16},
               {kAhead, kL2, kNone, kL1, kHeads}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kBitset, {1}, {4, 8, 12}, {kAhead, kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kZeroed, {1}, {4, 8, 12, 16}, {kAhead, kL2}),
    MakeFamily(Operation::kColumnMask, Algorithm::kColumnBatch,
               MaskForm::kPrefix, {1}, {4, 8, 12}, {kAhead}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kIndexList,
               {1, 8, 32}, {4, 16}, {kL2, kNone}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kBitset,
               {1}, {4}, {kNone, kL2}),
    MakeFamily(Operation::kColumnMask, Algorithm::kPanel, MaskForm::kZeroed,
               {1}, {16}, {kNone, kL2}),
    // clang-format on
};

// Calls visit(spec) for every variant of the list, in declared order.
template <class Visit>
constexpr void ForEachVariant(Visit visit) {
  for (const Family& family : kFamilies) {
    for (const WeightType type : kWeightTypes) {
      for (const uint8_t granularity : family.granularities) {
        for (const uint8_t panel : family.panels()) {
          for (const uint8_t batch : family.batches) {
            for (size_t p = 0; p < family.prefetch_count; ++p) {
              const VariantSpec spec{family.operation,
                                     type,
                                     family.algorithm,
                                     family.form,
                                     granularity,
                                     batch,
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

constexpr size_t CountVariants() {
  size_t count = 0;
  ForEachVariant([&](const VariantSpec&) { ++count; });
  return count;
}

constexpr auto ListVariants() {
  std::array<VariantSpec, CountVariants()> list{};
  size_t i = 0;
  ForEachVariant([&](const VariantSpec& spec) { list[i++] = spec; });
  return list;
}

}  // namespace internal

inline constexpr auto kVariants = internal::ListVariants();

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

// Every variant is compiled for every target from AVX2 on; more would not pay
// for their build time and library size (docs/architecture.md).
static_assert(kVariants.size() <= 300);

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
