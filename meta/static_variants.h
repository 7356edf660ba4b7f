// Which variants a plug-in has for one shape, and what such a unit of a plug-in
// is.
#ifndef RANKFORGE_META_STATIC_VARIANTS_H_
#define RANKFORGE_META_STATIC_VARIANTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "meta/types.h"
#include "meta/variant.h"
#include "meta/variants.h"

namespace rankforge {

struct StaticVariant {
  Algorithm algorithm;
  MaskForm form;
  uint8_t per_pass;
  Prefetch prefetch;
};

// The default of each operation, layout and mask form, and a few that tuned
// tables took on Zen 3 (a judgement, not a measurement). A unit holds those
// that its operation, type and granularity have. It takes seconds to compile
// because this list is short.
inline constexpr std::array kStaticVariants = {
    // clang-format off
    StaticVariant{Algorithm::kRowDot, MaskForm::kNone, 4, Prefetch::kAhead},
    StaticVariant{Algorithm::kRowDot, MaskForm::kNone, 2, Prefetch::kAhead},
    StaticVariant{Algorithm::kRowDot, MaskForm::kNone, 4, Prefetch::kNone},
    StaticVariant{Algorithm::kRowDot, MaskForm::kIndexList, 4, Prefetch::kAhead},
    StaticVariant{Algorithm::kRowDot, MaskForm::kIndexList, 2, Prefetch::kAhead},
    StaticVariant{Algorithm::kRowDot, MaskForm::kBitset, 4, Prefetch::kAhead},
    StaticVariant{Algorithm::kRowDot, MaskForm::kZeroed, 4, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kNone, 8, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kIndexList, 8, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kIndexList, 12, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kIndexList, 8, Prefetch::kNone},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kBitset, 8, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kZeroed, 8, Prefetch::kAhead},
    StaticVariant{Algorithm::kColumnBatch, MaskForm::kPrefix, 8, Prefetch::kAhead},
    StaticVariant{Algorithm::kPanel, MaskForm::kNone, 4, Prefetch::kNone},
    StaticVariant{Algorithm::kPanel, MaskForm::kIndexList, 4, Prefetch::kNone},
    // clang-format on
};

inline constexpr size_t kMaxStaticVariants = 24;
static_assert(kStaticVariants.size() <= kMaxStaticVariants);

// One shape, for one operation, type and granularity: what one file of a
// plug-in holds.
struct StaticUnit {
  Operation operation;
  WeightType type;
  size_t granularity;
  size_t rows;
  size_t cols;

  constexpr bool operator==(const StaticUnit&) const = default;
};

// The largest side of a shape for which names of variants, which end with it,
// have room.
inline constexpr size_t kMaxStaticSide = 9'999'999;

// The unit of these names, as generated units spell it.
consteval StaticUnit UnitOf(std::string_view operation, std::string_view type,
                            size_t granularity, size_t rows, size_t cols) {
  return {FromName(kOperations, operation).value(),
          FromName(kWeightTypes, type).value(), granularity, rows, cols};
}

// Whether `unit` holds the entry of `spec`.
constexpr bool Holds(const StaticUnit& unit, const VariantSpec& spec) {
  return spec.operation == unit.operation && spec.type == unit.type &&
         spec.granularity == unit.granularity &&
         std::any_of(kStaticVariants.begin(), kStaticVariants.end(),
                     [&](const StaticVariant& variant) {
                       return spec.algorithm == variant.algorithm &&
                              spec.form == variant.form &&
                              spec.per_pass == variant.per_pass &&
                              spec.prefetch == variant.prefetch;
                     });
}

// Entries of a unit.
constexpr size_t EntryCount(const StaticUnit& unit) {
  return static_cast<size_t>(std::count_if(
      kVariants.begin(), kVariants.end(),
      [&](const VariantSpec& spec) { return Holds(unit, spec); }));
}

}  // namespace rankforge

#endif  // RANKFORGE_META_STATIC_VARIANTS_H_
