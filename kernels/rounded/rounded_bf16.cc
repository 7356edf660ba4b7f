// Row dots of bf16 weights with an x that is rounded to bf16, on AVX-512 with
// BF16. Its vdpbf16ps multiplies two neighbours by two others and adds both
// products to an f32 in one instruction: nothing is widened. Compiled with the
// flags of kernels/CMakeLists.txt.
//
// A dot has kColumnStep / 2 partial sums, one per word of two cache lines of
// weights, then one reduction tree. Each partial sum is a chain of vdpbf16ps
// over every second line: two chains per row, because a result takes about six
// cycles (Zen 4, Sapphire Rapids). Rows are padded to two lines, so that none
// has a remainder. docs/architecture.md has the arithmetic of the instruction.
#include "hwy/highway.h"

// Highway 1.0.3 has no target with BF16. This file extends its AVX3, under
// names of its own.
namespace hwy {
namespace N_AVX3_BF16 {
using namespace N_AVX3;  // NOLINT(google-build-using-namespace)
}  // namespace N_AVX3_BF16
}  // namespace hwy
#undef HWY_NAMESPACE
#define HWY_NAMESPACE N_AVX3_BF16

#include "kernels/entries.h"
#include "kernels/entry_table-inl.h"
#include "kernels/gemv/row_passes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rankforge {
namespace HWY_NAMESPACE {

using PairTag = hn::RebindToUnsigned<FloatTag>;
using Pairs = hn::Vec<PairTag>;

HWY_INLINE Pairs LoadPairs(const void* from) {
  return hn::Load(PairTag(), static_cast<const uint32_t*>(from));
}

// sums + the products of each pair. With the load that is two instructions per
// 32 weights; the exact row dot has four.
HWY_INLINE Vec AddProducts(Vec sums, Pairs x, Pairs w) {
  return Vec{_mm512_dpbf16_ps(sums.raw, reinterpret_cast<__m512bh>(x.raw),
                              reinterpret_cast<__m512bh>(w.raw))};
}

// sums (rows,) = row[i] . x. `next` are the rows of the next pass.
template <Prefetch prefetch>
struct Bf16Pass {
  template <size_t rows>
  static HWY_NOINLINE void Run(const std::byte* const* row,
                               const std::byte* const* next,
                               const RowInput& input,
                               float* HWY_RESTRICT sums) {
    constexpr WeightType kType = WeightType::kBf16;
    constexpr size_t kStep = kColumnStep / kBlock;
    static_assert(BlockBytes(kType) == sizeof(Pairs));
    const size_t blocks =
        RoundUp(input.blocks + (input.tail != nullptr), kStep);
    Vec partial[rows][kStep];
    for (size_t r = 0; r < rows; ++r) {
      for (size_t b = 0; b < kStep; ++b) partial[r][b] = hn::Zero(FloatTag());
    }
    const auto add_step = [&](size_t block, const std::byte* const* fetched,
                              ptrdiff_t ahead) RANKFORGE_LAMBDA {
      Unroll<kStep>([&](auto b) RANKFORGE_LAMBDA {
        const size_t at = (block + b) * sizeof(Pairs);
        const Pairs x =
            LoadPairs(input.rounded.pairs + (block + b) * LanesOf());
        Unroll<rows>([&](auto r) RANKFORGE_LAMBDA {
          FetchBlock<prefetch, kCacheLine>(fetched[r] + at + ahead);
          partial[r][b] = AddProducts(partial[r][b], x, LoadPairs(row[r] + at));
        });
      });
    };
    size_t block = 0;
    const FetchPlan fetches =
        PlanFetches<kType, prefetch, kStep>(row, next, blocks, input.ahead);
    for (const auto& stretch : fetches.stretches) {
      for (; block < stretch.end; block += kStep) {
        add_step(block, stretch.streams, stretch.ahead);
      }
    }
    ReduceRows(partial, sums);
  }
};

template <VariantSpec spec, class Shape>
struct Bf16Kernel {
  static void Run(const KernelArgs& args) {
    ForEachRowBatch<spec, Shape>(
        args, &RowPasses<Bf16Pass<spec.prefetch>, spec.per_pass>);
  }
};

inline constexpr auto kSpecs = Selected<&NeedsNativeBf16>();
inline constexpr auto kEntries =
    EntriesOf<kSpecs, Bf16Kernel, DynamicShape>("bf16", "AVX3");

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE

std::span<const KernelEntry> RoundedBf16Entries() {
  return N_AVX3_BF16::kEntries;
}

}  // namespace rankforge
HWY_AFTER_NAMESPACE();
