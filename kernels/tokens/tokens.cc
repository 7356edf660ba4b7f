// The entries of Algorithm::kRowTokens and kColumnTokens, on every target.
#include "kernels/entries.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tokens/tokens.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Per-target headers follow Highway's own.
#include "kernels/entry_table-inl.h"
#include "kernels/tokens/column_tokens-inl.h"
#include "kernels/tokens/row_tokens-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

template <VariantSpec spec, class Shape>
struct TokensKernel {
  static void Run(const KernelArgs& args) {
    if constexpr (spec.algorithm == Algorithm::kRowTokens) {
      RowTokens<spec>(args);
    } else {
      ColumnTokens<spec>(args);
    }
  }
};

// No target below AVX2 has one: a second vector width takes a third of the time
// that this file takes to compile. The scalar reference computes several tokens
// there.
constexpr bool OfThisFile(const VariantSpec& spec) {
  return TakesTokens(spec) && HWY_NATIVE_FMA;
}

std::span<const KernelEntry> TokenEntriesOfTarget() {
  return MakeEntries<TokensKernel, DynamicShape, &OfThisFile>();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace rankforge
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankforge {

HWY_EXPORT(TokenEntriesOfTarget);
std::span<const KernelEntry> TokenEntries() {
  return HWY_DYNAMIC_DISPATCH(TokenEntriesOfTarget)();
}

}  // namespace rankforge
#endif  // HWY_ONCE
