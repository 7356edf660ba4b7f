// Turns the declared list of variants into the table of entries of one target.
// Compiled once per target.
#if defined(RANKFORGE_KERNELS_ENTRY_TABLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFORGE_KERNELS_ENTRY_TABLE_INL_H_
#undef RANKFORGE_KERNELS_ENTRY_TABLE_INL_H_
#else
#define RANKFORGE_KERNELS_ENTRY_TABLE_INL_H_
#endif

#include <array>
#include <span>
#include <utility>

#include "hwy/highway.h"
#include "kernels/registry.h"
#include "meta/build.h"
#include "meta/rules.h"
#include "meta/shape.h"
#include "meta/variants.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

// Targets below AVX2 carry only the defaults: they exist so that everything
// runs everywhere, and a CPU without any of them has the scalar reference.
constexpr bool CompiledHere(const VariantSpec& spec) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  return static_cast<void>(spec), false;
#elif HWY_TARGET == HWY_SSE4
  return IsDefault(spec);
#else
  return !kFewVariants || InFewVariants(spec);
#endif
}

// Whether entries of this target may round differently from the reference:
// without fused multiply-add every step rounds twice.
inline constexpr bool kReassociates = !HWY_NATIVE_FMA;

// The name of `spec` compiled for Shape.
template <class Shape>
constexpr VariantName EntryName(const VariantSpec& spec) {
  VariantName name = NameOf(spec);
  if constexpr (Shape::kRows != 0) {
    name.Append("_");
    name.AppendNumber(Shape::kRows);
    name.Append("x");
    name.AppendNumber(Shape::kCols);
  }
  return name;
}

template <VariantSpec spec, class Shape>
inline constexpr VariantName kEntryName = EntryName<Shape>(spec);

template <auto select>
constexpr bool SelectedHere(const VariantSpec& spec) {
  return select(spec) && !NeedsNativeBf16(spec) && CompiledHere(spec);
}

// The variant whose code runs `spec`.
constexpr VariantSpec CompiledAs(VariantSpec spec) {
  if (spec.prefetch == Prefetch::kFar) spec.prefetch = Prefetch::kAhead;
  return spec;
}

// Entries of `specs`, Kernel<spec, Shape>::Run being the function of each.
template <const auto& specs, template <VariantSpec, class> class Kernel,
          class Shape>
constexpr auto EntriesOf(const char* backend, const char* target) {
  return [=]<size_t... i>(std::index_sequence<i...>) {
    return std::array<KernelEntry, sizeof...(i)>{KernelEntry{
        specs[i], backend, target, kEntryName<specs[i], Shape>.c_str(),
        SpecHash(kEntryName<specs[i], Shape>.view()),
        &Kernel<CompiledAs(specs[i]), Shape>::Run, Shape::kRows, Shape::kCols,
        kReassociates}...};
  }
  (std::make_index_sequence<specs.size()>());
}

// Those of all variants that `select` picks.
template <template <VariantSpec, class> class Kernel, class Shape, auto select>
std::span<const KernelEntry> MakeEntries() {
  static constexpr auto kSpecs = Selected<&SelectedHere<select>>();
  static constexpr auto kEntries = EntriesOf<kSpecs, Kernel, Shape>("hwy", "");
  static const auto named = [] {
    auto entries = kEntries;
    for (KernelEntry& entry : entries) {
      entry.target = hwy::TargetName(HWY_TARGET);
    }
    return entries;
  }();
  return named;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#endif  // RANKFORGE_KERNELS_ENTRY_TABLE_INL_H_
